"""F2SA, the penalty method and SABA of ``bilevel`` inside benchopt's benchmark_bilevel.

Copy this file into the ``solvers`` folder of a checkout (benchmarks/benchopt_bilevel.py does), then

    benchopt run CHECKOUT -s optim-bilevel -d simulated

To add another solver: build it in ``get_step``, and say in ``draw`` which batches it asks for.
"""

from benchmark_utils.stochastic_jax_solver import StochasticJaxSolver
from benchopt import safe_import_context

with safe_import_context() as import_ctx:
    import jax
    import jax.numpy as jnp

    import bilevel


class Solver(StochasticJaxSolver):
    """First-order penalty methods and SABA of optim-bilevel.

    J. Kwon, D. Kwon, S. Wright and R. Nowak, "On Penalty Methods for Nonconvex Bilevel
    Optimization and First-Order Stochastic Approximation", ICLR 2024.
    M. Dagréou, P. Ablin, S. Vaiter and T. Moreau, "A framework for bilevel optimization that
    enables stochastic and global variance reduction algorithms", NeurIPS 2022."""

    name = "optim-bilevel"

    parameters = {  # noqa: RUF012 (benchopt's interface)
        "method": ["saba", "f2sa", "penalty"],
        "step_size": [0.3],  # Of the lower level.
        "outer_step": [0.3],  # Of the upper level.
        "decay": [0.4],  # Penalty methods: both step sizes fall as (k + 1)^-decay.
        "sigma": [0.01],  # Penalty methods: the lower function weighs 1 / sigma.
        "n_inner_steps": [1],  # Penalty methods.
        "batch_size": [64],
        **StochasticJaxSolver.parameters,
    }

    def build(self):
        if self.method == "saba":
            blocks = (
                -(-n // size)
                for n, size in (
                    (self.n_outer_samples, self.batch_size_outer),
                    (self.n_inner_samples, self.batch_size_inner),
                )
            )
            return bilevel.saba(*blocks, lower_step=self.step_size, upper_step=self.outer_step)

        def falling(scale):
            return bilevel.power(scale, -self.decay) if self.decay else scale

        step, sigma = falling(self.step_size), self.sigma
        if self.method == "f2sa":
            # h has the curvature of g / sigma: its step is the lower level's, times sigma.
            return bilevel.f2sa(
                falling(self.step_size * sigma),
                step,
                multiplier=1 / sigma,
                inner_steps=self.n_inner_steps,
                upper_step=falling(self.outer_step),
            )
        return bilevel.penalty(
            falling(self.outer_step / sigma),
            1.0,
            step,
            sigma,
            prox=1e3,
            inner_steps=self.n_inner_steps,
        )

    def init(self):
        self.inner_var, self.outer_var = self.inner_var0, self.outer_var0
        state = self.solver.init(self.problem, self.outer_var0, self.inner_var0)
        return {
            "state": state,
            "inner_var": state.y,
            "outer_var": state.x,
            "state_inner_sampler": self.state_inner_sampler,
            "state_outer_sampler": self.state_outer_sampler,
        }

    def get_step(self, inner_sampler, outer_sampler):
        # Once for all runs, as a new problem compiles the step anew. Its functions are of (upper
        # variable, lower variable, start of the batch).
        self.problem = bilevel.Problem(
            upper=lambda x, y, start: self.f_outer(y, x, start),
            lower=lambda x, y, start: self.f_inner(y, x, start),
        )
        self.solver = solver = self.build()
        T = self.n_inner_steps

        def draw(carry, times):
            """Starts and numbers of ``times`` batches of each level."""

            def one(samplers, _):
                inner, outer = samplers
                start_in, id_in, _, inner = inner_sampler(inner)
                start_out, id_out, _, outer = outer_sampler(outer)
                return (inner, outer), (start_out, id_out, start_in, id_in)

            samplers = carry["state_inner_sampler"], carry["state_outer_sampler"]
            return jax.lax.scan(one, samplers, None, length=times)

        def one_iter(carry, _):
            if self.method == "saba":
                samplers, drawn = draw(carry, 1)
                start_out, id_out, start_in, id_in = jax.tree.map(lambda a: a[0], drawn)
                batch = (id_out, start_out), (id_in, start_in)
            else:
                samplers, (out, _, inner, _) = draw(carry, T + 1)
                # Both copies of the lower variable see the same batch: most of the noise of
                # their difference, which 1 / sigma multiplies, cancels.
                batch = bilevel.Samples(out[:T], inner[:T], inner[:T], out[T], inner[T], inner[T])
            state, _ = solver.step(carry["state"], batch)
            carry = {
                "state": state,
                "inner_var": state.z if self.method == "f2sa" else state.y,
                "outer_var": state.x,
                "state_inner_sampler": samplers[0],
                "state_outer_sampler": samplers[1],
            }
            return carry, jnp.zeros(())

        return one_iter
