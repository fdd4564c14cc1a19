"""Greedy blocks: the authors' runs of convex descent, and FRUGAL with greedy orders."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optim
from optim.subspaces import block

RECORDS = Path(__file__).parents[1] / "reference" / "small"
RUNS = [
    "Cyclic/Lb", "Random/Lb", "Lipschitz/Lb", "GS/Lb", "GSL/Lb", "GSD/Lb", "GS/Hb", "GSQ/Hb",
    "GS/LS", "GS/LA", "GSL/LA", "VB-GS/Lb", "VB-GSD/Lb", "VB-GSDHb/Lb",
]  # fmt: skip
STEPS = {"Lb": "lipschitz", "Hb": "hessian", "LS": "newton", "LA": "adaptive"}


def problem(kind, a, b):
    if kind == "ls":
        return lambda x, _: jnp.sum((a @ x - b) ** 2) / 2, a.T @ a
    return lambda x, _: jnp.sum(jax.nn.softplus(-b * (a @ x))), a.T @ a / 4


@pytest.mark.fidelity
@pytest.mark.parametrize("kind", ["ls", "lg"])
@pytest.mark.parametrize("run", RUNS)
def test_greedy_descent_replays_the_authors(kind, run):
    with np.load(RECORDS / f"bcd_{kind}.npz") as stored:
        z = {k: stored[k] for k in stored.files}
    hyper = json.loads(str(z["hyper"]))
    with jax.enable_x64(True):
        x, chosen, value = replayed(z, kind, run, np.float64)
        constants = optim_constants(z["A"].astype(float), kind)
        np.testing.assert_allclose(constants, z["lipschitz"], rtol=1e-12)
    np.testing.assert_array_equal(chosen, z[f"blocks/{run}"])
    newton = run == "GS/LS" and kind == "lg"  # Ends in rounding errors.
    every = slice(hyper["every"] - 1, None, hyper["every"])
    wanted = z[f"x/{run}"]
    np.testing.assert_allclose(x[every], wanted, rtol=0, atol=1e-10 if newton else 1e-12)
    np.testing.assert_allclose(value, z[f"f/{run}"][:-1], rtol=1e-12, atol=1e-12)
    if run == "GS/Lb":
        x, chosen, _ = replayed(z, kind, run, np.float32)
        np.testing.assert_array_equal(chosen, z[f"blocks/{run}"])
        np.testing.assert_allclose(x[every], wanted, rtol=0, atol=4e-5)


def replayed(z, kind, run, dtype):
    """Iterates, blocks and losses by step."""
    hyper = json.loads(str(z["hyper"]))
    rule, step = run.split("/")
    a, b = z["A"].astype(dtype), z["b"].astype(dtype)
    loss, hessian = problem(kind, a, b)
    blocks, order = z["partition"], rule.lower()
    if order.startswith("vb-"):
        blocks, order = hyper["block_size"], order.removeprefix("vb-").replace("hb", "h")
    at, drawn = np.zeros(hyper["T"], np.int32), order in ("random", "lipschitz")
    if drawn:  # Their draws are given to us: the cyclic order over the blocks that they drew.
        order, firsts = "cyclic", np.sort(z["partition"], 1)[:, 0]
        at = np.int32([np.flatnonzero(firsts == ids[0])[0] for ids in z[f"blocks/{run}"]])
    solver = optim.greedy_bcd(loss, blocks, hessian, order=order, step=STEPS[step], norm=1)

    def one(state, number):
        if drawn:
            state = state._replace(count=number)
        state, metrics = solver.step(state, None)
        return state, (state.x, metrics["block"], metrics["loss"])

    scan = jax.jit(lambda s: jax.lax.scan(one, s, at))
    return scan(solver.init(jnp.zeros(a.shape[1], dtype)))[1]


def optim_constants(a, kind):
    return np.sum(a * a, 0) * (0.25 if kind == "lg" else 1)


def test_rules_by_their_definitions():
    rng = np.random.default_rng(0)
    blocks = rng.permutation(12).reshape(4, 3)
    h = rng.standard_normal((12, 12))
    h = h @ h.T + 0.1 * np.eye(12)
    constants = np.array([np.linalg.eigvalsh(h[np.ix_(b, b)])[-1] for b in blocks])
    given = {"gs": None, "gsl": constants, "gsd": np.diag(h), "gsq": h}
    choose = {
        (rule, norm): jax.jit(optim.gauss_southwell(blocks, rule, given[rule], norm=norm))
        for rule, norm in (("gs", 2), ("gs", 1), ("gsl", 2), ("gsd", 2), ("gsq", 2))
    }
    for seed in range(20):
        g = np.random.default_rng(seed).standard_normal(12)
        parts = g[blocks]
        scores = {
            ("gs", 2): (parts**2).sum(1),
            ("gs", 1): np.abs(parts).sum(1),
            ("gsl", 2): (parts**2).sum(1) / constants,
            ("gsd", 2): (parts**2 / np.diag(h)[blocks]).sum(1),
            ("gsq", 2): [p @ np.linalg.solve(h[np.ix_(b, b)], p)
                         for p, b in zip(parts, blocks, strict=True)],
        }  # fmt: skip
        for (rule, norm), score in scores.items():
            assert int(choose[rule, norm](np.float32(g))) == np.argmax(score), (rule, norm)


@pytest.mark.parametrize(("order", "step"), [
    ("cyclic", "hessian"), ("cyclic", "newton"), ("random", "lipschitz"), ("random", "adaptive"),
    ("lipschitz", "lipschitz"), ("lipschitz", "adaptive"), ("gsl", "hessian"), ("gsl", "newton"),
])  # fmt: skip
def test_every_step_descends(order, step):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 8)).astype(np.float32), np.sign(rng.standard_normal(30))
    loss, hessian = problem("lg", a, np.float32(b))
    blocks = np.arange(8).reshape(4, 2)
    solver = optim.greedy_bcd(loss, blocks, hessian, order=order, step=step, seed=1)

    def one(state, _):
        state, metrics = solver.step(state, None)
        return state, (metrics["loss"], metrics["block"][0] // 2)

    scan = jax.jit(lambda s: jax.lax.scan(one, s, length=60))
    _, (losses, chosen) = scan(solver.init(jnp.zeros(8)))
    assert np.diff(losses).max() < 1e-5
    assert losses[-1] < losses[0] - 1
    assert set(chosen.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("step", ["newton", "adaptive"])
def test_no_step_ends_where_the_loss_is_no_number(step):
    solver = optim.greedy_bcd(lambda x, _: jnp.sum(50 * x - jnp.log(x)), [[0], [1]], step=step)
    state = solver.init(jnp.array([1.0, 2.0]))
    for _ in range(4):
        state, metrics = solver.step(state, None)
    assert np.isfinite(metrics["loss"])
    assert np.all(state.x > 0)


@pytest.mark.parametrize("order", ["lipschitz", "gs", "gsl", "gsd", "gsq"])
def test_coordinates_without_data_stay(order):
    h = np.diag([1.0, 2.0, 0.0, 0.0])
    solver = optim.greedy_bcd(lambda x, _: x @ h @ x / 2, [[0, 1], [2, 3]], h, order=order)
    x = jax.jit(lambda s: jax.lax.fori_loop(0, 30, lambda _, s: solver.step(s, None)[0], s))(
        solver.init(jnp.ones(4))
    ).x
    np.testing.assert_allclose(x, [0, 0, 1, 1], atol=1e-2)


# FRUGAL and BAdam.

SIZES = [6, 2, 9, 4, 3, 5]


def model(seed):
    rng = np.random.default_rng(seed)
    return {f"w{i}": rng.standard_normal((n, 3)).astype(np.float32) for i, n in enumerate(SIZES)}


def active_sets(subspace, steps=6, **options):
    """Which tensors are active at every step, and those with the largest gradients."""
    options = dict(density=1 / 3, update_gap=2, subspace=subspace) | options
    tx, traces = optim.scale_by_frugal(**options), []

    @jax.jit
    def step(state, grads):
        traces.append(1)
        return tx.update(grads, state, grads)

    state, sets, updates = tx.init(model(0)), [], []
    for t in range(steps):
        u, state = step(state, model(t))
        sets.append(set(np.flatnonzero(state.selection).tolist()))
        updates.append(u)
    assert len(traces) == 1
    return sets, updates


def largest(t, norm, constants=1.0):
    norms = np.array([np.linalg.norm(x.reshape(-1), norm) for x in model(t).values()])
    return set(np.argsort(-norms / np.sqrt(constants), kind="stable")[:2].tolist())


@pytest.mark.parametrize("norm", [1, 2])
def test_the_largest_gradients_at_the_change_are_active(norm):
    sets, updates = active_sets(block("gauss_southwell", norm=norm))
    changes = [largest(t, norm) for t in (0, 2, 4)]
    assert len(set(map(tuple, map(sorted, changes)))) > 1
    assert sets == [s for s in changes for _ in range(2)]
    for i, name in enumerate(model(0)):  # The others move by their signs.
        signs = np.array_equal(updates[0][name], np.sign(model(0)[name]))
        assert signs is (i not in sets[0])


def test_constants_weigh_the_gradients():
    constants = np.array([1.2, 1.0, 2.4, 1.0, 1.0, 1.0])
    by_list, _ = active_sets(block("gauss_southwell", lipschitz=constants))
    assert by_list[0] == largest(0, 2, constants)
    # Neither without constants nor without their root.
    assert by_list[0] not in (largest(0, 2), largest(0, 2, constants**2))
    at = dict(zip(model(0), constants, strict=True))
    by_function, _ = active_sets(block("gauss_southwell", lipschitz=lambda path, shape: at[path]))
    assert by_function == by_list


def test_layers_of_a_stack_are_tensors():
    stack = np.stack([np.full((2, 2), x, np.float32) for x in (1.0, 3.0, 2.0)])
    params = {"a": np.full((2, 2), 2.5, np.float32), "layers": stack}
    tx = optim.scale_by_frugal(
        density=0.5, subspace=block("gauss_southwell"), stacked={"a": False, "layers": True}
    )
    _, state = jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)
    assert state.selection.tolist() == [True, False, True, False]


def test_blocks_in_proportion_to_their_constants():
    constants = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 5.0])
    sets, _ = active_sets(
        block("lipschitz", lipschitz=constants), steps=400, density=1 / 6, update_gap=1
    )
    counts = np.bincount([i for s in sets for i in s], minlength=6)
    np.testing.assert_allclose(counts / 400, constants / 20, atol=0.06)


def test_badam_with_greedy_blocks_resumes_exactly():
    tx = optim.badam(0.1, density=1 / 3, update_gap=3, order="gauss_southwell")
    same = optim.badam(0.1, density=1 / 3, update_gap=3, order=block("gauss_southwell"))

    def run(tx, params, state, steps):
        step = jax.jit(tx.update)
        for t in steps:
            updates, state = step(model(t), state, params)
            params = jax.tree.map(np.add, params, updates)
        return params, state

    params = model(9)
    straight, _ = run(tx, params, tx.init(params), range(7))
    half, state = run(tx, params, tx.init(params), range(4))
    saved = jax.tree.map(np.asarray, state)
    again, _ = run(same, half, saved, range(4, 7))
    jax.tree.map(np.testing.assert_array_equal, straight, again)


LOSS = lambda x, batch: jnp.sum(x**2)  # noqa: E731
BLOCKS = [[0, 1], [2, 3]]
BAD = [
    (lambda: block("gauss_southwel"), "got 'gauss_southwel'; nearest: gauss_southwell"),
    (lambda: block("lipschitz"), "lipschitz must be given for order='lipschitz'"),
    (lambda: block("random", lipschitz=[1.0]), "lipschitz must be None but for the orders gauss"),
    (lambda: block("gauss_southwell", lipschitz=[0.0]), "lipschitz must be > 0"),
    (lambda: block("gauss_southwell", norm=3), "norm must be 1 or 2, got 3"),
    (lambda: active_sets(block("lipschitz", lipschitz=[1.0])), "for each of the 6 projectable"),
    (lambda: optim.gauss_southwell([[0, 1], [1, 2]]), "each at most once, got [[0, 1], [1, 2]]"),
    (lambda: optim.gauss_southwell(BLOCKS, "gsl"), "lipschitz must be given for rule='gsl'"),
    (lambda: optim.gauss_southwell(BLOCKS, "gsl", [1.0]), "lipschitz must have shape (2,), got"),
    (lambda: optim.greedy_bcd(LOSS, BLOCKS), "hessian must be given for this order and step"),
    (lambda: optim.greedy_bcd(LOSS, BLOCKS, np.eye(4), order="gsdh"), "order must be one of cyc"),
    (lambda: optim.greedy_bcd(LOSS, 2, np.eye(4), order="cyclic"), "order must be one of gs, gsd"),
    (lambda: optim.greedy_bcd(LOSS, BLOCKS, np.ones(4)), "hessian must be a square matrix, got"),
    (lambda: optim.greedy_bcd(LOSS, BLOCKS, np.eye(4), step="exact"), "step must be one of lips"),
    (lambda: optim.greedy_bcd(LOSS, BLOCKS, np.eye(4)).init(jnp.ones(3)), "vector of at least 4"),
    (lambda: optim.greedy_bcd(LOSS, BLOCKS, np.eye(4)).init(jnp.ones(5)), "must have shape (5, 5)"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_argument_the_value_and_the_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
