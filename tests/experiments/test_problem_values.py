"""What the bilevel problems report, computed again in NumPy from their equations."""

import jax
import numpy as np
import pytest

from experiments import problems
from experiments.problems import closed_form, constrained, task

RNG = np.random.default_rng(7)


def close(found, wanted, rtol=2e-5):
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=rtol, atol=1e-6)


def draw(like, scale=1.0):
    """Random values of the shapes of ``like``, in its dtypes."""
    return jax.tree.map(
        lambda a: (scale * RNG.normal(size=np.shape(a))).astype(np.asarray(a).dtype), like
    )


def double(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


def cross_entropy(logits, label):
    probability = np.exp(logits - logits.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(probability, label[..., None], -1)[..., 0])


def share_right(logits, label):
    return np.mean([np.argmax(row) == t for row, t in zip(logits, label, strict=True)])


def auc(scores, positive):
    """Share of the pairs in which a positive scores above a negative; a tie is half a pair."""
    pairs = [np.sign(p - n) for p in scores[positive] for n in scores[~positive]]
    return np.mean(0.5 + 0.5 * np.array(pairs))


def reported(t, x, y, index=(0, 1, 2), data=None):
    """Lower and upper value on the samples ``index`` of each level, and the measures."""
    data, index = t.data if data is None else data, np.array(index)

    @jax.jit
    def all_of_them(x, y, data):
        batches = [None if level is None else level.take(data, index) for level in t[5:7]]
        f, g = t.problem.upper(x, y, batches[0]), t.problem.lower(x, y, batches[1])
        return f, g, t.evaluate(data, x, y)

    upper, lower, scores = all_of_them(x, y, data)
    return float(upper), float(lower), {k: float(v) for k, v in scores.items()}


# Classification problems.


def test_cleaning():
    t = problems.build("cleaning", train=40, valid=30, hidden=(5,), noise=0.3, regularization=0.2)
    splits, _ = task.classification("digits", None, 0, 40, 30)
    flipped = t.data["train"]["label"] != splits["train"]["label"]
    assert flipped.sum() == 12
    pixels = double(splits["train"]["x"])
    x = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(t.data["train"]["x"], x, atol=1e-5)
    test = (double(splits["test"]["x"]) - pixels.mean()) / pixels.std()
    weights, y = np.float32(RNG.normal(size=40).round(1)), draw(t.y0)  # Rounded: there are ties.
    index = np.array([2, 21, 17])
    upper, lower, scores = reported(t, weights, y, index)

    w = double(y)

    def logits(z):
        return relu(z @ w["kernel0"] + w["bias0"]) @ w["kernel1"] + w["bias1"]

    loss = cross_entropy(logits(x[index]), t.data["train"]["label"][index])
    decay = 0.2 * sum((a**2).sum() for a in w.values())
    close(lower, np.mean(sigmoid(double(weights[index])) * loss) + decay)
    valid = logits(double(t.data["valid"]["x"]))
    losses = cross_entropy(valid, splits["valid"]["label"])
    close(upper, losses[index].mean())
    assert set(scores) == {"objective", "valid/accuracy", "test/accuracy", "auc"}
    close(scores["objective"], losses.mean())
    close(scores["valid/accuracy"], share_right(valid, splits["valid"]["label"]))
    close(scores["test/accuracy"], share_right(logits(test), splits["test"]["label"]))
    close(scores["auc"], auc(weights, ~flipped))
    groups = t.groups(t.data, weights, y)
    close(groups["clean"], sigmoid(weights[~flipped]))
    close(groups["flipped"], sigmoid(weights[flipped]))


def test_cleaning_without_weights_counts_every_sample_half():
    t = problems.build("cleaning", train=10, valid=5, weights=False, standardize=False)
    y = draw(t.y0)
    _, lower, _ = reported(t, draw(t.x0), y, np.arange(5))
    w = double(y)
    logits = double(t.data["train"]["x"][:5]) @ w["kernel0"] + w["bias0"]
    decay = 1e-3 * sum((a**2).sum() for a in w.values())
    close(lower, 0.5 * cross_entropy(logits, t.data["train"]["label"][:5]).mean() + decay)


def test_loss_tuning():
    t = problems.build("loss_tuning", regularization=0.1)
    counts = np.bincount(t.data["train"]["label"])
    assert counts[0] > 15 * counts[9] > 0  # Long-tailed, .05 at the end; validation is balanced.
    assert len(set(np.bincount(t.data["valid"]["label"]))) == 1
    x, y = draw(t.x0), draw(t.y0)
    x["weight"] = np.exp(x["weight"])
    # Classes of one, two and three test samples: accuracy is not the mean of recalls.
    label = np.array([0, 1, 1, 2, 2, 2], np.int32)
    data = t.data | {"test": {"x": np.float32(RNG.normal(size=(6, 64))), "label": label}}
    index = np.array([0, 4, 9, 11])
    upper, lower, scores = reported(t, x, y, index, data)

    u, w = double(x), double(y)

    def logits(part, which=slice(None)):
        return double(data[part]["x"][which]) @ w["kernel0"] + w["bias0"]

    given = data["train"]["label"][index]
    assert len(set(given)) > 1
    tuned = sigmoid(u["scale"]) * logits("train", index) + u["shift"]
    decay = 0.1 * sum((a**2).sum() for a in w.values())
    close(lower, np.mean(u["weight"][given] * cross_entropy(tuned, given)) + decay)
    losses = cross_entropy(logits("valid"), data["valid"]["label"])
    close(upper, losses[index].mean())
    close(scores["objective"], losses.mean())
    close(scores["valid/accuracy"], share_right(logits("valid"), data["valid"]["label"]))


def test_balanced_accuracy_is_the_mean_of_the_recalls():
    t = problems.build("loss_tuning", train=200, valid=200)
    y = {"kernel0": np.eye(64, 10, dtype=np.float32), "bias0": np.zeros(10, np.float32)}
    # Recall of class c is right[c] of count[c]; the other samples of c look like class c + 1.
    count, right = np.array([1, 2, 3, 4, 5, 1, 1, 1, 1, 10]), [1, 1, 3, 1, 4, 1, 1, 1, 1, 4]
    label = np.repeat(np.arange(10, dtype=np.int32), count)
    seen = [(c + (i >= right[c])) % 10 for c in range(10) for i in range(count[c])]
    data = t.data | {"test": {"x": np.eye(64, dtype=np.float32)[seen], "label": label}}
    scores = jax.jit(t.evaluate)(data, t.x0, y)
    close(scores["test/accuracy"], sum(right) / sum(count))
    close(scores["test/balanced_accuracy"], np.mean(np.array(right) / count))
    close(scores["test/worst_recall"], 0.25)


def test_regularization():
    t = problems.build("regularization", train=30, valid=20)
    splits, _ = task.classification("digits", None, 0, 30, 20)
    pixels = double(splits["train"]["x"])
    std = pixels.std(0)
    wanted = (pixels - pixels.mean(0)) / np.where(std > 1e-6, std, 1)
    np.testing.assert_allclose(t.data["train"]["x"], wanted, atol=1e-4)
    x, y = draw(t.x0), draw(t.y0)
    index = np.array([1, 5, 8])
    upper, lower, scores = reported(t, x, y, index)

    w = double(y)
    logits = {k: double(p["x"]) @ w["kernel"] + w["bias"] for k, p in t.data.items()}
    losses = {k: cross_entropy(v, t.data[k]["label"]) for k, v in logits.items()}
    penalty = 0.5 * np.sum(np.exp(double(x)) * (w["kernel"] ** 2).sum(1))
    close(lower, losses["train"][index].mean() + penalty)
    close(upper, losses["valid"][index].mean())
    close(scores["objective"], losses["valid"].mean())
    close(scores["test/loss"], losses["test"].mean())
    for part in ("valid", "test"):
        close(scores[f"{part}/accuracy"], share_right(logits[part], t.data[part]["label"]))
    np.testing.assert_array_equal(t.problem.project_x(np.full(64, 99.0)), np.full(64, 3.0))


def test_hyper_representation():
    options = {"tasks": 4, "ways": 3, "shots": 2, "queries": 2, "body": (6, 5), "pool": 300}
    t = problems.build("hyper_representation", **options, regularization=0.3)
    x, y = draw(t.x0), draw(t.y0)
    index = np.array([3, 0, 3, 1])  # Tasks; one twice, as a draw with repeats may give.
    upper, lower, scores = reported(t, x, y, index)

    u, w = double(x), double(y)

    def task_loss(part, k):
        h = relu(double(t.data[part]["x"][k]) @ u["kernel0"] + u["bias0"])
        h = relu(h @ u["kernel1"] + u["bias1"])
        logits = h @ w["kernel"][k] + w["bias"][k]
        label = t.data[part]["label"][k]
        return cross_entropy(logits, label).mean(), share_right(logits, label)

    penalty = np.mean([0.3 * (w["kernel"][k] ** 2).sum() for k in index])  # One for each task.
    close(lower, np.mean([task_loss("train", k)[0] for k in index]) + penalty)
    close(upper, np.mean([task_loss("valid", k)[0] for k in index]))
    close(scores["objective"], np.mean([task_loss("valid", k)[0] for k in range(4)]))
    for part in ("train", "valid", "test"):
        right = np.mean([task_loss(part, k)[1] for k in range(4)])
        close(scores[f"{part}/accuracy"], right)
    train = t.data["train"]
    assert [tuple(row) for row in train["label"]] == 4 * [(0, 0, 1, 1, 2, 2)]
    shown = {row.tobytes() for row in train["x"].reshape(-1, 64)}
    assert not shown & {row.tobytes() for row in t.data["valid"]["x"].reshape(-1, 64)}


@pytest.mark.parametrize("form", ["constrained", "hinge"])
def test_svm(form):
    options = {"data": "digits", "train": 30, "valid": 20, "flip": 0.2, "form": form, "seed": 1}
    t = problems.build("svm", **options)
    splits, _ = task.classification("digits", None, 1, 30, 20)
    sign = {k: np.where(s["label"] >= 5, 1.0, -1.0) for k, s in splits.items()}
    features = {k: double(s["x"]) for k, s in splits.items()}
    flipped = np.zeros(30, bool)
    flipped[np.random.default_rng(1).permutation(30)[:6]] = True
    given = np.where(flipped, -sign["train"], sign["train"])
    x, y = draw(t.x0), draw(t.y0)
    upper, lower, scores = reported(t, x, y)

    w = double(y)
    margin = {k: sign[k] * (features[k] @ w["w"] + w["b"]) for k in sign}
    slack = relu(1 - given * (features["train"] @ w["w"] + w["b"]))
    if form == "constrained":
        found = jax.jit(t.problem.constraint)(x, y)
        close(found, 1 - w["xi"] - given * (features["train"] @ w["w"] + w["b"]), rtol=1e-4)
        slack = w["xi"]
    close(lower, 0.5 * w["w"] @ w["w"] + 0.5 * np.exp(double(x)) @ slack**2)
    loss = 2 * sigmoid(-5 * margin["valid"] / np.linalg.norm(w["w"])) - 1
    close(upper, np.sum(np.where(loss > 0, loss, 0.01 * loss)))
    close(scores["objective"], upper)
    for part in ("valid", "test"):
        close(scores[f"{part}/accuracy"], np.mean(margin[part] > 0))
    close(scores["moved"], np.linalg.norm(double(x) - t.x0))
    close(scores["auc"], auc(x, ~flipped))
    groups = t.groups(t.data, x, y)
    np.testing.assert_array_equal(groups["flipped"], x[flipped])
    np.testing.assert_array_equal(groups["clean"], x[~flipped])


# Problems with equations of their own.


def test_llc():
    t = constrained.llc(n=3)
    x, y1, y2 = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 2.0], [-1.0, 1.0, 3.0]])
    upper, lower, scores = reported(t, x, {"y1": y1, "y2": y2})
    close(upper, 0.5 * (4 + 1 + 16) + 0.5 * (0.25 + 1 + 1))
    close(lower, 0.5 * (0.25 + 4) - (0.5 - 2) + 3)
    close(t.problem.constraint(x, {"y1": y1, "y2": y2}), [7.5])
    close(scores["objective"], upper)
    off = [np.sum((x + 0.3) ** 2), np.sum((y1 - 0.7) ** 2), np.sum((y2 + 0.4) ** 2)]
    best = 3 * np.array([0.09, 0.49, 0.16])
    close(scores["x_error"], np.sqrt(off[0] / best[0]))
    close(scores["error"], np.sqrt(sum(off) / best.sum()))


