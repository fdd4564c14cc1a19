"""Dynamic sparse training: the authors' runs, exact counts, moments, one program, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sparse_records as records

import bilevel
from bilevel.pruning import exchange, problem

PROBLEM = problem(records.loss)
GROW = {"gradient": "gradient", "momentum": "momentum", "random": "random",
        "random_unfired": "unfired"}  # fmt: skip


def solver_of(h, **options):
    """The solver that makes the run of a record, in the authors' counting."""
    tx, every, args = records.optimizer(h), h["every"], h.get("args", {})
    options = {"every": every, "steps": h.get("decay_steps", h["steps"]), "stop": h["steps"],
               "fraction": h["rate"], "exact": False, **options}  # fmt: skip
    if h["decay"] == "linear":
        n, factor = h["lin_every"], h["lin_factor"]
        options["schedule"] = lambda t: h["rate"] * jnp.power(factor, (t // n).astype(float))
    if h["code"] == "granet":
        options["start"] = args["init_prune_epoch"] * h["epoch_len"]
        if args["method"] == "GMP":
            options |= {"fraction": 0.0, "schedule": "constant"}
        if args["method"] != "DST":
            options |= {"initial": args["init_density"],
                        "cut_until": args["final_prune_epoch"] * h["epoch_len"]}  # fmt: skip
        return bilevel.dynamic_sparse(tx, args["final_density"], **options)
    grow = GROW[h["growth"]]
    return bilevel.dynamic_sparse(
        tx, h["density"], grow=grow, mask_moments=h["opt"] != "adam",
        masked_momentum=grow == "momentum", **options,
    )  # fmt: skip


def run_of(solver, record, start):
    """Largest difference of weights and losses of a whole run, and how many masks differ."""
    state = solver.init(PROBLEM, records.masks_at(record, 0), jax.tree.map(jnp.asarray, start))

    def step(state, batch):
        state, metrics = solver.step(state, batch)
        return state, (state.y, state.masks, metrics["loss"])

    scan = jax.jit(lambda s: jax.lax.scan(step, s, records.batches(record)))
    last, (y, masks, losses) = scan(state)
    after = slice(1, None)
    pairs = zip(
        *map(jax.tree.leaves, (masks, records.masks_at(record, after))), strict=True
    )  # fmt: skip
    wrong = sum(int((np.asarray(a) != b).sum()) for a, b in pairs)
    gaps = records.gap(y, records.at(record, after)), records.gap(losses, record["loss"])
    return last, max(gaps), wrong


def draws_of(record, h):
    """The authors' random numbers as arrays of uniforms, a tree for each change of masks."""
    given = iter(range(h["init_draws"], len(h["draw_kinds"])))
    trees = []
    for t in record["update_steps"]:
        leaves = []
        for i in range(3):
            j = next(given)
            draw = record[f"draw{j}"]
            if h["draw_kinds"][j] == "perm":  # The first of a permutation are the largest numbers.
                unfired = np.flatnonzero(~record[f"fired{i}"][t].astype(bool).ravel())
                numbers = np.zeros(record[f"m{i}"][t].shape)
                numbers.ravel()[unfired[draw]] = np.linspace(0.9, 0.1, len(draw))
                draw = numbers
            leaves.append(draw)
        trees.append(leaves)
    assert next(given, None) is None
    stacked = [jnp.asarray(np.stack(leaves)) for leaves in zip(*trees, strict=True)]
    return lambda change: records.kernels([x[change] for x in stacked])


@pytest.mark.fidelity
@pytest.mark.parametrize("name", [
    "granet_mlp_erk", "granet_conv_erk", "granet_mlp_dense", "gmp_mlp", "dst_rigl_mlp_uniform",
    "dst_rigl_conv_erk", "itop_gradient_adam_mlp", "itop_momentum_mlp", "itop_linear_decay_mlp",
    "itop_set_random_mlp", "itop_unfired_mlp", "itop_set_signed_mlp",
])  # fmt: skip
def test_runs_of_the_authors(name):
    record, h = records.load(name)
    with jax.enable_x64(True):
        options = {"drop": "signed"} if h.get("death") == "SET" else {}
        if h.get("growth", "").startswith("random"):
            options["draws"] = draws_of(record, h)
        start = [{"kernel": record[f"w{i}_dense"], "bias": record[f"b{i}"][0]} for i in range(3)]
        _, difference, wrong = run_of(solver_of(h, **options), record, start)
    assert wrong == 0
    assert difference < 1e-12


def program_of(record, h):
    """The solver of a record of RigL's own program."""
    noise, uniform = ([record.get(f"{key}{i}") for i in range(3)] for key in ("noise", "unif"))
    uniform = noise if uniform[0] is None else uniform

    def draws(change):
        return tuple(records.kernels([jnp.asarray(x)[change] for x in t]) for t in (noise, uniform))

    sgd = optax.sgd(h["lr"], h["momentum"], nesterov=h["nesterov"])
    weights = [{"kernel": True, "bias": False}] * 3
    anneal = h["anneal"]
    return bilevel.dynamic.rigl_program(
        optax.chain(optax.add_decayed_weights(h["wd"], weights), sgd),
        1 - h["sparsity"],
        method=h["method"],
        every=h["every"],
        begin=h["begin"],
        end=None if h["end"] < 0 else h["end"],
        fraction=h["drop"],
        decay=float(anneal[12:]) if anneal.startswith("exponential_") else anneal,
        grown_weight={"zeros": 0.0, "grad_scale_10": 0.1}[h["grow_init"]],
        grown_momentum=h["acc_scale"],
        draws=draws,
    )


@pytest.mark.fidelity
@pytest.mark.parametrize("name", [
    "rigl_mlp_begin_nesterov", "rigl_mlp_cosine", "rigl_conv_exponential", "set_mlp_constant",
])  # fmt: skip
def test_runs_of_the_program_of_rigl(name):
    record, h = records.load(name)
    with jax.enable_x64(True):
        last, difference, wrong = run_of(program_of(record, h), record, records.at(record, 0))
    assert wrong == 0
    assert difference < 1e-12
    assert int(last.steps) == record["global_step"][-1]


RNG = np.random.default_rng(0)
PARAMS = {
    "hidden": {"kernel": RNG.standard_normal((6, 16)).astype(np.float32) / 2},
    "head": {"kernel": RNG.standard_normal((16, 3)).astype(np.float32) / 4},
}
BATCH = (RNG.standard_normal((32, 6)), RNG.standard_normal((32, 3)))


def regression(params, batch):
    hidden = jnp.tanh(batch[0] @ params["hidden"]["kernel"])
    return jnp.mean((hidden @ params["head"]["kernel"] - batch[1]) ** 2)


REGRESSION = problem(regression)


def run(solver, steps, **options):
    state = solver.init(REGRESSION, None, PARAMS, **options)
    scan = jax.jit(lambda s: jax.lax.scan(lambda s, _: solver.step(s, BATCH), s, None, steps))
    return state, scan(state)


def kept(masks):
    return [int(m.sum()) for m in jax.tree.leaves(masks)]


@pytest.mark.parametrize("grow", ["gradient", "momentum", "random", "unfired"])
def test_counts_are_exact_and_what_is_pruned_is_zero(grow):
    tx = optax.adam(0.02)
    solver = bilevel.dynamic_sparse(tx, 0.2, every=3, steps=24, grow=grow, drop="signed")
    first, (last, metrics) = run(solver, 24)
    assert sum(kept(first.masks)) == 144 - int(0.8 * 144)
    assert kept(first.masks) == kept(last.masks)
    moved = np.flatnonzero(metrics["exchanged"]) + 1
    assert set(moved) <= {3, 6, 9, 12, 15, 18}
    assert len(moved) > 3
    mu = optax.tree.get(last.opt.inner_state, "mu")
    for m, w, v in zip(*map(jax.tree.leaves, (last.masks, last.y, mu)), strict=True):
        assert not np.asarray(w)[~np.asarray(m)].any()
        assert not np.asarray(v)[~np.asarray(m)].any()
    if grow == "unfired":
        assert all((np.asarray(f) | ~np.asarray(m)).all() for f, m in
                   zip(*map(jax.tree.leaves, (last.fired, last.masks)), strict=True))  # fmt: skip
        assert sum(kept(last.fired)) > 2 * sum(kept(last.masks))


def test_cuts_end_at_the_density_that_was_asked_for():
    for make, initial in ((bilevel.dynamic.granet, 0.5), (bilevel.dynamic.gmp, 1.0)):
        solver = make(0.1, 0.3, every=2, steps=16, cut_until=10)
        first, (last, metrics) = run(solver, 16)
        n = [144 - int((1 - d) * 144) for d in bilevel.density.cubic_rounds(0.3, 5, initial)]
        np.testing.assert_allclose(metrics["density"][1:11:2] * 144, n[1:], atol=1e-3)
        assert sum(kept(last.masks)) == n[-1]
        assert solver.doubts(last) == ()
        with pytest.warns(UserWarning, match="last cut is at step 10, and 0 steps were made"):
            solver.export(first)


def test_one_program_and_keys_of_ones_own():
    solver = bilevel.dynamic.set_(0.1, 0.2, every=1, steps=12)
    step = jax.jit(solver.step)
    states = [solver.init(REGRESSION, None, PARAMS, key=jax.random.key(k)) for k in (0, 1)]
    assert kept(states[0].masks) == kept(states[1].masks)
    for state in states:
        for _ in range(3):
            state, metrics = step(state, BATCH)
            assert metrics["exchanged"] > 0
    assert step._cache_size() == 1
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    both, _ = jax.jit(jax.vmap(solver.step, (0, None)))(stacked, BATCH)
    one, _ = step(states[1], BATCH)
    assert records.gap(both.masks["head"]["kernel"][1], one.masks["head"]["kernel"]) == 0


def test_the_program_draws_noise_and_growth_itself():
    for method in ("rigl", "set"):
        solver = bilevel.dynamic.rigl_program(
            optax.sgd(0.1, momentum=0.9), 0.2, method=method, every=2, end=7, grown_weight=0.1,
            decay="constant", noise=1e3 if method == "rigl" else 1e-5,
        )  # fmt: skip
        first, (last, metrics) = run(solver, 10)
        assert sum(kept(first.masks)) == 144 - int(0.8 * 144)
        assert kept(first.masks) == kept(last.masks)
        # RigL's changes take the place of a step at 0, 2, 4 and 6; SET's come after those to 1,
        # 3, 5 and 7.
        changes = [0, 3, 6, 9] if method == "rigl" else [0, 2, 4, 6]
        assert np.flatnonzero(metrics["exchanged"]).tolist() == changes
        assert int(last.steps) == (6 if method == "rigl" else 10)
        hidden = ~np.asarray(last.masks["hidden"]["kernel"])
        assert np.asarray(last.y["hidden"]["kernel"])[hidden].any()
        params, _ = solver.export(last)
        assert not np.asarray(params["hidden"]["kernel"])[hidden].any()
        top = np.abs(PARAMS["hidden"]["kernel"]) * np.asarray(first.masks["hidden"]["kernel"])
        left = hidden & (top >= np.sort(top.ravel())[-5])
        assert left.any() == (method == "rigl")  # Noise drowns the magnitudes.


def test_signed_drop_takes_the_smallest_of_each_sign():
    w = np.array([3.0, -0.1, 0.2, -2.0, 0.1, -0.3, 1.0, 0.0])
    m = np.array([1, 1, 1, 1, 1, 1, 1, 0], bool)
    left = exchange(m, w, np.where(m, 0.0, 1.0), 4 / 7, drop="signed")
    # Two of each sign leave, 0.1, 0.2, -0.1 and -0.3; position 7 and three of them (ties) enter.
    assert np.asarray(left)[[0, 3, 6, 7]].all()
    only = exchange(m & (w > 0), np.abs(w), np.zeros(8), 0.5, drop="signed")
    assert only.sum() == 4


@pytest.mark.parametrize(("options", "text"), [
    ({"grow": "gradients"}, "grow must be one of gradient, .* nearest: gradient"),
    ({"drop": "taylor"}, "drop must be one of"), ({"every": 0}, "every must be an integer"),
    ({"steps": 1}, "steps must be an integer >= 2"), ({"fraction": 2.0}, r"fraction must be in"),
    ({"schedule": "linear"}, "schedule must be one of cosine, constant or a function"),
    ({"initial": 0.5}, "initial and cut_until come together"),
    ({"initial": 0.1, "cut_until": 8}, r"initial must be in \[density=0.2, 1\], got 0.1"),
    ({"initial": 0.5, "cut_until": 1}, "cut_until must be at least start"),
    ({"masked_momentum": True}, "masked_momentum=True belongs to grow='momentum'"),
    ({"distribution": "er"}, "distribution must be one of erk, uniform"),
    ({"exact": 1}, "exact must be True or False"),
    ({"draws": abs}, "draws belong to grow='random' or 'unfired', got grow='gradient'"),
])  # fmt: skip
def test_bad_input(options, text):
    with pytest.raises(ValueError, match=text):
        bilevel.dynamic_sparse(0.1, 0.2, **{"every": 2, "steps": 8, **options})


@pytest.mark.parametrize(("options", "text"), [
    ({"method": "rigel"}, "method must be one of rigl, set"),
    ({"end": None}, "needs end, got None"), ({"end": 3, "begin": 3}, "end must be an integer >= 4"),
    ({"decay": "linear"}, "decay must be one of cosine, constant or a number"),
    ({"noise": -1.0}, "noise must be >= 0"),
])  # fmt: skip
def test_bad_input_of_the_program(options, text):
    with pytest.raises(ValueError, match=text):
        bilevel.dynamic.rigl_program(0.1, 0.2, **{"end": 8, **options})


def test_training_that_ends_before_the_first_exchange_says_so():
    params = {"w": np.ones((4, 4), np.float32)}
    given = bilevel.pruning.problem(lambda p, b: jnp.sum((p["w"] - 2) ** 2))
    for solver in (
        bilevel.dynamic.rigl(0.1, 0.5, every=9, steps=20),
        bilevel.sparse_training(0.1, exchange=bilevel.Exchange(9, 20)),
    ):
        state, _ = solver.step(solver.init(given, None, params), None)
        with pytest.warns(UserWarning, match="no weight was exchanged: the first may be at step 9"):
            solver.export(state)


def test_bad_input_of_init_and_exchange():
    solver = bilevel.dynamic_sparse(
        0.1, 0.2, every=2, steps=8, grow="momentum", masked_momentum=True
    )
    with pytest.raises(ValueError, match="needs an optimizer with momentum"):
        solver.init(REGRESSION, None, PARAMS)
    program = bilevel.dynamic.rigl_program(0.1, 0.2, end=8, grown_momentum=1.0)
    with pytest.raises(ValueError, match="grown_momentum=1 needs an optimizer with a trace"):
        program.init(REGRESSION, None, PARAMS)
    m = np.ones(3, bool)
    for options, text in (
        ({"growth": "random"}, "needs a key"),
        ({"growth": "unfired"}, "needs fired"),
        ({"growth": "x"}, "growth must"),
    ):
        with pytest.raises(ValueError, match=text):
            exchange(m, np.ones(3), None, 0.5, **options)
