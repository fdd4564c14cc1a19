"""Claims about small transforms and closed forms: one equation each."""

TITLE = "Small pieces"

GROKKING = "Grokking at the edge of stability, arXiv 2501.04697"
PERCEPTRON = "Logistic regression to perceptron, arXiv 2412.08424"
GREEDY = "Block coordinate descent, arXiv 1712.08859"
EF21W = "EF21-W, arXiv 2402.10774"
CAUTIOUS = "Cautious weight decay, arXiv 2510.12402"
SMALL = "python -m benchmarks.small_claims"
BLOCKS = "python -m benchmarks.greedy_blocks --data_dir=DATA --sets=a1a:123 --steps=500"

TUNED = {
    "backpropagation": "exact",
    "RGE": "rge",
    "RGE, 8 directions": "rge8",
    "forward gradient": "forward",
    "block-wise": "block",
    "sparse": "sparse",
    "hybrid": "hybrid",
    "sign": "sign",
    "conservative": "conservative",
}

STUDIES = {
    "participation": {
        "units": {"clients": 20, "rounds": 4000, "rate": 0.02, "cutoff": 50},
        "seeds": 10,
    },
    "zeroth_order_queries": {
        "units": {"hidden": [0, 8], "steps": 60, "rates": [(0.3, 1.0, 3.0, 10.0)]},
        "seeds": 5,
    },
    "zeroth_order_tuning": {
        "units": {
            "method": list(TUNED),
            "passes": [500, 3000],
            "rates": [(1e-4, 3e-4, 1e-3, 3e-3, 1e-2)],
        },
        "seeds": 5,
        "data": True,
    },
    "rank_descent": {
        "units": {"function": ["quadratic", "rosenbrock"], "size": 20, "steps": 1000},
        "seeds": 5,
    },
    "robust_recovery": {
        "units": {
            "searched": [3, 6, 15],
            "rank": 3,
            "size": 20,
            "samples": 600,
            "outliers": 0.1,
            "steps": 600,
        },
        "seeds": 5,
    },
}


def _study(study, metric, what, side, threshold, against=None, **more):
    """A part that reads a study; ``minus``, ``over`` and ``where`` go to its reader."""
    read = {k: more.pop(k) for k in ("where", "minus", "over") if k in more}
    part = {"what": what, "read": {"study": study, "metric": metric, **read}}
    return {**part, "side": side, "threshold": threshold, "against": against, **more}


LEAST = [f"least squares {deviation}" for deviation in ("0", "0.5", "1")]

