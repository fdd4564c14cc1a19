"""A user's script, for type checkers alone: optimizer, schedule, solver, pruning."""

import jax
import jax.numpy as jnp
import optax

import bilevel
import optim

tx: optax.GradientTransformation = optim.adamp(
    optim.rex_schedule(1e-2, decay_steps=100), weight_decay=1e-2, mask=optim.is_hidden_matrix
)
params = {"kernel": jnp.ones((3, 2))}
state = tx.init(params)
updates, state = tx.update(params, state, params)
small: int = optim.state_bytes(optim.frugal(1e-3, density=0.25), params)
other = optim.lion_k(1e-3, optim.kappas.spectral(), weight_decay=0.1)

problem = bilevel.Problem(
    upper=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
    lower=lambda x, y, batch: jnp.sum((y - x) ** 2),
    project_x=bilevel.projections.box(-1, 1),
)
solver: bilevel.Solver = bilevel.implicit("cg", upper_step=0.1, lower_step=0.5)
solution = bilevel.solve(problem, solver, jnp.zeros(2), jnp.zeros(2), steps=10)
last: float = float(solution.metrics["upper"][-1])
found: bilevel.Recommendation = bilevel.recommend(problem, jnp.zeros(2), jnp.zeros(2))

bip = bilevel.bip(optax.sgd(0.1), 1.0, density=0.5)
masked = bip.init(bilevel.pruning.problem(lambda p, batch: jnp.sum(p["kernel"])), None, params)
step = jax.jit(bip.step)
