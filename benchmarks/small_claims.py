r"""Claims of small size: separation by large steps, EF21's longer step, decay and its minimizer.

    python -m benchmarks.small_claims --out=results/small/claims.json

**Separation** of n - 1 points (1, .5) and one (-.5, .1), from 0: steps of gradient descent with
step 100 and of its normalized form with steps 10 and 100. **EF21** on 19 clients with constant 1
and one with 100, Top-1 of five numbers: step sizes of both forms, and the gradient after 30 and 100
steps. **Decay** of .3 on |x - c|^2 / 2: where plain and cautious decay end. Float64, no seeds.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from benchmarks import _report
from experiments.common import markdown


def separation(n: int) -> dict[str, int]:
    """Steps until all points are on their side."""
    x = np.array([[1.0, 0.5]] * (n - 1) + [[-0.5, 0.1]])

    def count(gradient, gamma):
        def wrong(carry):
            return jnp.any(x @ carry[0] <= 0)

        def step(carry):
            return carry[0] - gamma * gradient(carry[0]), carry[1] + 1

        return int(jax.lax.while_loop(wrong, step, (jnp.zeros(2), 0))[1])

    plain = jax.grad(lambda theta: jnp.mean(jax.nn.softplus(-x @ theta)))
    normalized = partial(optim.normalized_logistic_gradient, features=x, labels=np.ones(n))
    return {
        "gradient descent, 100": count(plain, 100.0),
        "normalized, 10": count(normalized, 10.0),
        "normalized, 100": count(normalized, 100.0),
    }


def error_feedback() -> dict[str, dict[str, float]]:
    """Step sizes, and gradients on the mean of L_i |x|^2 / 2."""
    each = np.array([1.0] * 19 + [100.0])
    top, results = optim.compressors.top_k(1), {}
    for name, weighted in (("EF21", False), ("EF21-W", True)):
        alpha = optim.compressors.contraction(top, np.zeros(5))
        gamma = optim.ef21_step_size(each.mean(), each, alpha, weighted=weighted)
        tx = optim.error_feedback(top, weights=each if weighted else None, axis_name="clients")
        update = jax.vmap(tx.update, axis_name="clients", out_axes=(None, 0))

        def step(carry, _, update=update, gamma=gamma):
            x, state = carry
            mean, state = update(each[:, None] * x[None], state)
            x = x - gamma * mean
            return (x, state), each.mean() * jnp.linalg.norm(x)

        start = jnp.ones(5), jax.vmap(tx.init)(jnp.zeros((20, 5)))
        norms = jax.lax.scan(step, start, length=100)[1]
        results[name] = {"step size": gamma, "30": float(norms[29]), "100": float(norms[99])}
    return results


def ends(tx) -> list[float]:
    """Where an optimizer ends on |x - c|^2 / 2."""
    c = jnp.array([2.0, -1.0, 0.5])

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(x - c, state, x)
        return (optax.apply_updates(x, updates), state), None

    x = jax.lax.scan(step, (jnp.zeros(3), tx.init(jnp.zeros(3))), length=1000)[0][0]
    return [round(float(v), 9) for v in x]


def page(results: dict) -> str:
    """The Markdown of the results."""
    kinds = list(results["separation"]["100"])
    steps = [[n, *(row[k] for k in kinds)] for n, row in results["separation"].items()]
    feedback = [
        [name, f"{row['step size']:.4f}", f"{row['30']:.3g}", f"{row['100']:.3g}"]
        for name, row in results["error feedback"].items()
    ]
    decay = [[name, ", ".join(map(str, x))] for name, x in results["decay"].items()]
    return "\n".join(
        [
            "# Small claims",
            "",
            f"`{results['command']}`, float64, {results['machine']}.",
            "",
            "Steps until n points are separated (step size behind the name):",
            "",
            *markdown.table(["n", *kinds], steps, "rrrr"),
            "",
            "Compressed gradients of 20 clients, Top-1 of 5 numbers; norm of the gradient:",
            "",
            *markdown.table(["method", "step size", "step 30", "step 100"], feedback, "lrrr"),
            "",
            "Limit points, c = (2, -1, .5):",
            "",
            *markdown.table(["decay .3", "limit"], decay),
            "",
        ]
    )


def main():
    parser = _report.parser(__doc__)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    plain = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1))
    results = {
        **_report.found_with("python -m benchmarks.small_claims"),
        "separation": {str(n): separation(n) for n in (100, 1000, 10_000)},
        "error feedback": error_feedback(),
        "decay": {
            "plain": ends(plain),
            "cautious": ends(optim.cautious_decay(optax.sgd(0.1), 0.1, 0.3)),
        },
    }
    _report.write(results, page, args.out)


if __name__ == "__main__":
    main()