CLAIMS = [
    {
        "id": "C64",
        "paper": GROKKING,
        "title": "Orthogonal gradients: no delay",
        "claim": "Gradients orthogonal to the weights let a network generalize at once, without"
        " the delay"
        " of grokking.",
        "source": "abstract",
        "scale": "(a + b) mod 113, MLP, 40 % of the pairs, 300 steps, 3 seeds",
        "set": "after",
        "command": "python -m benchmarks.grokking --seeds=3 --steps=300",
        "parts": [
            {
                "what": "unseen pairs, OrthoGrad at step 150",
                "read": {
                    "file": "small/grokking",
                    "function": "at_step",
                    "method": "OrthoGrad AdamW",
                    "of": "test",
                    "step": 150,
                },
                "side": "above",
                "threshold": 0.95,
                "against": 0.5,
                "unit": "%",
                "digits": 1,
            },
            {
                "what": "unseen pairs, AdamW at step 300",
                "read": {
                    "file": "small/grokking",
                    "function": "at_step",
                    "method": "AdamW",
                    "of": "test",
                    "step": 300,
                },
                "side": "below",
                "threshold": 0.05,
                "against": 0.5,
                "unit": "%",
                "digits": 2,
            },
        ],
    },
    {
        "id": "C65",
        "paper": GROKKING,
        "title": "StableMax prevents softmax collapse",
        "claim": "Without decay the softmax absorbs ever more examples in rounding, which stops the"
        " learning; StableMax absorbs none and generalizes.",
        "source": "abstract; section on softmax collapse",
        "scale": "(a + b) mod 31, MLP, 80 % of the pairs, float32, 8000 steps of Adam, 3 seeds",
        "set": "after",
        "command": "python -m benchmarks.softmax_collapse --seeds=3 --steps=8000",
        "parts": [
            {
                "what": f"{what} at step 8000, {method}",
                "read": {
                    "file": "small/softmax_collapse",
                    "function": "at_step",
                    "method": method,
                    "of": of,
                    "step": 8000,
                },
                "side": side,
                "threshold": bound,
                "against": against,
                "unit": "%",
                "digits": 1,
            }
            for method, of, what, side, bound, against in (
                ("softmax", "absorbed", "examples with loss zero", "above", 0.25, 0.05),
                ("StableMax", "absorbed", "examples with loss zero", "below", 0.001, 0.05),
                ("StableMax", "test", "unseen pairs", "above", 0.95, 0.2),
            )
        ],
        "reading": "The mechanism is there: nearly all examples end with a loss of exactly zero"
        " under the softmax and none under StableMax. That the network then learns the rule is not"
        " seen: the authors train five times as long, on (a + b) mod 113 and with StableMax in"
        " float64, and StableMax's gradients are small where the softmax's are large.",
    },
    {
        "id": "C66",
        "paper": PERCEPTRON,
        "title": "Normalized steps separate faster",
        "claim": "Gradient descent on logistic regression needs time in proportion to the number"
        " of points"
        " to separate them however large its step; normalized by the mean weight it does not.",
        "source": "theorem 5.1 and its data",
        "scale": "10^2 to 10^4 points, deterministic",
        "set": "after",
        "command": SMALL,
        "parts": [
            {
                "what": "plain, steps for 10^4 points / for 10^2",
                "read": {
                    "file": "small/claims",
                    "path": ["separation", "10000", "gradient descent, 100"],
                    "over": ["separation", "100", "gradient descent, 100"],
                },
                "side": "above",
                "threshold": 50,
                "against": 10,
            },
            {
                "what": "normalized, the same",
                "read": {
                    "file": "small/claims",
                    "path": ["separation", "10000", "normalized, 10"],
                    "over": ["separation", "100", "normalized, 10"],
                },
                "side": "below",
                "threshold": 5,
                "against": 50,
            },
        ],
    },
    {
        "id": "C70",
        "paper": GREEDY,
        "title": "Greedy blocks progress more",
        "claim": "Greedy rules (GS, and GSL more than it) make more progress per iteration than"
        " random or"
        " cyclic blocks.",
        "source": "experiments of the paper",
        "scale": "least squares with constants of deviation 0, .5 and 1, geometric means of 10"
        " seeds; a1a",
        "set": "after",
        "command": BLOCKS,
        "parts": [
            {
                "what": f"{where}, gap of {rule} / cyclic",
                "read": {
                    "file": "small/greedy_blocks",
                    "path": [where, "gap", rule],
                    "over": [where, "gap", "cyclic"],
                },
                "side": "below",
                "threshold": 0.9,
                "against": 1.0,
                "digits": 2,
                "name": f"{rule}_{where.split()[-1].replace('.', '')}",
            }
            for rule in ("GSL", "GS")
            for where in (*LEAST, "a1a")
        ],
        "reading": "GSL holds everywhere. GS, the largest gradient, is ahead where the Lipschitz"
        " constants of"
        " the blocks are alike (.5: {GS_05} of cyclic's gap) and falls behind where they spread"
        " most ({GS_1}) and on a1a ({GS_a1a}): it then picks steep blocks, on which its step is"
        " short. The paper's own theory says so, and it is the reason for GSL, which divides by"
        " the constants; how the published problems were scaled decides what a figure of GS"
        " shows.",
    },
    {
        "id": "C71",
        "paper": GREEDY,
        "title": "Active set found in finite steps",
        "claim": "Block coordinate descent identifies the active set of a lasso after finitely"
        " many steps;"
        " greedy rules do so sooner.",
        "source": "section on active-set identification",
        "scale": "lasso on a1a, deterministic",
        "set": "after",
        "command": BLOCKS,
        "parts": [
            {
                "what": "block steps until the zeros are final, greedy",
                "read": {"file": "small/greedy_blocks", "path": ["lasso", "a1a", "GS-q"]},
                "side": "below",
                "threshold": 5000,
                "against": 5000,
            },
            {
                "what": "greedy / cyclic",
                "read": {
                    "file": "small/greedy_blocks",
                    "path": ["lasso", "a1a", "GS-q"],
                    "over": ["lasso", "a1a", "cyclic"],
                },
                "side": "below",
                "threshold": 0.5,
                "against": 1.0,
                "digits": 2,
            },
        ],
    },
    {
        "id": "C83",
        "paper": EF21W,
        "title": "EF21 with the arithmetic mean",
        "claim": "Error feedback converges with a step from the arithmetic, not the quadratic,"
        " mean of the"
        " smoothness constants: larger where clients differ.",
        "source": "abstract",
        "scale": "20 clients, one of them 100 times as smooth, Top-1 of 5 numbers, deterministic",
        "set": "after",
        "command": SMALL,
        "parts": [
            {
                "what": "step size, EF21-W / EF21",
                "read": {
                    "file": "small/claims",
                    "path": ["error feedback", "EF21-W", "step size"],
                    "over": ["error feedback", "EF21", "step size"],
                },
                "side": "above",
                "threshold": 2,
                "against": 1,
                "digits": 2,
            },
            {
                "what": "norm of the gradient after 100 steps, EF21-W / EF21",
                "read": {
                    "file": "small/claims",
                    "path": ["error feedback", "EF21-W", "100"],
                    "over": ["error feedback", "EF21", "100"],
                },
                "side": "below",
                "threshold": 0.1,
                "against": 1,
            },
        ],
    },
    {
        "id": "C94",
        "paper": CAUTIOUS,
        "title": "Cautious decay leaves the optimum",
        "claim": "Decay only where it agrees with the update leaves the minimizer of the loss"
        " unchanged,"
        " where plain decay moves it.",
        "source": "abstract",
        "scale": "a quadratic of three variables with minimizer (2, -1, .5), decay .3",
        "set": "after",
        "command": SMALL,
        "parts": [
            {
                "what": "first coordinate of the limit, cautious",
                "read": {"file": "small/claims", "path": ["decay", "cautious", 0]},
                "side": "above",
                "threshold": 1.999,
                "against": 1.9,
                "digits": 3,
            },
            {
                "what": "the same, plain decay",
                "read": {"file": "small/claims", "path": ["decay", "plain", 0]},
                "side": "below",
                "threshold": 1.9,
                "against": 1.999,
                "digits": 3,
            },
        ],
    },
    {
        "id": "C74",
        "paper": "Subgradient recovery, arXiv 2202.08788",
        "title": "Small start: excess rank is harmless",
        "claim": "From a small start the subgradient method recovers a low-rank matrix under"
        " gross outliers"
        " though the rank it searches is too large.",
        "source": "abstract",
        "scale": "20 x 20 of rank 3, 600 measurements of which 10 % are wrong, ranks 3, 6, 15,"
        " 600 steps,"
        " 5 problems",
        "set": "before",
        "parts": [
            *(
                _study(
                    "robust_recovery",
                    "error",
                    f"relative error at rank {searched}",
                    "below",
                    0.01,
                    0.1,
                    where={"searched": searched},
                )
                for searched in (3, 6, 15)
            ),
            _study(
                "robust_recovery",
                "below",
                "step at which the error is below .1, rank 15 / rank 3",
                "below",
                1.5,
                2.0,
                where={"searched": 15},
                over={"searched": 3},
                digits=2,
            ),
        ],
    },
    {
        "id": "C76",
        "paper": "DeepZero, arXiv 2310.02025",
        "title": "Coordinates beat random directions",
        "claim": "At equal evaluations gradients by differences along coordinates are better"
        " than along"
        " random directions.",
        "source": "abstract; section on CGE and RGE",
        "scale": "classifiers of 4x4 digits, linear (170 parameters) and an MLP of 8 hidden units"
        " (226), 60 steps of as many directions, best of 4 rates, 5 seeds",
        "set": "before",
        "parts": [
            *(
                _study(
                    "zeroth_order_queries",
                    "gap to RGE",
                    f"{model}, log of the training loss, CGE - RGE",
                    "below",
                    0.0,
                    0.0,
                    where={"hidden": hidden},
                    digits=3,
                )
                for model, hidden in (("linear", 0), ("MLP", 8))
            ),
            *(
                _study(
                    "zeroth_order_queries",
                    f"{method} cosine",
                    what,
                    side,
                    bound,
                    against,
                    where={"hidden": 0},
                )
                for method, what, side, bound, against in (
                    (
                        "CGE",
                        "cosine of the first estimate to the gradient, CGE",
                        "above",
                        0.99,
                        0.9,
                    ),
                    ("RGE", "the same, RGE", "below", 0.9, 0.99),
                )
            ),
            *(
                {
                    "what": f"{model}, log of the training loss, CGE - RGE of 10 directions in more"
                    " steps",
                    "read": {
                        "study": "zeroth_order_queries",
                        "metric": "gap to RGE, 10 directions",
                        "where": {"hidden": hidden},
                    },
                    "digits": 2,
                    "name": f"few_{model}",
                }
                for model, hidden in (("linear", 0), ("MLP", 8))
            ),
        ],
        "reading": "At equal evaluations for a step the mean is on the side of CGE, on the MLP in"
        " four seeds of five, within chance. At equal evaluations in all RGE with 10 directions in"
        " 15 to 20 times as many steps ends far below CGE: log of the losses {few_linear} apart on"
        " the linear model, {few_MLP} on the MLP.",
    },
    {
        "id": "C77",
        "paper": "ZO-LLM, arXiv 2402.11592",
        "title": "Beyond plain ZO-SGD",
        "claim": "In fine-tuning without backpropagation the forward gradient, block-wise and"
        " sparse estimates, and backpropagation for the last layer improve on random estimates of"
        " the whole gradient.",
        "source": "abstract; section on extended methods",
        "scale": "transformer of .03M parameters, 1000 steps on tinyshakespeare, then PTB: 3000"
        " forward passes on 16 windows of 32 characters, a tangent or gradient counts as two, Adam,"
        " best of 5 rates on a seed of its own, 5 seeds",
        "set": "before",
        "command": "python -m experiments.claims --only=C77 --fresh --data_dir=DATA",
        "parts": [
            _study(
                "zeroth_order_tuning",
                "gain",
                "test loss, RGE - before fine-tuning",
                "below",
                -0.1,
                0.0,
                where={"method": "RGE", "passes": 3000},
            ),
            *(
                _study(
                    "zeroth_order_tuning",
                    "loss",
                    f"test loss, {method} - RGE",
                    "below",
                    0.0,
                    0.0,
                    where={"method": method, "passes": 3000},
                    minus={"method": "RGE", "passes": 3000},
                    digits=4 if method == "forward gradient" else 3,
                )
                for method in ("forward gradient", "block-wise", "sparse", "hybrid")
            ),
            *(
                {
                    "what": f"test loss, {method}, {passes} passes",
                    "read": {
                        "study": "zeroth_order_tuning",
                        "metric": "loss",
                        "where": {"method": method, "passes": passes},
                    },
                    "digits": 2,
                    "name": f"{name}{passes}",
                }
                for method, name in TUNED.items()
                for passes in (500, 3000)
            ),
        ],
        "reading": "Backpropagation for the output layer and RGE for the rest is far ahead. The"
        " forward gradient is RGE: with the same directions a central difference with mu .001 and"
        " the exact derivative differ by rounding, so that the losses agree to three digits; a"
        " tangent saves the choice of mu, not passes. Blocks change nothing, since each costs two"
        " passes of its own; masks that hold for 100 steps lose a little. Test losses after 500 and"
        " 3000 passes, from 2.75 before: RGE {rge500} and {rge3000}, of 8 directions {rge8500} and"
        " {rge83000}, forward gradient {forward500} and {forward3000}, block-wise {block500} and"
        " {block3000}, sparse {sparse500} and {sparse3000}, hybrid {hybrid500} and {hybrid3000},"
        " sign {sign500} and {sign3000}, conservative, of five passes a step, {conservative500} and"
        " {conservative3000}, backpropagation {exact500} and {exact3000}, at the largest rate of"
        " the grid. MeZO is RGE with SGD.",
    },
    {
        "id": "C78",
        "paper": "ZO-RankSGD, arXiv 2303.03751",
        "title": "Ranks are enough to minimize",
        "claim": "A function that is known only through rankings of points can be minimized.",
        "source": "abstract",
        "scale": "a quadratic of condition 10 and Rosenbrock's function, 20 variables, 1000"
        " steps, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "rank_descent",
                "share",
                f"{function}, value at the end / at the start",
                "below",
                bound,
                0.9,
                where={"function": function},
                name=function,
            )
            for function, bound in (("quadratic", 0.01), ("rosenbrock", 0.5))
        ],
    },
    {
        "id": "C87",
        "paper": "FedAU, arXiv 2306.03401",
        "title": "FedAU corrects skewed participation",
        "claim": "Under skewed participation FedAvg ends away from the optimum; FedAU, which"
        " weighs clients"
        " by how rarely they come, does not.",
        "source": "abstract",
        "scale": "20 quadratic clients, 4000 rounds, 10 draws",
        "set": "before",
        "parts": [
            _study(
                "participation",
                "ratio",
                "distance to the optimum, FedAU / FedAvg",
                "below",
                0.5,
                1.0,
                digits=2,
            ),
            _study(
                "participation",
                "FedAvg",
                "distance to the optimum, FedAvg",
                "above",
                0.05,
                0.01,
            ),
        ],
    },
    {
        "id": "C67",
        "paper": "Step Law, arXiv 2503.04715",
        "title": "Step Law: .09 % from the best",
        "claim": "The learning rate and batch size that the law predicts are .09 % from the best"
        " loss.",
        "source": "abstract",
        "scale": "the authors' losses of 1911 dense models, 17 grids; the predicted point by the"
        " nearest run"
        " and by a surface fitted to the grid",
        "set": "after",
        "command": "python -m benchmarks.step_law --data=dense_lr_bs_loss.csv",
        "parts": [
            {
                "what": f"excess over the best of the grid, {name}",
                "read": {"file": "small/step_law", "path": [path]},
                "side": "below",
                "threshold": 0.0009,
                "against": 0.0018,
                "unit": "%",
                "digits": 3,
            }
            for name, path in (("surface", "surface"), ("nearest run", "nearest"))
        ],
    },
    {
        "id": "C68",
        "paper": "Step Law, arXiv 2503.04715",
        "title": "Step Law: a bowl with a flat bottom",
        "claim": "The loss over learning rate and batch size is convex with a plateau, and the"
        " best learning rate is a power of the sizes of model and data.",
        "source": "abstract; sections on the landscape and the fit",
        "scale": "the authors' losses of 1911 dense models, 17 grids; no training of ours",
        "set": "before",
        "command": "python -m benchmarks.step_law --data=dense_lr_bs_loss.csv",
        "parts": [
            {
                "what": what,
                "read": {"file": "small/step_law", "path": ["landscape", key]},
                "side": side,
                "threshold": bound,
                "against": against,
                "digits": digits,
                **more,
            }
            for what, key, side, bound, against, digits, more in (
                ("lines that fall and then rise", "unimodal", "above", 0.95, 0.8, 1, {"unit": "%"}),
                (
                    "narrowest plateau, largest / smallest rate",
                    "narrowest plateau",
                    "above",
                    2.0,
                    1.2,
                    2,
                    {},
                ),
                *(
                    (
                        f"fitted exponent of {name} less the law's",
                        f"exponent of {name}, less the law's",
                        "within",
                        0.15,
                        0.3,
                        3,
                        {},
                    )
                    for name in "ND"
                ),
            )
        ]
        + [
            {
                "what": what,
                "read": {"file": "small/step_law", "path": ["landscape", key]},
                "name": name,
                **more,
            }
            for what, key, name, more in (
                (
                    "lines that fall and then rise, without diverged runs",
                    "unimodal, none diverged",
                    "sound",
                    {"unit": "%", "digits": 1},
                ),
                ("median plateau", "median plateau", "median", {"digits": 2}),
            )
        ],
        "reading": "The power of the sizes is there. Over the whole grid the bowl is none, because"
        " runs with too large a rate diverge, and how far is chance: without those, whose loss is"
        " more than half above the best, {sound} of the lines fall and then rise. Rates differ by"
        " factors of about 1.4 within a grid, so that the narrowest plateau is a single step; in"
        " the median it spans a factor of {median}.",
    },
    {
        "id": "C69",
        "paper": "sharpDARTS, arXiv 1903.09900",
        "title": "Cosine-power beats cosine",
        "claim": "Cosine-power annealing is better than cosine annealing.",
        "source": "abstract",
        "scale": "MLP on digits, peaks chosen on other seeds, 10 seeds",
        "set": "after",
        "command": "python -m benchmarks.cosine_power --seeds=10 --tuning=10",
        "parts": [
            {
                "what": f"accuracy in points, power {power} - cosine",
                "read": {
                    "file": "small/cosine_power",
                    "path": ["sets", "digits", "runs", f"power {power}", "test"],
                    "minus": ["sets", "digits", "runs", "power 1", "test"],
                },
                "side": "above",
                "against": 0.0,
                "digits": 2,
                "name": f"power{power}",
            }
            for power in (2, 10)
        ],
        "reading": "Power 10, the paper's, is {power10} points from the cosine [{power10.low},"
        " {power10.high}], power 2 {power2}. A large power spends most of a run at small rates. The"
        " paper anneals for hundreds of epochs of architecture search with heavy regularization,"
        " where late small steps pay; in a short run without it they are steps not taken.",
    },
    {
        "id": "C84",
        "paper": "AdAdaGrad, arXiv 2402.11215",
        "title": "Growing batches: same accuracy",
        "claim": "Batches that grow by a test of the gradients' variance reach the accuracy of"
        " small ones in"
        " fewer steps.",
        "source": "abstract",
        "scale": "a tenth of MNIST, 54000 examples, test of .5 against a batch of 64, 5 seeds",
        "set": "after",
        "command": "python -m benchmarks.batch_sizes --data_dir=DATA --seeds=5 --budget=54000",
        "parts": [
            {
                "what": f"{optimizer}, {what}",
                "read": {
                    "file": "small/batch_sizes",
                    "path": ["runs", optimizer, "norm test, .5", key],
                    how: ["runs", optimizer, "64", key],
                },
                "side": side,
                "threshold": bound,
                "against": against,
                "digits": 2,
                "name": f"{optimizer.replace('-', '')}_{key}",
            }
            for optimizer in ("AdaGrad-Norm", "Adam")
            for what, key, how, side, bound, against in (
                ("steps / those of 64", "steps", "over", "below", 0.5, 1.0),
                ("accuracy in points, - that of 64", "accuracy", "minus", "above", -0.5, -0.5),
            )
        ],
        "reading": "Steps fall to {Adam_steps} of those of batch 64 with Adam, and the accuracy by"
        " {Adam_accuracy} points [{Adam_accuracy.low}, {Adam_accuracy.high}]; with AdaGrad-Norm it"
        " is {AdaGradNorm_accuracy}. All see the same number of examples, and within that budget a"
        " large batch takes too few steps for a network this small.",
    },
]
