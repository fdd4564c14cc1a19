"""diffGrad beside other optimizers over activation functions: MLP on digits."""

import jax
import jax.numpy as jnp
import optax

import optim
from experiments.studies import _networks as nets

OPTIMIZERS = {
    "diffGrad": optim.diffgrad,
    "Adam": optax.adam,
    "AMSGrad": optax.amsgrad,
    "RMSProp": optax.rmsprop,
    "AdaGrad": optax.adagrad,
    "AdaDelta": optax.adadelta,
    "SGDM": lambda rate: optax.sgd(rate, momentum=0.9),
}
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.swish,
}


def measure(seeds: int, optimizer: str, rates: list[float], steps: int) -> list[dict[str, float]]:
    """Trains with each activation, the rate chosen on the validation data.

    Returns:
      For each seed the accuracy on test data with each activation, and their mean.
    """

    def forward(params, x, which):
        def activation(h):
            return jax.lax.switch(which, list(ACTIVATIONS.values()), h)

        return nets.mlp(params, x, activation)

    @jax.jit
    def run(key, parts, rate, which):
        def loss(params, x, y):
            return nets.cross_entropy(forward(params, x, which), y)

        params = nets.mlp_init(key, (64, 64, 10))
        tx = OPTIMIZERS[optimizer](optax.linear_schedule(rate, 0.0, steps))
        params, _ = nets.train(loss, tx, params, parts["train"], key, steps)
        return {
            part: nets.accuracy(forward(params, parts[part][0], which), parts[part][1])
            for part in ("valid", "test")
        }

    rows: list[dict[str, float]] = [{} for _ in range(seeds)]
    parts = [nets.load(seed) for seed in range(seeds)]
    for which, name in enumerate(ACTIVATIONS):
        trials = {
            rate: [run(jax.random.key(s), parts[s], rate, which) for s in range(seeds)]
            for rate in rates
        }
        for row, found in zip(rows, nets.best(trials), strict=True):
            row[name] = found["test"]
    return [{**row, "mean": sum(row.values()) / len(row)} for row in rows]
