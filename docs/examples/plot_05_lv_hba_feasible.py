"""
LV-HBA and a constraint that couples both levels
================================================

The lower level wants :math:`y = 2x` but must keep :math:`y \\le x`, with :math:`x` in [0, 3]. LV-HBA
projects onto the feasible set and needs neither a lower solution in each step nor second derivatives.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bilevel


def upper(x, y, batch=None):
    return jnp.exp(2 - y) / (2 + jnp.cos(6 * x)) + 0.5 * jnp.log((4 * x - 2) ** 2 + 1)


def project(x, y):
    x = jnp.clip(x + jnp.maximum(y - x, 0) / 2, 0, 3)
    return x, jnp.minimum(y, x)


problem = bilevel.Problem(
    upper=upper,
    lower=lambda x, y, batch=None: (y - 2 * x) ** 2,
    constraint=lambda x, y, batch=None: y - x,
    project_xy=project,
    multiplier_bound=8.0,
)

# %%
# Four starts. The path is what the callback sees after each device call.

solver = bilevel.lv_hba(**bilevel.lv_hba_steps())
paths = []
for start in ((0.2, -1.5), (1.0, 0.5), (2.0, -1.0), (2.9, 2.0)):
    path = [start]
    see = lambda state, metrics: path.append((float(state.x), float(state.y)))  # noqa: B023
    x0, y0 = jnp.array(start[0]), jnp.array(start[1])
    state, _ = bilevel.solve(problem, solver, x0, y0, steps=4000, callback=see, steps_per_call=20)
    paths.append(np.array(path))
    print(f"from {start}: x = {float(state.x):.3f}, y = {float(state.y):.3f}")

# %%
# On the line :math:`y = x` the lower level is solved; the paths end there.

figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
a, b = np.meshgrid(np.linspace(0, 3, 200), np.linspace(-2, 3, 200))
values = np.where(b <= a, upper(a, b), np.nan)
filled = axis.contourf(a, b, values, 20, cmap="cividis_r")
figure.colorbar(filled, label="F(x, y)")
axis.fill_between([0, 3], [0, 3], 3, color="0.85", hatch="//", edgecolor="0.6", label="infeasible")
axis.plot([0, 3], [0, 3], "k--", lw=1, label="lower solutions")
for i, path in enumerate(paths):
    axis.plot(*path.T, "-", color="C3", lw=1.5, label="paths of LV-HBA" if not i else None)
    axis.plot(*path[0], "o", color="C3", mfc="w")
    axis.plot(*path[-1], "*", color="C3", ms=12)
axis.set(xlabel="x", ylabel="y", xlim=(0, 3), ylim=(-2, 3), title="Feasible set and paths")
axis.legend(loc="lower right")
plt.show()
