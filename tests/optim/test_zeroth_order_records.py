"""Zeroth-order methods replay the authors' programs, on the directions that these drew."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import criteria
from optim import zeroth_order as zo

RECORDS = Path(__file__).parents[1] / "reference" / "zeroth_order"
pytestmark = pytest.mark.fidelity


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def load(name):
    """The settings of a record, its arrays, and its trees: p0, p, z, mask, grad ..."""
    with np.load(RECORDS / f"{name}.npz") as stored:
        arrays = {k: stored[k] for k in stored.files}
    hyper = json.loads(str(arrays.pop("hyper")))
    trees = {}
    for key, x in arrays.items():
        kind, _, leaf = key.partition("/")
        if leaf:
            trees.setdefault(kind, {})[leaf] = x.astype(float) if x.dtype == "float32" else x
    return hyper, arrays, trees


def at(tree, t):
    return {k: x[t] for k, x in tree.items()}


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def mlp(params, x, prefix=""):
    depth = len(params) // 2
    for i in range(depth):
        weight, bias = (params[f"{prefix}{i}.{k}"] for k in ("weight", "bias"))
        x = x @ weight.T + bias[None]
        x = jnp.tanh(x) if i < depth - 1 else x
    return x


def objective(hyper, data):
    """The record's function of parameters and a batch."""
    if hyper["objective"].startswith("quadratic"):

        def quadratic(params, batch):
            v = jnp.concatenate([params["a"].reshape(-1), params["b"]]) - data["c"]
            return v @ data["H"] @ v / 2

        return quadratic
    if hyper["objective"].startswith("softmax"):

        def regression(params, batch):
            return cross_entropy(batch[0] @ params["weight"].T + params["bias"][None], batch[1])

        return regression
    return lambda params, batch: cross_entropy(
        mlp(params, batch[0], "model.decoder.layers."), batch[1]
    )


def batch_of(arrays, trees, t):
    """Rows of the data, if there are any."""
    data, rows = trees["data"], arrays["idx"][t]
    return (data["X"][rows], data["y"][rows]) if "X" in data else None


def given(z, probes=False):
    """A distribution that returns the recorded directions."""
    if probes:
        return lambda key, probe, like: {k: jnp.asarray(z[k])[probe] for k in like}
    return lambda key, probe, like: {k: z[k] for k in like}


def close(found, wanted, tolerance=1e-9):
    for k in wanted:
        np.testing.assert_allclose(found[k], wanted[k], rtol=tolerance, atol=tolerance, err_msg=k)


def estimator_of(hyper, z, mask):
    """The estimator of a record, in our words."""
    q, two_sided = hyper["q"], hyper["mode"] == "two_side"
    distribution = given(z, probes=q > 1)
    if hyper["kind"] == "forward":
        return zo.forward_gradient(distribution=distribution)
    if hyper["sign"]:
        return zo.sign(hyper["mu"], q, two_sided, distribution)
    estimator = zo.rge(hyper["mu"], q, two_sided, distribution)
    if hyper["kind"] == "jacobi":
        return zo.blockwise(r"layers\.(\d)", estimator)
    if mask is not None:  # Of the record: one where entries stay as they are.
        allowed = {k: m == 0 for k, m in mask.items()}
        return zo.sparse(lambda key, params: allowed, 1, estimator, mask_update=q == 1)
    return estimator


def optimizer_of(hyper, names):
    if hyper["optim"] == "adam":
        return optax.adam(hyper["lr"])
    kernels = {k: not k.endswith("bias") for k in names}
    return optax.chain(
        optax.add_decayed_weights(hyper["weight_decay"], kernels),
        optax.sgd(hyper["lr"], momentum=hyper["momentum"] or None),
    )


CHAINS = [
    "zo_two_sgd_quad",
    "zo_two_adam_mlp",
    "zo_one_momentum_logreg",
    "zo_q4_mlp",
    "zo_sign_logreg",
    "zo_sparse_logreg",
    "zo_sparse_q2_quad",
    "zo_forward_grad_mlp",
    "zo_block_jacobi_mlp",
]