def test_llsc():
    m = constrained.llsc_matrices(seed=2, n=6, m=4, rank=2)
    x, y = RNG.normal(size=(2, 6))
    with jax.enable_x64(True):
        t = constrained.llsc(m)
        upper, lower, scores = reported(t, x, y)
        close(t.problem.constraint(x, y), m["A"] @ y + m["H"] @ x)

    def objective(y):
        return np.sin(m["c"] @ x + m["d"] @ y) + np.log(np.sum((x + y) ** 2) + 1)

    close([upper, lower], [objective(y), 0.5 * np.sum((x - y) ** 2)])
    # The nearest point to x with A y = -H x.
    y_star = x + np.linalg.lstsq(m["A"], -m["H"] @ x - m["A"] @ x)[0]
    close(scores["objective"], objective(y))
    close(scores["psi"], objective(y_star))
    close(scores["y_gap"], np.linalg.norm(y - y_star))


def test_toy():
    t = constrained.toy()
    x, y = np.float32(1.25), np.float32(-0.5)

    def objective(y):
        return np.exp(2 - y) / (2 + np.cos(7.5)) + 0.5 * np.log(3.0**2 + 1)

    upper, lower, scores = reported(t, x, y)
    close([upper, lower], [objective(-0.5), 9.0])
    close(t.problem.constraint(x, y), -1.75)
    close(
        [scores[k] for k in ("objective", "psi", "x", "y_gap")],
        [upper, objective(1.25), 1.25, 1.75],
    )


