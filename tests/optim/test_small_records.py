"""Small transforms replay the records of the authors' code, or of their equations."""

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim

RECORDS = Path(__file__).parents[1] / "reference" / "small"
pytestmark = pytest.mark.fidelity


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def load(name):
    """The settings of a record, its arrays, and its trees: p0, g, p ..."""
    with np.load(RECORDS / f"{name}.npz") as stored:
        arrays = {k: stored[k] for k in stored.files}
    hyper = json.loads(str(arrays.pop("hyper")))
    trees = {}
    for key, x in arrays.items():
        kind, _, leaf = key.partition("/")
        if leaf:
            trees.setdefault(kind, {})[leaf] = x.astype(float) if x.dtype == "float32" else x
    return hyper, arrays, trees


def replay(tx, params, gradients):
    """The parameters after every step, and the last state."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    scan = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))
    (_, state), after = scan(params, gradients)
    return after, state


def close(found, wanted, tolerance=1e-12):
    for k in found:
        np.testing.assert_allclose(found[k], wanted[k], rtol=0, atol=tolerance, err_msg=k)


def single(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


def base_of(hyper):
    args, rate = hyper["base_args"], hyper["base_args"]["lr"]
    if hyper["base"] == "sgd":
        decay = optax.add_decayed_weights(args.get("weight_decay", 0.0))
        return optax.chain(decay, optax.sgd(rate, args.get("momentum", 0.0) or None))
    b1, b2 = args["betas"]
    return optax.adamw(rate, b1, b2, args["eps"], weight_decay=args.get("weight_decay", 0.0))


BASES = ["adam", "adamw", "sgd", "sgd_momentum_wd"]


@pytest.mark.parametrize("base", BASES)
def test_orthograd(base):
    hyper, _, trees = load(f"orthograd_{base}")
    wrapped = optim.orthograd(base_of(hyper), eps=hyper["eps"], rescale=hyper["rescale"])
    after, state = replay(wrapped, trees["p0"], trees["g"])
    close(after, trees["p"])
    for key, x in trees.get("state", {}).items():
        leaf, name = key.split("/")
        if name != "step":
            names = {"exp_avg": "mu", "exp_avg_sq": "nu", "momentum_buffer": "trace"}
            np.testing.assert_allclose(optax.tree.get(state, names[name])[leaf], x, atol=1e-12)
    before = {k: np.concatenate([trees["p0"][k][None], p[:-1]]) for k, p in trees["p"].items()}
    plain = optim.orthograd()
    project = jax.jit(jax.vmap(lambda g, p: plain.update(g, plain.init(p), p)[0]))
    projected = project(trees["g"], before)
    close(projected, trees["gp"])
    with jax.enable_x64(False):
        close(replay(wrapped, single(trees["p0"]), single(trees["g"]))[0], trees["p"], 4e-5)


def test_orthograd_at_the_edge():
    hyper, _, trees = load("orthograd_edge")
    guarded = ("parallel", "single")
    authors, _ = replay(optim.orthograd(base_of(hyper), guard=0), trees["p0"], trees["g"])
    ours, _ = replay(optim.orthograd(base_of(hyper)), trees["p0"], trees["g"])
    for found in (authors, ours):
        close({k: x for k, x in found.items() if k not in guarded}, trees["p"])
    for k in guarded:
        np.testing.assert_array_equal(ours[k], np.broadcast_to(trees["p0"][k], ours[k].shape))
    with jax.enable_x64(False):
        start, gradients = single(trees["p0"]), single(trees["g"])
        close(replay(optim.orthograd(base_of(hyper)), start, gradients)[0], ours, 4e-5)
    # Theirs are rounding errors as long as the gradient.
    assert np.abs(trees["p"]["parallel"][-1] - trees["p0"]["parallel"]).max() > 0.01


def test_stablemax():
    _, z, _ = load("stablemax")
    labels, logits = z["labels"], z["logits"].astype(float)

    @jax.jit
    def whole(x, y):
        loss = jax.value_and_grad(optim.losses.stablemax_cross_entropy)
        return optim.losses.log_stablemax(x), *jax.vmap(loss)(x, y)

    at_one = np.arange(len(labels)), labels
    logp, losses, slopes = whole(logits, labels)
    np.testing.assert_allclose(logp, z["logp/f64"], atol=2e-14)
    np.testing.assert_allclose(losses, z["loss_none"].reshape(-1), atol=2e-14)
    np.testing.assert_allclose(losses, -z["logp/f64"][at_one], atol=2e-14)
    np.testing.assert_allclose(slopes, z["dnll/f64"], atol=1e-12)
    np.testing.assert_allclose(losses.mean(), z["loss"], atol=1e-12)
    np.testing.assert_allclose(slopes / len(labels), z["dloss_mean"], atol=1e-7)
    with jax.enable_x64(False):
        assert not np.isfinite(z["logp/f32"]).all()  # The authors' form.
        assert np.isnan(z["dnll/f32"]).any()
        logp, _, slopes = whole(z["logits"], labels)
        assert logp.dtype == np.float32
        np.testing.assert_allclose(logp, z["logp/f64"], rtol=8e-7, atol=1e-6)
        np.testing.assert_allclose(slopes, z["dnll/f64"], atol=2e-7)


@pytest.mark.filterwarnings("ignore:n_params")
def test_step_law():
    _, z, _ = load("step_law")
    law = optim.scaling.step_law(z["N"], z["D"])
    np.testing.assert_allclose(law.learning_rate, z["lr"], rtol=1e-14)
    np.testing.assert_allclose(law.batch_tokens, z["batch_tokens"], rtol=1e-14)


@pytest.mark.parametrize("name", ["lr_gd", "lr_gd_hard"])
def test_logistic_regression(name):
    hyper, z, _ = load(name)
    x, y = z["X"].astype(float), z["y"]
    normalized_steps = jax.jit(jax.vmap(optim.normalized_logistic_gradient, (0, None, None)))
    for gamma in hyper["gammas"]:
        solver = optim.normalized_gradient_descent(gamma)

        def step(state, _, solver=solver):
            state, metrics = solver.step(state, (x, y))
            return state, (state.theta, metrics)

        start = solver.init(jnp.zeros(x.shape[1]))
        run = jax.jit(functools.partial(jax.lax.scan, step, length=hyper["T"]))
        _, (theta, metrics) = run(start)
        key = f"normalized/{gamma:g}"
        scale = np.abs(z[f"theta/{key}"]).max()
        np.testing.assert_allclose(theta, z[f"theta/{key}"], rtol=1e-6, atol=1e-6 * scale)
        with jax.enable_x64(False):
            before = np.concatenate([np.zeros((1, x.shape[1])), np.asarray(theta)[:-1]])
            moved = before - gamma * normalized_steps(single(before), single(x), single(y))
            np.testing.assert_allclose(moved, theta, rtol=0, atol=4e-5 * scale)
        np.testing.assert_allclose(metrics["loss"], z[f"loss/{key}"], rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(metrics["errors"], z[f"errors/{key}"])
        # The plain gradient is the normalized one times the mean weight of the examples.
        path = z[f"theta/gd/{gamma:g}"][:10]
        slopes = np.asarray(normalized_steps(path, x, y))
        for (before, after), normalized in zip(itertools.pairwise(path), slopes, strict=False):
            weight = np.mean(1 / (1 + np.exp(y * (x @ before))))
            np.testing.assert_allclose(before - gamma * weight * normalized, after, rtol=1e-9)


def lion_of_the_port(b1, b2):
    """Its average is fed with the interpolation, so that it is not Lion."""

    def update(g, m, params=None):
        c = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        m = jax.tree.map(lambda m, c: b2 * m + (1 - b2) * c, m, c)
        return jax.tree.map(jnp.sign, c), m

    return optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update)


@pytest.mark.parametrize("name", ["sgd", "adam", "lion_port"])
def test_cautious_decay(name):
    hyper, _, trees = load(f"cwd_{name}")
    args = hyper["args"]
    rate, decay = args["lr"], args["weight_decay"]
    direction = {
        "sgd": lambda: optax.identity(),
        "adam": lambda: optax.scale_by_adam(*args["betas"], eps=args["eps"]),
        "lion_port": lambda: lion_of_the_port(*args["betas"]),
    }[name]()
    scale = optax.scale_by_learning_rate(rate)
    inside = optax.chain(direction, optim.cautious_weight_decay(decay), scale)
    around = optim.cautious_decay(optax.chain(direction, scale), rate, decay)
    scheduled = optim.cautious_decay(
        optax.chain(direction, scale), lambda _: rate, lambda t: decay / rate, decay_power=2
    )
    for tx in (inside, around, scheduled):
        close(replay(tx, trees["p0"], trees["g"])[0], trees["p"])
    with jax.enable_x64(False):
        found, _ = replay(inside, single(trees["p0"]), single(trees["g"]))
        close(found, trees["p"], 4e-5)


def test_rules_of_cautious_decay():
    hyper, z, _ = load("cwd_rules")
    p, u = z["p"].astype(float), z["u"].astype(float)
    rate, decay = hyper["lr"], hyper["wd"]
    first = lambda tx, u, p: jax.jit(lambda u, p: tx.update(u, tx.init(p), p)[0])(u, p)  # noqa: E731
    total = np.asarray(first(optim.cautious_weight_decay(decay), u, p))
    np.testing.assert_allclose(p - rate * (total - u), z["kozistr_after_decay"], atol=1e-14)
    b1, b2, eps = (hyper["adam"][k] for k in ("b1", "b2", "eps"))
    adam = optax.adam(rate, b1, b2, eps / np.sqrt(1 - b2))  # Theirs does not correct it.
    tx = optim.cautious_decay(adam, rate, decay, strict=True, decay_power=2)
    updates = np.asarray(first(tx, u, p))
    np.testing.assert_allclose(p + updates, z["nanogpt_adam_step1"], atol=1e-12)
    tx = optim.cautious_decay(optax.sgd(rate), rate, decay, decay_power=2)
    updates = np.asarray(first(tx, u, p))
    np.testing.assert_allclose(p + updates, z["normuon_step_equation"], atol=4e-7)
    with jax.enable_x64(False):
        updates = np.asarray(first(tx, single(u), single(p)))
        assert updates.dtype == np.float32
        np.testing.assert_allclose(p + updates, z["normuon_step_equation"], atol=4e-7)


def test_gradient_noise_scale():
    hyper, z, _ = load("gns")
    g, b, big = z["g"].astype(float), hyper["B_small"], hyper["B_big"]
    parts = g.reshape(len(g), big // b, b, -1).mean(2)
    tx, authors = optim.gradient_noise_scale(hyper["beta"]), optim.gradient_noise_scale(0.99)

    def step(states, parts):
        mean, micro = optim.micro_gradients(parts, b)
        last = micro._replace(square_norm=jnp.sum(parts[-1] ** 2))
        _, state = tx.update(mean, states[0], micro=micro)
        _, neox = authors.update(mean, states[1], micro=last)
        floored = optim.noise_scale(state, debias=False, floor=hyper["eps"])
        debiased = optim.noise_scale(state)
        column = micro.square_norm, jnp.sum(mean**2), *floored[1:], floored[0], *debiased[1:]
        raw = optim.noise_scale(neox, debias=False)
        return (state, neox), (
            jnp.stack(column),
            jnp.stack([neox.variance / neox.square_norm]),
            jnp.stack(raw[1:]),
        )

    states = tx.init(None), authors.init(None)
    _, (columns, ratio, raw) = jax.jit(functools.partial(jax.lax.scan, step))(states, parts)
    np.testing.assert_allclose(columns, z["kdiffusion"], rtol=1e-12, atol=1e-12)
    with jax.enable_x64(False):
        states = tx.init(None), authors.init(None)
        _, (columns, _, _) = jax.lax.scan(step, states, single(parts))
        np.testing.assert_allclose(columns, z["kdiffusion"], rtol=4e-5, atol=4e-5)
    np.testing.assert_allclose(raw, z["neox"][:, 1:], rtol=2e-6)
    np.testing.assert_allclose(ratio[:, 0], z["neox"][:, 0], rtol=4e-6)


def test_batch_size():
    hyper, z, trees = load("adadagrad")
    given = {k: hyper[k] for k in ("eta", "theta", "nu")}
    named = {"axis_name": "workers", "merge": "authors"}

    @functools.partial(jax.jit, static_argnames=("axis_name", "merge"))
    def tests(g, **options):
        leafwise = {"per_leaf": True, **options}
        return {
            "norm": optim.batch_size.norm_test(g, given["eta"], **options),
            "ip": optim.batch_size.inner_product_test(g, given["theta"], **leafwise),
            "orth": optim.batch_size.orthogonality_test(g, given["nu"], **leafwise),
            "iporth": optim.batch_size.augmented_test(g, given["theta"], given["nu"], **leafwise),
        }

    def row(result):
        variance = np.atleast_1d(np.asarray(result.variance))
        return np.concatenate([[result.size], variance, [result.square_norm]])

    @jax.jit
    def parted(g):
        parts = jax.tree.map(lambda x: x.reshape(hyper["parts"], -1, *x.shape[1:]), g)
        merged = jax.vmap(lambda g: tests(g, **named), axis_name="workers")(parts)
        return jax.tree.map(lambda x: x[0], merged)

    for case in range(hyper["cases"]):
        g = trees[f"g{case}"]
        for name, result in tests(g).items():
            np.testing.assert_allclose(row(result), z[f"out{case}/{name}"], rtol=1e-12)
        with jax.enable_x64(False):
            for name, result in tests(single(g)).items():
                size, *numbers = z[f"out{case}/{name}"]
                np.testing.assert_allclose(row(result)[1:], numbers, rtol=4e-5)
                assert abs(int(result.size) - size) <= 1 + 4e-5 * size
        merged = parted(g)
        for name in ("norm", "ip", "orth"):
            np.testing.assert_allclose(row(merged[name]), z[f"out{case}/{name}_dist"], rtol=1e-12)
        np.testing.assert_allclose(row(merged["norm"]), z[f"out{case}/norm_accum"], rtol=1e-12)


def test_adagrad_norm_as_coded():
    hyper, _, trees = load("adagradnorm")
    args, names = hyper["args"], hyper["names"]
    tx = optim.adagrad_norm(args["lr"], args["initial_accumulator_value"], authors=True)
    # Lists, which keep the order: a vector reads the matrix before it.
    lists = [[trees[kind][k] for k in names] for kind in ("p0", "g", "p")]
    after, _ = replay(tx, *lists[:2])
    close(dict(enumerate(after)), lists[2])
    with jax.enable_x64(False):
        after, _ = replay(tx, *single(lists[:2]))
        close(dict(enumerate(after)), lists[2], 4e-5)


@pytest.mark.parametrize("compressor", ["topk", "randk", "natural", "natural_stochastic"])
@pytest.mark.parametrize("method", ["ef21", "ef21w"])
def test_error_feedback(method, compressor):
    hyper, z, _ = load("ef21")
    n, run = hyper["n"], hyper["runs"][f"{method}/{compressor}"]
    a, b, x = (z[k].astype(float) for k in ("A", "b", "x0"))
    weighted = method == "ef21w"
    weights = z["L_i"] if weighted else None
    make = {
        "topk": optim.compressors.top_k(hyper["k"]),
        "randk": optim.compressors.rand_k(hyper["k"]),
        "natural": optim.compressors.natural(),
        "natural_stochastic": optim.compressors.natural(stochastic=True),
    }[compressor]
    alpha = optim.compressors.contraction(make, x)
    assert alpha == pytest.approx(run["alpha"], abs=1e-15)
    gamma = optim.ef21_step_size(z["L"], z["L_i"], alpha, weighted=weighted)
    assert gamma == pytest.approx(run["gamma"], rel=1e-12)

    def drawn(draw):
        """The compressor of one worker at one step, with the recorded draw."""
        index, u = draw
        if compressor == "randk":
            chosen = jnp.zeros(len(x)).at[index].set(1.0)
            return make._replace(compress=lambda key, v: chosen * v)
        if compressor == "natural_stochastic":

            def compress(key, v):
                low = 2.0 ** jnp.floor(jnp.log2(jnp.abs(v)))
                up = u < jnp.abs(v) / low - 1
                return 8 / 9 * jnp.sign(v) * jnp.where(up, 2 * low, low)

            return make._replace(compress=compress)
        return make

    def worker(gradient, state, index, u):
        tx = optim.error_feedback(drawn((index, u)), weights=weights, axis_name="workers")
        return tx.update(gradient, state)

    update = jax.vmap(worker, axis_name="workers", out_axes=(None, 0))

    def run(a, b, x, u):
        def step(carry, draws):
            x, state = carry
            mean, state = update(a @ x - b, state, *draws)
            x = x - jnp.asarray(gamma, x.dtype) * mean
            return (x, state), x

        # The first message is whole; the draws belong to those that follow.
        draws = tuple(np.concatenate([k[:1], k[:-1]]) for k in (z["randk_idx"], u))
        state = jax.vmap(optim.error_feedback(make).init)(jnp.zeros((n, len(x))))
        return jax.lax.scan(step, (jnp.asarray(x), state), draws)[1]

    u, key = z["u"].astype(float), f"{method}/{compressor}"
    xs = run(a, b, x, u)
    np.testing.assert_allclose(xs, z[f"x/{key}"], rtol=0, atol=1e-12)
    with jax.enable_x64(False):
        np.testing.assert_allclose(run(*single((a, b, x, u))), z[f"x/{key}"], atol=4e-5)
    norms = np.linalg.norm(xs @ a.mean(0).T - b.mean(0)[None], axis=1)
    np.testing.assert_allclose(norms, z[f"gnorm/{key}"], atol=1e-12)
