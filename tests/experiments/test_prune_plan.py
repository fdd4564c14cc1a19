"""What each pruning method does, as data: stages, steps, rates, and the order of the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from configs.pruning import digits
from experiments import data
from experiments.pruning import methods

EPOCH, T, REWIND = 11, 22, 4  # Steps: 1437 examples in batches of 128.


def config(method, **changes):
    c = digits.get_config()
    c.model.options = {"widths": (16, 8)}
    c.epochs, c.batch_size, c.seed = 2.0, 128, 3
    c.prune.method, c.prune.density, c.prune.rewind_epochs = method, 0.512, REWIND / EPOCH
    for key, value in changes.items():
        c.prune[key] = value
    return c


def planned(method, **changes):
    c = config(method, **changes)
    job = methods.job_of(c, None)
    dataset, _ = methods.data_of(c, None)
    return c, job, dataset, *methods.plan(job, c, dataset)


ROUND = (REWIND, T, 1)
# Of each stage after dense training: first and last step, gradients per step, and the seed and
# step of the order of examples that it starts with.
PLANS = {
    "dense": [],
    "bip": [((0, T, 2), [(3 + 2 * 10**6, 0), (3 + 10**6, 0)])],
    "imp": [(ROUND, [(3, T + i * (T - REWIND))]) for i in range(3)],
    "imp_rewind_lr2": [(ROUND, [(3, T + i * (T - REWIND))]) for i in range(3)],
    "imp_finetune_lr2": [(ROUND, [(3, T + i * (T - REWIND))]) for i in range(3)],
    "imp_reinit": [(ROUND, [(3, T + i * (T - REWIND))]) for i in range(3)],
    "omp": [(ROUND, [(3, T)])],
    **{m: [((0, 3 * T, 1), [(3, T)])] for m in ("gmp", "granet")},
    "hydra": [((0, T, 1), [(3, T)]), ((0, T, 1), [(3, 2 * T)])],
    **{m: [((0, T, 1), [(3, 0)])] for m in ("random", "snip", "grasp", "zo_grasp", "synflow")},
}


@pytest.mark.parametrize("method", [*methods.AFTER_TRAINING, *methods.AT_INIT])
def test_stages_steps_and_order_of_examples(method):
    _, job, dataset, _, stages = planned(method)
    assert (job.epoch, job.steps) == (EPOCH, T)
    if method not in methods.AT_INIT:
        assert [(s.start, s.steps, s.method) for s in stages[:2]] == [
            (0, REWIND, False),
            (REWIND, T, False),
        ]
        # Both parts of the dense training go through one order.
        first, second = (next(s.batches(s.start)) for s in stages[:2])
        order = data.train_batches(dataset, 128, 3)
        assert np.array_equal(first, next(order(0)))
        assert np.array_equal(second, next(order(REWIND)))
        stages = stages[2:]
    assert [(s.start, s.steps, s.solver.gradients.total) for s in stages] == [
        numbers for numbers, _ in PLANS[method]
    ]
    seen = []
    for stage, (_, orders) in zip(stages, PLANS[method], strict=True):
        assert stage.method
        pair = stage.solver.batch == "pair"
        assert pair == (len(orders) == 2)
        got = next(stage.batches(stage.start))
        for part, (seed, step) in zip(got if pair else [got], orders, strict=True):
            assert np.array_equal(part, next(data.train_batches(dataset, 128, seed)(step)))
            seen.append(part.tobytes())
    assert len(set(seen)) == len(seen)  # No two stages, and no two levels, begin alike.
    keys = [stage.key for stage in stages]
    assert len(set(keys)) == len(keys)


def at_step(opt, step):
    """An optimizer's state with its counters at a step, and its moments as they were."""
    counter = lambda x: jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == 0  # noqa: E731
    return jax.tree.map(lambda x: np.full_like(x, step) if counter(x) else x, opt)


def first_batch(job, dataset, stage):
    inputs = next(stage.batches(stage.start))
    prepare = job.prepare_pair if stage.solver.batch == "pair" else job.prepare
    return prepare(dataset.train, inputs, jax.random.key(0))


def loss(job, params, stats, batch):
    return job.problem.lower(None, params, batch, stats)[0]


def cosine(step, steps):
    return 0.5 * (1 + np.cos(np.pi * step / steps))


def change(stage, state, batch, leaf):
    new, _ = jax.jit(stage.solver.step)(state, batch)
    return np.asarray(leaf(new) - leaf(state))


@pytest.mark.parametrize(
    ("method", "factor", "steps"),
    [("imp", 1, T), ("omp", 1, T), ("imp_rewind_lr2", 2, T), ("imp_finetune_lr2", 2, T),
     ("imp_reinit", 1, T), ("gmp", 1, 3 * T), ("random", 1, T)],
)  # fmt: skip
def test_learning_rates_of_the_weights(method, factor, steps):
    # An update without momentum, against the update of SGD at the documented rate.
    _, job, dataset, state, stages = planned(method)
    stage = stages[-1]
    if method == "gmp":
        state = stage.enter(state)
    elif method != "random":
        state = stages[2].enter(bilevel.set_anchor(state))
    assert float(state.rate) == factor
    batch = first_batch(job, dataset, stage)
    bias = lambda s: s.y["layers_1"]["bias"]  # noqa: E731
    g = jax.jit(jax.grad(lambda p: loss(job, p, state.stats, batch)))(state.y)
    g = np.asarray(g["layers_1"]["bias"] + 5e-4 * bias(state))
    for at in (0, steps // 2, steps - 1):
        opt = state.opt._replace(inner_state=at_step(state.opt.inner_state, at))
        got = change(stage, state._replace(opt=opt), batch, bias)
        want = -0.05 * factor * cosine(at, steps) * g
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-9)