@pytest.mark.parametrize("name", CHAINS)
def test_estimates_under_optax(name):
    hyper, arrays, trees = load(name)
    loss, tx = objective(hyper, trees["data"]), optimizer_of(hyper, hyper["names"])
    params = trees["p0"]
    state = tx.init(params)

    @jax.jit
    def step(params, state, batch, z, mask):
        estimator = estimator_of(hyper, z, mask)
        value, gradient = zo.value_and_grad(loss, estimator)(params, batch, jax.random.key(0))
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, gradient, value

    for t in range(hyper["T"]):
        mask = at(trees["mask"], t) if "mask" in trees else None
        params, state, gradient, value = step(
            params, state, batch_of(arrays, trees, t), at(trees["z"], t), mask
        )
        if "grad" in trees:
            close(gradient, at(trees["grad"], t))
        close(params, at(trees["p"], t))
        values = arrays["losses"][t]
        # One-sided values lie beside the first; ours is that at the parameters.
        expected = values.mean() if hyper["mode"] == "two_side" else values[1]
        np.testing.assert_allclose(value, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "name", ["zo_conserv_quad", "zo_conserv_largemu_mlp", "zo_conserv_momentum"]
)
def test_conservative(name):
    hyper, arrays, trees = load(name)
    loss, tx = objective(hyper, trees["data"]), optimizer_of(hyper, hyper["names"])
    undo = "step" if hyper["momentum"] else "keep"

    def solver(z):
        estimator = zo.rge(hyper["mu"], distribution=given(z))
        return zo.conservative(loss, tx, estimator, undo=undo)

    step = jax.jit(lambda state, batch, z: solver(z).step(state, batch))
    state, chosen = solver(None).init(trees["p0"], jax.random.key(0)), set()
    for t in range(hyper["T"]):
        state, metrics = step(state, batch_of(arrays, trees, t), at(trees["z"], t))
        assert metrics["choice"] == arrays["choice"][t]
        assert metrics["evaluations"] == hyper["evals_per_step"] == len(arrays["losses"][t])
        chosen.add(int(metrics["choice"]))
        close(state.params, at(trees["p"], t))
    assert len(chosen) == (3 if "largemu" in name else len(set(arrays["choice"])))


def test_gauss_seidel_blocks():
    hyper, arrays, trees = load("zo_block_coord_mlp")
    loss, tx = objective(hyper, trees["data"]), optax.sgd(hyper["lr"])

    def solver(z):
        estimator = zo.rge(hyper["mu"], two_sided=False, distribution=given(z))
        return zo.block_descent(loss, tx, r"layers\.(\d)", estimator)

    step = jax.jit(lambda state, batch, z: solver(z).step(state, batch))
    state = solver(None).init(trees["p0"], jax.random.key(0))
    for t in range(hyper["T"]):
        state, metrics = step(state, batch_of(arrays, trees, t), at(trees["z"], t))
        assert metrics["evaluations"] == hyper["evals_per_step"]
        close(state.params, at(trees["p"], t))


# DeepZero.


@pytest.mark.parametrize("name", ["dz_rge_copies", "dz_rge_drift"])
def test_deepzero_rge(name):
    hyper, arrays, trees = load(name)
    drift = hyper["shared_storage"]
    estimator = zo.deepzero_rge(hyper["mu"], hyper["q"], given(trees["z"], True), drift=drift)
    x, y = arrays["X"].astype(float), arrays["y"]
    vg = zo.value_and_grad(lambda p, _: cross_entropy(mlp(p, x, "l"), y), estimator)
    value, gradient = jax.jit(vg)(trees["p0"], None, jax.random.key(0))
    np.testing.assert_allclose(value, arrays["values"][0], rtol=1e-12)
    close(gradient, trees["grad"], 1e-12)


def test_deepzero_cge():
    hyper, arrays, trees = load("dz_cge_masked")
    x, y = arrays["X"].astype(float), arrays["y"]
    params = trees["p0"]
    mask = {k: trees["mask"].get(k, np.ones(p.shape)) != 0 for k, p in params.items()}

    def loss(p, _):  # The masked network, in every evaluation.
        return cross_entropy(mlp({k: v * mask[k] for k, v in p.items()}, x, "l"), y)

    estimator = zo.cge(hyper["mu"], mask=mask, chunk=8)
    value, gradient = jax.jit(zo.value_and_grad(loss, estimator))(params, None, None)
    np.testing.assert_allclose(value, arrays["base"], rtol=1e-12)
    close(gradient, trees["grad"])
    # Each of the authors' two workers evaluates the base for itself.
    assert estimator.evaluations(params) == sum(m.sum() for m in mask.values()) + 1