def test_closed_forms():
    """``lower``, ``upper`` and the measures; value functions have records of their own."""
    with jax.enable_x64(True):
        for name in closed_form.PROBLEMS:
            t = problems.build(name, seed=4)
            d, _, _ = closed_form.random_data(name, seed=4)
            x, y = draw(t.x0), draw(t.y0)
            upper, lower, scores = reported(t, x, y)
            f, g, y_star = equations(name, d)
            close([upper, lower], [f(x, y), g(x, y)], rtol=1e-10)
            close(scores["objective"], f(x, y_star(x)), rtol=1e-10)
            close(scores["y_gap"], np.linalg.norm(y - y_star(x)), rtol=1e-9)

            def psi(x, f=f, y_star=y_star):
                return f(x, y_star(x))

            steps = 1e-5 * np.eye(len(x))
            slopes = [(psi(x + h) - psi(x - h)) / 2e-5 for h in steps]
            close(scores["gradient"], np.linalg.norm(slopes), rtol=1e-6)
            if name in ("p1", "p2a", "p2b"):  # A quadratic: one Newton step from anywhere.
                corner = [
                    [psi(x + a + b) - psi(x + a) - psi(x + b) for b in 1e4 * steps]
                    for a in 1e4 * steps
                ]
                best = x - np.linalg.solve((np.array(corner) + psi(x)) / 1e-2, slopes)
                close(scores["x_gap"], np.linalg.norm(x - best), rtol=1e-6)
                close(scores["gap"], psi(x) - psi(best), rtol=1e-6)
            elif name in ("p4", "p5"):
                close(scores["x_gap"], abs(x[0] - {"p4": 0, "p5": 1 / 1.1}[name]))


