"""What solvers do beyond the records: hypergradient, devices, rounds, populations, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import NamedSharding, PartitionSpec
from pruning_records import at, gap, load, mlp_loss, torch_sgd

import bilevel
import optim

PROBLEM = bilevel.pruning.problem(mlp_loss)


def problem(seed=0, n=32):
    rng = np.random.default_rng(seed)
    params = {
        f"fc{i}": {
            "kernel": rng.standard_normal(s).astype(np.float32) / 2,
            "bias": np.zeros(s[0], np.float32),
        }
        for i, s in enumerate([(16, 6), (3, 16)])
    }

    def batch():
        x = rng.standard_normal((n, 6)).astype(np.float32)
        return x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0)

    return params, batch


def test_estimates_take_the_place_of_gradients():
    # Central differences of a quadratic are its gradient, whatever a method makes of it.
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((4, 3)).astype(np.float32)}
    batches = [rng.standard_normal((8, 4)).astype(np.float32) for _ in range(2)]

    def loss(params, stats, x):
        return jnp.mean((x @ params["w"] - 1) ** 2), {"seen": stats["seen"] + 1}

    solvers = {
        "masks": bilevel.sparse_training(0.1),
        "rigl": bilevel.dynamic.rigl(0.1, 0.5, every=1, steps=4),
        "nm": bilevel.nm_training(0.1, "2:4"),
        "bip": bilevel.bip(0.1, 0.1, 0.5),
    }
    estimator = optim.zeroth_order.cge(0.5, central=True)

    def start(name, estimator):
        masks = {"w": np.arange(12).reshape(4, 3) % 2 == 0} if name == "masks" else None
        problem = bilevel.pruning.problem(loss, estimator)
        return solvers[name].init(problem, masks, params, stats={"seen": jnp.zeros(())})

    @jax.jit
    def steps(states):
        found = []
        for name, state in states.items():
            batch = [(x, jax.random.key(0)) for x in batches]
            batch = batches if state.problem.lower.estimator is None else batch
            state, metrics = solvers[name].step(state, tuple(batch) if name == "bip" else batch[0])
            found.append((state.x, state.y, state.stats, metrics["density"]))
        return found

    exact, estimated = (steps({n: start(n, e) for n in solvers}) for e in (None, estimator))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(estimated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"batch must be \(batch, key\) where gradients are estim"):
        solvers["rigl"].step(start("rigl", estimator), batches[0])
    with pytest.raises(ValueError, match="estimator must be an Estimator such as rge"):
        bilevel.pruning.problem(loss, optim.zeroth_order.rge)


def test_estimates_know_the_step():
    steps = optim.zeroth_order.Estimator(
        lambda f, params, key, step: (f(params), jax.tree.map(lambda p: step + 0 * p, params)),
        lambda params: 1,
    )
    problem = bilevel.pruning.problem(lambda p, _: p["w"].sum(), steps)
    solver = bilevel.sparse_training(1.0)
    state = solver.init(problem, None, {"w": jnp.ones((1, 2))})
    for _ in range(3):
        state, _ = solver.step(state, (None, jax.random.key(0)))
    np.testing.assert_array_equal(state.y["w"], 1.0 - 0 - 1 - 2)


def test_estimates_perturb_what_masks_keep():
    params, masks = {"w": jnp.ones((2, 3))}, {"w": jnp.arange(6).reshape(2, 3) > 2}

    def loss(params, _):
        return params["w"][1] @ jnp.arange(3.0) + 1e4 * params["w"][0].sum()

    estimator = optim.zeroth_order.rge(0.5)
    problem = bilevel.pruning.problem(loss, estimator)
    for solver in (
        bilevel.sparse_training(1.0),
        bilevel.dynamic.set_(1.0, 0.5, every=9, steps=9),
    ):
        state = solver.init(problem, masks, params)
        new, _ = solver.step(state, (None, jax.random.key(1)))
        kept = optim.zeroth_order.value_and_grad(
            lambda p, _: p["w"][1] @ jnp.arange(3.0), estimator
        )
        g = kept(state.y, None, jax.random.key(1))[1]["w"]
        np.testing.assert_allclose(new.y["w"], np.where(masks["w"], 1 - g, 0), rtol=1e-3)


@pytest.mark.fidelity
@pytest.mark.parametrize("alias", [False, True])
def test_hydra_replays_the_authors_code(alias):
    record = load(f"hydra_mlp_official_{'alias' if alias else 'clone'}")
    with jax.enable_x64(True):
        solver = bilevel.hydra(
            torch_sgd(record["lr_w"], record),
            float(record["k"]),
            scope="global",
            authors=alias,
        )
        params, _, scores, _ = at(record, 0)
        state = solver.init(PROBLEM, scores, params)
        step = jax.jit(solver.step)
        for t in range(len(record["loss_u"])):
            batch = record["xu"][t].astype(float), record["yu"][t]
            state, metrics = step(state, batch)
            params, _, scores, masks = at(record, t + 1)
            assert all(map(np.array_equal, *map(jax.tree.leaves, (state.masks, masks))))
            assert gap(state.x, scores) < 1e-9
            assert gap(state.y, params) < 1e-9
            assert abs(float(metrics["loss"]) - record["loss_u"][t]) < 1e-9


def test_hypergradient_against_finite_differences_of_the_true_objective():
    # Lower level: min over theta of f(m theta) + gamma/2 |theta|^2 with f(z) = b'z + h/2 z'Az. The
    # paper drops the Hessian of f: its hypergradient is exact for h = 0, and off by O(h) else.
    rng = np.random.default_rng(0)
    n, gamma = 5, 0.7
    with jax.enable_x64(True):
        root = rng.standard_normal((n, n))
        A, b, c = root @ root.T, rng.standard_normal(n), rng.standard_normal(n)
        m = np.array([1.0, 0.0, 1.0, 1.0, 0.0])

        def solve(m, h):
            M = np.diag(m)
            return np.linalg.solve(h * M @ A @ M + gamma * np.eye(n), -m * b)

        def loss(params, batch):
            z = params["w"][:, 0]
            return (b @ z + 0.5 * batch * z @ A @ z) + 0 * c @ z

        def true(h, eps=1e-6):
            def value(m):
                return loss({"w": (m * solve(m, h))[:, None]}, h)

            steps = np.eye(n) * eps
            return np.array([(value(m + e) - value(m - e)) / (2 * eps) for e in steps])

        def paper(h):
            # A step of size one down the scores shows the hypergradient.
            solver = bilevel.bip(0.0, 1.0, 0.6, curvature=gamma)
            theta = solve(m, h)[:, None]
            scores = {"w": (m + 1.0)[:, None]}
            state = solver.init(bilevel.pruning.problem(loss), scores, {"w": theta})
            state = state._replace(masks={"w": m[:, None] > 0})
            new, _ = jax.jit(solver.step)(state, (h, h))
            return np.asarray(state.x["w"] - new.x["w"])[:, 0]

        assert np.abs(paper(0.0) - true(0.0)).max() < 1e-8
        gaps = [np.abs(paper(h) - true(h)).max() for h in (2e-4, 1e-4)]
        assert gaps[1] > 1e-5
        assert 1.8 < gaps[0] / gaps[1] < 2.2


def bip_solver(axis_name=None):
    lower = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9))
    return bilevel.bip(lower, optax.sgd(1.0, momentum=0.9), 0.3, curvature=2.0, axis_name=axis_name)


def test_eight_devices_equal_one_and_pmap_and_shard_map():
    params, batch = problem()
    solver, mapped = bip_solver(), bip_solver("data")
    batches = [(batch(), batch()) for _ in range(4)]
    one = solver.init(PROBLEM, None, params)
    step = jax.jit(solver.step)
    mesh = optim.parallel.data_mesh()
    whole, split = (NamedSharding(mesh, PartitionSpec(*p)) for p in ((), ("data",)))
    inside = jax.device_put(one, whole)

    def of_hidden_units(x):
        return NamedSharding(mesh, PartitionSpec(*("data" if n == 16 else None for n in x.shape)))

    layout = jax.tree.map(of_hidden_units, one)  # Weights, scores, masks and momentum are split.
    many = jax.device_put(one, layout)
    rows = jax.tree.map(lambda x: np.stack([x] * 8), one)
    pmapped = jax.pmap(mapped.step, axis_name="data")
    spec = PartitionSpec()
    sharded = jax.jit(
        jax.shard_map(
            mapped.step, mesh=mesh, in_specs=(spec, PartitionSpec("data")), out_specs=(spec, spec)
        )
    )
    for b in batches:
        one, metrics = step(one, b)
        many, _ = step(many, jax.device_put(b, split))
        inside, _ = sharded(inside, jax.device_put(b, split))
        rows, _ = pmapped(rows, jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), b))
    assert float(metrics["flips"]) >= 0
    kept = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), many, layout)
    assert all(jax.tree.leaves((kept.x, kept.y, kept.masks)))
    for other in (many, inside, jax.tree.map(lambda x: np.asarray(x)[0], rows)):
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_weights_scores_and_the_model_given_are_separate_buffers():
    # The loop donates the state, and an update of one must not be an update of the other.
    params = jax.tree.map(jnp.array, problem()[0])
    state = bip_solver().init(PROBLEM, None, params)
    leaves = jax.tree.leaves((params, state.y, state.x))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


def test_bip_resumes_bit_identically_and_stacks_of_densities_equal_single_runs():
    params, batch = problem()
    solver = bip_solver()
    data = [(batch(), batch()) for _ in range(6)]
    run = optim.loop.run
    options = {"steps_per_call": 3}
    whole = run(
        solver.step, solver.init(PROBLEM, None, params), lambda s: iter(data[s:]), 6, **options
    )
    kept = {}
    hook = (3, lambda t, s: kept.setdefault(t, jax.tree.map(np.array, s)))
    first = solver.init(PROBLEM, None, params)
    run(solver.step, first, lambda s: iter(data[s:]), 6, hooks=[hook], **options)
    again = run(solver.step, kept[3], lambda s: iter(data[s:]), 6, start=3, **options)
    assert all(map(np.array_equal, jax.tree.leaves(whole), jax.tree.leaves(again)))

    states = [solver.init(PROBLEM, None, params, density=d) for d in (0.3, 0.1)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *states)
    stacked = run(
        solver.step, stacked, lambda s: iter(data[s:]), 6, replicas=2, vmap=True, **options
    )
    assert gap(jax.tree.map(lambda x: x[0], stacked.y), whole.y) < 1e-5
    each = [jax.tree.map(lambda x, i=i: x[i], stacked.masks) for i in (0, 1)]
    kept = [int(bilevel.masks.count(masks)) for masks in each]
    total = sum(x.size for x in jax.tree.leaves(states[0].x))
    assert kept == [total - int(0.7 * total), total - int(0.9 * total)]


def test_rounds_do_not_recompile_and_rewind_what_they_say():
    params, batch = problem()
    tx = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, momentum=0.9))
    solver = bilevel.sparse_training(tx)
    traces = []

    @jax.jit
    def step(state, batch):
        traces.append(0)
        return solver.step(state, batch)

    b = batch()
    state = solver.init(PROBLEM, None, params)
    start = jax.tree.map(np.array, state.y)
    for _ in range(3):
        state, _ = step(state, b)
    state = bilevel.set_anchor(state)
    anchor = jax.tree.map(np.array, state.y)
    kernels = bilevel.masks.prunable(params)
    for density in (0.8, 0.64, 0.5):
        for _ in range(3):
            state, _ = step(state, b)
        before = state
        drop = bilevel.masks.drop_counts(kernels, density)
        state = bilevel.next_round(before, np.int32(drop))
        expected = bilevel.masks.apply(state.masks, anchor)
        assert all(map(np.array_equal, *map(jax.tree.leaves, (state.y, expected))))
        assert float(bilevel.masks.density(state.masks)) == pytest.approx(density, abs=0.01)
        grown = jax.tree.map(lambda new, old: (new & ~old).any(), state.masks, before.masks)
        assert not any(jax.tree.leaves(grown))
        moments = [x for x in jax.tree.leaves(state.opt.inner_state) if x.ndim]
        assert all((x == 0).all() for x in moments)
        state, _ = step(state, b)
        zero = bilevel.masks.apply(jax.tree.map(jnp.logical_not, state.masks), state.y)
        dead = bilevel.masks.map_leaves(lambda m, z: None if m is None else z, state.masks, zero)
        assert all((x == 0).all() for x in jax.tree.leaves(dead))
    assert len(traces) == 1
    tuned = bilevel.next_round(before, np.int32(drop), style="finetune", rate=2.0)
    expected = bilevel.masks.apply(tuned.masks, before.y)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (tuned.y, expected))))
    fresh = bilevel.next_round(before, np.int32(drop), style="reinit", fresh=start)
    expected = bilevel.masks.apply(tuned.masks, start)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (fresh.y, expected))))
    doubled, _ = step(tuned, b)
    single, _ = step(tuned._replace(rate=jnp.float32(1.0)), b)
    moved = [jax.tree.map(lambda a, c: a - c, s.y, tuned.y) for s in (doubled, single)]
    assert gap(moved[0], jax.tree.map(lambda x: 2 * np.asarray(x), moved[1])) < 1e-6


def test_gradual_pruning_follows_the_cubic_and_ends_at_its_density():
    params, batch = problem()
    ramp = bilevel.Gradual(0.1, start=2, updates=3, every=2)
    solver = bilevel.sparse_training(optax.sgd(0.05), gradual=ramp)
    state, step, b = solver.init(PROBLEM, None, params), jax.jit(solver.step), batch()
    total = sum(x.size for x in jax.tree.leaves(bilevel.masks.prunable(params)))
    for t in range(11):
        state, metrics = step(state, b)
        target = float(bilevel.density.cubic(t, 0.1, start=2, updates=3, every=2))
        assert abs(float(metrics["density"]) - target) <= 1.01 / total


class Net(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.dense = nnx.Linear(4, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.dense(self.norm(self.embed(x)))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.LayerNorm()(linen.Embed(7, 4)(x))
        return linen.Dense(3, use_bias=False)(linen.relu(linen.Dense(6)(x)))


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_flax_models_with_biases_norms_and_embeddings(kind):
    x, y = np.arange(8) % 7, np.arange(8) % 3
    if kind == "nnx":
        model = nnx.jit(lambda: Net(nnx.Rngs(0)))()
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def apply(params, x):
            return nnx.merge(graph, params, rest)(x)

    else:
        module = LinenNet()
        params = jax.jit(module.init)(jax.random.key(0), x)["params"]

        def apply(params, x):
            return module.apply({"params": params}, x)

    def loss(params, batch):
        logits = apply(params, batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    with jax.numpy_rank_promotion("allow"):
        scores = bilevel.criteria.magnitude(params)
        assert sorted(np.shape(s) for s in jax.tree.leaves(scores)) == [(4, 6), (6, 3)]
        masks = bilevel.masks.from_scores(scores, 0.25)
        tx = bilevel.sparse(optax.adamw(0.1), masks)

        @jax.jit
        def first_step(params):
            grads = jax.grad(loss)(params, (x, y))
            updates, _ = tx.update(grads, tx.init(params), params)
            return optax.apply_updates(params, updates)

        params = first_step(params)
        report = bilevel.sparsity_report(params, masks)
        assert report.prunable.kept == 42 - int(0.75 * 42)
        zeros = sum(int((v == 0).sum()) for v in jax.tree.leaves(bilevel.masks.prunable(params)))
        assert zeros == int(0.75 * 42)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": 1.2}, r"density must be in \(0, 1\], got 1.2"),
        ({"curvature": 0.0}, "curvature must be > 0, got 0.0"),
        ({"authors": "torch"}, "authors must be one of unaliased, implicit or a bool"),
        ({"structure": "rows"}, "structure must be"),
        ({"lower_steps": 0}, "lower_steps must be an integer >= 1"),
        ({"scope": "all"}, "scope must be"),
    ],
)
def test_bip_refuses_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        bilevel.bip(optax.sgd(0.1), optax.sgd(0.1), **{"density": 0.5, **options})


def test_bip_refuses_bad_batches_losses_and_models():
    params, batch = problem()
    solver = bip_solver()
    state, b = solver.init(PROBLEM, None, params), batch()
    with pytest.raises(ValueError, match=r"batch must be \(upper_batch, lower_batch\)"):
        solver.step(state, {"x": b})
    with pytest.raises(ValueError, match="differ in structure"):
        solver.step(state, (b, {"x": b[0]}))
    with pytest.raises(ValueError, match="loss must return a scalar"):
        solver.step(solver.init(bilevel.pruning.problem(lambda p, b: b[0]), None, params), (b, b))
    with pytest.raises(ValueError, match="no leaf is prunable"):
        solver.init(PROBLEM, None, {"bias": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"scores \(x0\) do not fit"):
        solver.init(PROBLEM, {"fc0": None}, params)
    with pytest.raises(ValueError, match="style must be"):
        bilevel.next_round(None, 1, style="forget")
    with pytest.raises(ValueError, match="fresh parameters"):
        bilevel.next_round(None, 1, style="reinit")