def test_deepzero_training():
    hyper, arrays, trees = load("dz_train")
    x, y = arrays["X"].astype(float), arrays["y"]
    tx = optax.chain(
        optax.add_decayed_weights(hyper["weight_decay"]), optax.sgd(hyper["lr"], hyper["momentum"])
    )
    params = trees["p0"]
    state = tx.init(params)

    def stepper(mask):
        vg = zo.value_and_grad(
            lambda p, batch: cross_entropy(mlp(p, batch[0], "l"), batch[1]),
            zo.cge(hyper["mu"], mask=mask),
        )

        @jax.jit
        def step(params, state, batch):
            _, gradient = vg(params, batch, None)
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, gradient

        return step

    for t in range(hyper["T"]):
        if t % hyper["redraw"] == 0:
            masks = at(trees["mask"], t)
            step = stepper({k: masks.get(k, np.ones(p.shape)) != 0 for k, p in params.items()})
        rows = arrays["idx"][t]
        params, state, gradient = step(params, state, (x[rows], y[rows]))
        close(gradient, at(trees["grad"], t))
        close(params, at(trees["p"], t))


def test_zo_grasp():
    hyper, arrays, trees = load("dz_zo_grasp")
    x, y, rs = arrays["X"].astype(float), arrays["y"], hyper["rs"]
    z = {k: jnp.asarray(v) for k, v in trees["z"].items()}
    first = jax.random.key_data(jax.random.fold_in(jax.random.key(0), 0))

    def distribution(key, probe, like):
        which = jnp.where((jax.random.key_data(key) == first).all(), 0, rs)
        return {k: v if v is None else z[k][which + probe] for k, v in like.items()}

    scores = jax.jit(
        lambda p: criteria.zo_grasp(
            lambda p: cross_entropy(mlp(p, x, "l"), y),
            p,
            jax.random.key(0),
            rs,
            hyper["mu"],
            rule=lambda path, leaf: "weight" in str(path),
            distribution=distribution,
            compatibility="official",
        )
    )(trees["p0"])
    # Ours keeps the largest; theirs is written with the other sign and cut by magnitude.
    wanted = {k: -v for k, v in trees["score"].items()}
    close(scores, wanted)
    kept = np.concatenate([np.abs(wanted[k])[trees["kept"][k] == 1] for k in wanted]).min()
    cut = np.concatenate([np.abs(wanted[k])[trees["kept"][k] == 0] for k in wanted]).max()
    assert cut < kept


# Ranks.


@pytest.mark.parametrize("name", ["ranksgd_quad", "ranksgd_full_rank"])
def test_rank_sgd(name):
    hyper, arrays, _ = load(name)

    def value(v):
        v = v.reshape(-1) - arrays["c"]
        quadratic = v @ arrays["H"] @ v / 2
        if hyper["objective"] == "quadratic":
            return quadratic
        return jnp.log1p(quadratic) + jnp.sqrt(jnp.abs(v).sum())

    m = hyper["m"]

    def solver(xi):
        return zo.rank_sgd(
            zo.by_value(lambda v, _: value(v)),
            hyper["stepsize"],
            hyper["smoothing"],
            m,
            hyper["k"],
            hyper["num_query_line"],
            distribution=lambda key, probe, like: xi[probe].reshape(like.shape),
            compatibility="official",
        )

    step = jax.jit(lambda state, xi: solver(xi).step(state, None))
    state = solver(None).init(arrays["x0"], jax.random.key(0))
    assert set(arrays["mode"]) == {0, 1}
    for t in range(0, hyper["rounds"], 2):
        assert list(arrays["mode"][t : t + 2]) == [0, 1]
        state, metrics = step(state, arrays["xi"][t])
        assert metrics["choice"] + 1 == arrays["rank"][t + 1][0]
        close({"x": state.params.reshape(-1)}, {"x": arrays["best"][t + 1]}, 1e-12)
        close({"d": -state.direction.reshape(-1)}, {"d": arrays["direction"][t + 1]}, 1e-12)
    assert len(set(arrays["rank"][1::2, 0])) > 1