def equations(name, d):
    """Returns f, g and x -> argmin g as the table of the problems has them."""

    def sum_of_squares(v):
        return float(np.sum(np.square(v)))

    if name == "p1":
        return (
            lambda x, y: (
                0.5 * (y - d["c"]) @ d["D"] @ (y - d["c"]) + 0.5 * x @ d["E"] @ x + x @ d["K"] @ y
            ),
            lambda x, y: 0.5 * y @ d["A"] @ y - y @ (d["B"] @ x + d["b"]),
            lambda x: np.linalg.solve(d["A"], d["B"] @ x + d["b"]),
        )
    if name in ("p2a", "p2b"):
        M, N, q, reg = d["M"], d["N"], d["q"], d["reg"]
        root = np.linalg.cholesky(d["D"]).T  # |y - c|_D = |root (y - c)|

        def nearest(x):
            if name == "p2a":  # f sees My alone, any solution will do: that of least norm.
                return np.linalg.lstsq(M, N @ x + q)[0]
            inner = np.linalg.lstsq(M @ np.linalg.inv(root), N @ x + q - M @ d["c"])[0]
            return d["c"] + np.linalg.solve(root, inner)

        def f(x, y):
            fit = sum_of_squares(M @ y - d["t"] if name == "p2a" else root @ (y - d["c"]))
            return 0.5 * fit + 0.5 * reg * x @ x

        return f, lambda x, y: 0.5 * sum_of_squares(M @ y - N @ x - q), nearest
    if name == "p3":
        return (
            lambda x, y: (
                0.5 * sum_of_squares(y - d["c"]) + 0.5 * d["reg"] * sum_of_squares(x - d["xh"])
            ),
            lambda x, y: 0.5 * float(np.sum(d["a"] * (y - d["Pm"] @ x) ** 2)),
            lambda x: np.minimum(np.maximum(d["Pm"] @ x, d["lo"]), d["hi"]),
        )
    if name == "p4":
        return (
            lambda x, y: sum_of_squares(x) + sum_of_squares(y),
            lambda x, y: float(x[0] * y[0]),
            lambda x: -np.sign(x),
        )
    return (
        lambda x, y: 0.5 * sum_of_squares(y - 1) + 0.05 * sum_of_squares(x),
        lambda x, y: sum_of_squares(y - x) + 3 * sum_of_squares(np.sin(y - x)),
        lambda x: x,
    )


