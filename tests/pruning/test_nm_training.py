"""N:M training: the authors' runs, gradients through masks, counts, layouts, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sparse_records as records

import bilevel
from bilevel import masks, nm
from bilevel.pruning import problem

PROBLEM = problem(records.loss)


def solver_of(record, h):
    steps, coef = jnp.asarray(record["step_num"]), h.get("coef")
    options = {"dense": int((record["step_num"] < 0).sum())}
    options["decay"] = h.get("decay") or h.get("srste")
    rule = "sr_ste"
    if h["code"] == "pgf" and h["decay_type"] != "step":
        late = jnp.asarray(record["epoch"] > h["epochs"] - h["fine_epochs"])
        kind = {"linear": "linear", "exp": "exponential"}[h["decay_type"]]

        def rule(t):
            return jnp.where(late[t], 0.0, bilevel.density.residue(steps[t], coef, kind=kind))

    elif h.get("structure"):  # Their stages begin with an epoch.
        first = np.flatnonzero(np.diff(record["nm"][:, 0, 0], prepend=-1))
        rule = [(int(t), int(record["nm"][t, 0, 0])) for t in first if t >= options["dense"]]
    elif h["code"] == "pgf" and not h.get("srste"):
        rule = "ste"
    inputs = 0 if h.get("sparse_dim") else 1
    cut = masks.Cut(input_axis=inputs, output_axis=1 - inputs)
    return bilevel.nm_training(records.optimizer(h), f"{h['N']}:{h['M']}", rule, cut=cut, **options)


@pytest.mark.fidelity
@pytest.mark.parametrize("name", [
    "nm_srste_mlp_adam", "nm_srste_conv_sgd", "nm_pgf_exp_mlp_adam", "nm_pgf_linear_column_mlp_sgd",
    "nm_pgf_sdgf_mlp_sgd", "nm_pgf_srste_mlp_sgd", "nm_srste_mlp_sgd", "nm_pgf_linear_mlp_sgd",
    "nm_pgf_linear_conv_sgd", "nm_pgf_step_mlp_adam",
])  # fmt: skip
def test_runs_of_the_authors(name):
    record, h = records.load(name)
    with jax.enable_x64(True):
        solver = solver_of(record, h)
        state = solver.init(PROBLEM, None, jax.tree.map(jnp.asarray, records.at(record, 0)))

        def step(state, batch):
            state, metrics = solver.step(state, batch)
            return state, (state.y, metrics["loss"])

        scan = jax.jit(lambda s: jax.lax.scan(step, s, records.batches(record)))
        _, (y, losses) = scan(state)
        assert records.gap(y, records.at(record, slice(1, None))) < 1e-12
        assert records.gap(losses, record["loss"]) < 1e-12


@pytest.mark.fidelity
def test_unstructured_masks_that_fade():
    record, h = records.load("nm_pgf_linear_unstructured_mlp")
    delta, tx = [], records.optimizer(h)
    for epoch, s in zip(record["epoch"], record["step_num"], strict=True):
        late = epoch > h["epochs"] - h["fine_epochs"]
        delta.append(1.0 if s < 0 else 0.0 if late else max(1 - h["coef"] * s, 0))

    def loss(params, delta, batch):
        drop = [w.size - int((1 - h["prune_rate"]) * w.size) for w in record_shapes]
        kernels = [layer["kernel"] for layer in params]
        found = [masks.from_counts([w], [j], scope="layer")[0]
                 for w, j in zip(kernels, drop, strict=True)]  # fmt: skip
        z = [{**p, "kernel": nm.faded(p["kernel"], m, delta)}
             for p, m in zip(params, found, strict=True)]  # fmt: skip
        return records.loss(z, batch)

    record_shapes = [record[f"w{i}"][0] for i in range(3)]

    def step(carry, given):
        params, opt = carry
        updates, opt = tx.update(jax.grad(loss)(params, *given), opt, params)
        params = optax.apply_updates(params, updates)
        return (params, opt), params

    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, records.at(record, 0))
        inputs = (jnp.array(delta), records.batches(record))
        _, y = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), inputs))(params)
        assert records.gap(y, records.at(record, slice(1, None))) < 1e-12


RNG = np.random.default_rng(0)
PARAMS = {
    "query": {"kernel": RNG.standard_normal((8, 2, 4)).astype(np.float32)},
    "conv": {"kernel": RNG.standard_normal((3, 3, 4, 2)).astype(np.float32)},
    "head": {"kernel": RNG.standard_normal((8, 3)).astype(np.float32), "bias": np.zeros(3)},
}
QUADRATIC = problem(lambda params, t: sum(jnp.sum((x - t) ** 2) for x in jax.tree.leaves(params)))


def groups_of_four(mask, axis):
    return np.moveaxis(np.asarray(mask), axis, -1).reshape(-1, 4).sum(-1)


@pytest.mark.parametrize("rule", nm.RULES)
def test_every_rule_ends_with_exactly_n_in_each_group(rule):
    solver = bilevel.nm_training(0.05, "1:4", rule, steps=12, dense=2, finetune=3)
    state, step = solver.init(QUADRATIC, None, PARAMS), jax.jit(solver.step)
    seen = []
    for _ in range(12):
        state, metrics = step(state, 0.3)
        seen.append({k: float(v) for k, v in metrics.items()})
        part = groups_of_four(state.masks["head"]["kernel"], 0)
        assert (part == part[0]).all()
    assert step._cache_size() == 1
    assert [row["delta"] for row in seen[:2]] == [1, 1]
    assert [row["delta"] for row in seen[9:]] == [0, 0, 0]
    middle = [row["delta"] for row in seen[2:9]]
    if rule == "linear":
        np.testing.assert_allclose(middle, 1 - np.arange(7) / 7, atol=1e-6)
    elif rule == "exponential":
        np.testing.assert_allclose(middle, 0.01 ** (np.arange(7) / 7), rtol=1e-4)
    else:
        assert not any(middle)
    if rule == "structure":
        assert [row["density"] for row in seen[2:9]] == [0.75] * 2 + [0.5] * 2 + [0.25] * 3
    params, found = solver.export(state)
    for name, axis in (("query", 0), ("conv", 2), ("head", 0)):
        assert (groups_of_four(found[name]["kernel"], axis) == 1).all()
        assert not np.asarray(params[name]["kernel"])[~np.asarray(found[name]["kernel"])].any()
    assert params["head"]["bias"].any()


def test_gradients_pass_the_mask():
    w, m = RNG.standard_normal(8), np.arange(8) % 4 < 2
    dz = RNG.standard_normal(8)
    with jax.enable_x64(True):
        for delta, decay, backward in ((1.0, 0.0, "straight"), (0.0, 0.1, "straight"),
                                       (0.3, 0.2, "soft")):  # fmt: skip
            z, pull = jax.vjp(
                lambda w, d=delta, a=decay, b=backward: nm.faded(w, m, d, decay=a, backward=b), w
            )
            factor = m + (1 - m) * delta
            np.testing.assert_allclose(z, w * factor)
            through = dz * factor if backward == "soft" else dz
            np.testing.assert_allclose(pull(dz)[0], through + decay * (1 - m) * w)
    assert nm.nm_mask(jnp.ones(4), axis=-1).tolist() == [False, False, True, True]  # The later.
    half = jnp.arange(8, dtype=jnp.bfloat16)
    assert jax.grad(lambda w: nm.sr_ste(w, "1:2", axis=0).sum())(half).dtype == jnp.bfloat16


@pytest.mark.parametrize(("options", "text"), [
    ({"structure": "weight"}, "structure must be 'N:M'"), ({"structure": "5:4"}, "0 < N <= M"),
    ({"rule": "srste"}, "rule must be one of .* nearest: sr_ste"),
    ({"rule": "structure"}, "needs steps"), ({"finetune": 2}, "needs steps"),
    ({"rule": "linear"}, "needs fade or steps"), ({"rule": "linear", "fade": 0.0}, "fade must be"),
    ({"steps": 4, "dense": 4}, "steps must be an integer >= 5"), ({"decay": -1.0}, "decay must be"),
    ({"backward": "hard"}, "backward must be one of straight, soft"),
])  # fmt: skip
def test_bad_input(options, text):
    with pytest.raises(ValueError, match=text):
        bilevel.nm_training(0.1, **options)


def test_bad_leaves():
    solver = bilevel.nm_training(0.1, "2:4")
    with pytest.raises(ValueError, match="head/kernel is \\(6, 3\\)"):
        solver.init(QUADRATIC, None, {"head": {"kernel": np.ones((6, 3), np.float32)}})
    with pytest.raises(ValueError, match="x0 must be None"):
        solver.init(QUADRATIC, PARAMS, PARAMS)
    with pytest.raises(ValueError, match=r"axis -2 of \(6, 3\)"):
        nm.sr_ste(jnp.ones((6, 3)))
    with pytest.raises(ValueError, match="mask of shape"):
        nm.faded(jnp.ones(3), jnp.ones(2, bool), 0.0)
    with pytest.warns(UserWarning, match="was not made with 2:4 masks alone"):
        solver.export(solver.init(QUADRATIC, None, {"w": jnp.ones((4, 2))}))
