"""Sparse training on eight devices is that on one: by the mesh, and in the user's own shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import bilevel
import optim
from bilevel.pruning import problem

RNG = np.random.default_rng(0)
PARAMS = {
    "hidden": {"kernel": RNG.standard_normal((8, 16)).astype(np.float32) / 2},
    "head": {"kernel": RNG.standard_normal((16, 4)).astype(np.float32) / 4},
}
BATCHES = [tuple(RNG.standard_normal((32, n)).astype(np.float32) for n in (8, 4)) for _ in range(4)]
SHARED, EXPAND, _ = bilevel.share(PARAMS, 0.3, jax.random.key(0))
SGD = optax.sgd(0.1, momentum=0.9)
SOLVERS = {
    "rigl": lambda axis: bilevel.dynamic.rigl(SGD, 0.4, every=2, steps=8, axis_name=axis),
    "nm": lambda axis: bilevel.nm_training(SGD, "1:4", axis_name=axis),
    "sharing": lambda axis: bilevel.sharing.training(SGD, EXPAND, axis_name=axis),
}


def loss(params, batch):
    hidden = jnp.tanh(batch[0] @ params["hidden"]["kernel"])
    return jnp.mean((hidden @ params["head"]["kernel"] - batch[1]) ** 2)


@pytest.mark.parametrize("name", SOLVERS)
def test_eight_devices_equal_one(name):
    solver, mapped = SOLVERS[name](None), SOLVERS[name]("data")
    one = solver.init(problem(loss), None, SHARED if name == "sharing" else PARAMS)
    mesh, spec = optim.parallel.data_mesh(), PartitionSpec()
    split = NamedSharding(mesh, PartitionSpec("data"))
    many = inside = jax.device_put(one, NamedSharding(mesh, spec))
    step = jax.jit(solver.step)
    sharded = jax.jit(
        jax.shard_map(
            mapped.step, mesh=mesh, in_specs=(spec, PartitionSpec("data")), out_specs=(spec, spec)
        )
    )
    for batch in BATCHES:
        one, metrics = step(one, batch)
        many, _ = step(many, jax.device_put(batch, split))
        inside, also = sharded(inside, jax.device_put(batch, split))
        np.testing.assert_allclose(also["loss"], metrics["loss"], rtol=1e-5)
    for other in (many, inside):
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
