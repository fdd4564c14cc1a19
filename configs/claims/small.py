"""Claims about small transforms and closed forms: one equation each."""

TITLE = "Small pieces"

GROKKING = "Grokking at the edge of stability, arXiv 2501.04697"
PERCEPTRON = "Logistic regression to perceptron, arXiv 2412.08424"
GREEDY = "Block coordinate descent, arXiv 1712.08859"
EF21W = "EF21-W, arXiv 2402.10774"
CAUTIOUS = "Cautious weight decay, arXiv 2510.12402"
SMALL = "python -m benchmarks.small_claims"
BLOCKS = "python -m benchmarks.greedy_blocks --data_dir=DATA --sets=a1a:123 --steps=500"

STUDIES = {}

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
]