def test_rates_of_bips_levels():
    _, job, dataset, state, stages = planned("bip")
    stage = stages[2]
    state = stage.enter(state)
    batch = first_batch(job, dataset, stage)
    score = lambda s: s.x["layers_1"]["kernel"]  # noqa: E731
    weight = lambda s: s.y["layers_1"]["kernel"]  # noqa: E731
    scores, weights = [], []
    for at in (0, T // 2, T * 3 // 4):
        upper = at_step(state.opt.upper, at)
        opt = state.opt._replace(upper=upper)
        scores.append(change(stage, state._replace(opt=opt), batch, score))
        opt = state.opt._replace(lower=at_step(state.opt.lower, at))
        weights.append(change(stage, state._replace(opt=opt), batch, weight))
    for i, fall in ((1, 0.1), (2, 0.01)):
        np.testing.assert_allclose(scores[i], fall * scores[0], rtol=1e-3, atol=1e-7)
    for i, at in ((1, T // 2), (2, T * 3 // 4)):
        np.testing.assert_allclose(weights[i], cosine(at, T) * weights[0], rtol=1e-3, atol=1e-7)
    # The first step of the scores: beta times the hypergradient at the weights after the lower one.
    new, _ = jax.jit(stage.solver.step)(state, batch)
    z = bilevel.masks.apply(state.masks, new.y)
    g = jax.jit(jax.grad(lambda p: loss(job, p, new.stats, batch[0])))(z)["layers_1"]["kernel"]
    theta, m = weight(new), state.masks["layers_1"]["kernel"]
    h = np.sign(score(state)) * (theta - 1e-4 * m * g) * g
    np.testing.assert_allclose(scores[0], -10.0 * h, rtol=1e-3, atol=1e-7)


def test_rates_of_hydra_and_what_it_tunes():
    _, job, dataset, state, stages = planned("hydra")
    stage, tune = stages[2:]
    state = stage.enter(state)
    batch = first_batch(job, dataset, stage)
    score = lambda s: s.x["layers_1"]["kernel"]  # noqa: E731
    moves = []
    for at in (0, T // 2, T - 1):
        moved = change(stage, state._replace(opt=at_step(state.opt, at)), batch, score)
        moves.append(moved)
        np.testing.assert_allclose(moved, cosine(at, T) * moves[0], rtol=1e-3, atol=1e-7)
    tuned = tune.enter(state)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (tuned.masks, state.masks))))
    want = bilevel.masks.apply(state.masks, state.y)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (tuned.y, want))))


def test_densities_of_the_rounds_and_of_the_ramp():
    _, job, dataset, state, stages = planned("imp")
    total, kept = 64 * 16 + 16 * 8 + 8 * 10, []
    for stage in stages[2:]:
        state = stage.enter(bilevel.set_anchor(state))
        kept.append(int(bilevel.masks.count(state.masks)))
    assert kept == [total - int((1 - d) * total) for d in (0.8, 0.64, 0.512)]
    # GMP: half an epoch between its changes, which end after three quarters of the run.
    _, job, dataset, state, stages = planned("gmp", density=0.1)
    stage, every = stages[2], EPOCH // 2
    updates = 3 * T * 3 // 4 // every
    state, batch = stage.enter(state), first_batch(job, dataset, stages[2])
    step = jax.jit(stage.solver.step)
    for t in range(updates * every + 1):
        state, metrics = step(state, batch)
        share = min(t // every, updates) / updates
        assert float(metrics["density"]) == pytest.approx(0.1 + 0.9 * (1 - share) ** 3, abs=2e-3)
    assert float(metrics["density"]) == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_scores_at_the_start(method):
    _, job, dataset, state, _ = planned(method)
    to_init = jax.random.split(jax.random.key(3), 3)[0]
    params, _ = job.model.init(to_init)
    index = np.sort(next(data.train_batches(dataset, 128, 3 + 10**6)(0)))
    y = dataset.train["label"][index]
    batch = job.prepare(dataset.train, index, jax.random.key(0))
    assert np.array_equal(batch["label"], y)
    assert len(y) == 128

    def scoring(params, batch, temperature):
        logits, _ = job.model.apply(params, {}, batch["x"], train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits / temperature, batch["label"]
        )
        return losses.mean()

    if method == "snip":
        g = jax.jit(jax.grad(scoring))(params, batch, 1.0)
        scores = jax.tree.map(lambda w, g: abs(w * g), params, g)
    else:
        # The two halves hold different classes; the logits are divided by 200.
        order = np.argsort(y, kind="stable")
        halves = [jax.tree.map(lambda v, i=i: v[i], batch) for i in (order[:64], order[64:])]
        full = jax.grad(lambda p: sum(scoring(p, b, 200.0) for b in halves))
        g = jax.jit(full)(params)
        hg = jax.jit(lambda p, t: jax.jvp(full, (p,), (t,))[1])(params, g)
        scores = jax.tree.map(jnp.multiply, params, hg)
    scores = bilevel.masks.map_leaves(lambda m, s: None if m is None else s, state.masks, scores)
    want = bilevel.masks.from_scores(scores, 0.512, absolute=method == "snip")
    assert float(bilevel.masks.iou(want, state.masks)) > 0.98


def test_gradients_are_clipped_as_in_train():
    c = config("dense")
    c.optimizer.clip_norm = 0.5
    tx = methods.job_of(c, None).optimizer(1)
    params = {"w": jnp.ones(4)}
    one, two = (
        tx.update({"w": size * jnp.ones(4)}, tx.init(params), params)[0]["w"] for size in (1, 9)
    )
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(one, -0.05 * (0.25 + 5e-4), rtol=1e-5)  # Rate, decay.
