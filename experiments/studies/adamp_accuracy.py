"""AdamP and SGDP against Adam and SGD on networks with batch normalization."""

import jax
import optax

import optim
from experiments.studies import _networks as nets

OPTIMIZERS = {
    "Adam": lambda rate, decay: optax.adamw(rate, weight_decay=decay),
    "AdamP": lambda rate, decay: optim.adamp(rate, weight_decay=decay),
    # Decoupled decay as SGDP has it: in units of the momentum's sum of steps.
    "SGDM": lambda rate, decay: optax.chain(
        optax.trace(0.9), optax.add_decayed_weights(10 * decay), optax.scale_by_learning_rate(rate)
    ),
    "SGDP": lambda rate, decay: optim.sgdp(rate, momentum=0.9, weight_decay=decay),
}


def measure(
    seeds: int,
    network: str,
    optimizer: str,
    rates: list[float],
    decays: list[float],
    steps: int,
) -> list[dict[str, float]]:
    """Trains an MLP, or a small CNN, on digits with a cosine schedule.

    Returns:
      For each seed the accuracy on validation and test data, normalized by the training data, at
      the rate and decay with the best mean on the validation data.
    """
    is_cnn = network == "cnn"

    def forward(params, x, of=None):
        return nets.cnn(params, x, of=of) if is_cnn else nets.mlp(params, x, of=of)

    def loss(params, x, y):
        return nets.cross_entropy(forward(params, x), y)

    @jax.jit
    def run(key, parts, rate, decay):
        init = nets.cnn_init(key, (16, 32)) if is_cnn else None
        params = init or nets.mlp_init(key, (64, 128, 128, 10), norm=True)
        tx = OPTIMIZERS[optimizer](optax.cosine_decay_schedule(rate, steps), decay)
        params, _ = nets.train(loss, tx, params, parts["train"], key, steps)
        return {
            part: nets.accuracy(forward(params, parts[part][0], parts["train"][0]), parts[part][1])
            for part in ("valid", "test")
        }

    parts = [nets.load(seed, flat=not is_cnn) for seed in range(seeds)]
    trials = {
        (rate, decay): [run(jax.random.key(s), parts[s], rate, decay) for s in range(seeds)]
        for rate in rates
        for decay in decays
    }
    return nets.best(trials)
