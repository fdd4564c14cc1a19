"""Lion against AdamW over batch sizes, at equal epochs."""

import jax
import optax

import optim
from experiments.studies import _networks as nets


def measure(
    seeds: int, batch: int, epochs: int, rates: list[float], data_dir: str | None = None
) -> list[dict[str, float]]:
    """Trains an MLP on a tenth of Fashion-MNIST with a cosine schedule.

    Returns:
      For each seed the test accuracy of Lion (rates a tenth of AdamW's, decay ten times its) less
      that of AdamW, both at the rate with the best mean on the validation data.
    """
    steps = epochs * 6000 // batch
    optimizers = {
        "AdamW": lambda rate: optax.adamw(rate, weight_decay=0.01),
        "Lion": lambda rate: optim.lion(lambda t: 0.1 * rate(t), weight_decay=0.1),
    }

    def loss(params, x, y):
        return nets.cross_entropy(nets.mlp(params, x), y)

    parts = [nets.load(s, "fashion_mnist", 6000, data_dir) for s in range(seeds)]
    found = {}
    for name, optimizer in optimizers.items():

        @jax.jit
        def run(key, parts, rate, optimizer=optimizer):
            params = nets.mlp_init(key, (784, 128, 10))
            tx = optimizer(optax.cosine_decay_schedule(rate, steps))
            params, _ = nets.train(loss, tx, params, parts["train"], key, steps, batch)
            return {
                part: nets.accuracy(nets.mlp(params, parts[part][0]), parts[part][1])
                for part in ("valid", "test")
            }

        trials = {
            rate: [run(jax.random.key(s), parts[s], rate) for s in range(seeds)] for rate in rates
        }
        found[name] = [row["test"] for row in nets.best(trials)]
    return [
        {"AdamW": a, "Lion": b, "gain": b - a}
        for a, b in zip(found["AdamW"], found["Lion"], strict=True)
    ]