def test_samples_of_p1_are_added_to_its_mean():
    with jax.enable_x64(True):
        t = problems.build("p1", seed=4, noisy=True)
        d, _, _ = closed_form.random_data("p1", seed=4)
        x, y = draw(t.x0), draw(t.y0)
        upper, lower, _ = reported(t, x, y, [11])
    f, g, _ = equations("p1", d)
    i = 11
    close(upper, f(x, y) + 0.5 * y @ d["dD"][i] @ y + d["du"][i] @ y + d["dv"][i] @ x, rtol=1e-10)
    close(lower, g(x, y) + 0.5 * y @ d["dA"][i] @ y - y @ (d["dB"][i] @ x + d["db"][i]), rtol=1e-10)


# What several of them share.


def test_shared_measures():
    logits = np.float32([[1, 2, 0], [3, -1, 0], [0, 0, 5], [0, 1, 0]])
    label = np.array([1, 1, 2, 0])
    close(task.accuracy(logits, label), 0.5)
    close(task.cross_entropy(logits, label), cross_entropy(double(logits), label))
    scores = RNG.integers(0, 6, 40).astype(np.float32)  # Many ties.
    positive = RNG.random(40) < 0.3
    close(jax.jit(task.auc)(scores, positive), auc(scores, positive))


def test_splits_share_no_sample_and_follow_the_seed():
    (a, classes), (b, _) = (task.classification("digits", None, seed, 50, 30) for seed in (0, 1))
    assert classes == 10
    assert not set(a["train"]["index"]) & set(a["valid"]["index"])
    assert set(a["train"]["index"]) != set(b["train"]["index"])
    assert 0.9 < a["train"]["x"].max() <= 1
