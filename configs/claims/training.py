"""Claims about how networks train, and about how they are compared."""

TITLE = "Training and comparing"

TESTS = "Holm's and the 5x2cv test, as urged by Demšar, JMLR 2006"
TABLES = [
    "digits_optimizers",
    "mnist_optimizers",
    "tinyshakespeare_optimizers",
    "frugal_tinyshakespeare",
    "pruning_digits",
    "pruning_letter",
    "pruning_tickets",
    "rex_digits_sgdm",
    "rex_digits_adam",
    "rex_fashion_sgdm",
    "rex_fashion_adam",
    "bilevel/bilevel_svm",
    "bilevel/bilevel_cleaning",
    "bilevel/bilevel_cleaning_mnist",
]

STUDIES = {
    "mode_connectivity": {"units": {"width": [32, 256], "sweeps": 5}, "seeds": 5},
    "double_descent": {"units": {"samples": 300, "steps": [100, 1000000]}, "seeds": 5},
}

CLAIMS = [
    {
        "id": "C88",
        "paper": "AlgoPerf, arXiv 2306.07179",
        "title": "The tuning protocol decides the ranking",
        "claim": "How well an optimizer ranks depends on the protocol by which it is tuned.",
        "source": "abstract; section on tuning",
        "scale": "the comparison of this project: mean ranks of its tuned methods over the"
        " workloads, by the best value of 1 or of 5 settings",
        "set": "before",
        "command": "python -m experiments.compare --studies=2 --data_dir=DATA",
        "parts": [
            {
                "what": f"Spearman's correlation of the rankings by 1 and by 5 settings, study"
                f" {study + 1}",
                "read": {
                    "file": "compare/compare",
                    "function": "ranking_agreement",
                    "settings": (1, 5),
                    "studies": (study, study),
                },
                "side": "below",
                "threshold": 0.7,
                "against": 0.95,
                "digits": 2,
            }
            for study in (0, 1)
        ]
        + [
            {
                "what": "the same of the rankings by 5 settings in the two studies, which draw"
                " others",
                "read": {
                    "file": "compare/compare",
                    "function": "ranking_agreement",
                    "settings": (5, 5),
                    "studies": (0, 1),
                },
                "digits": 2,
            }
        ],
    },
    {
        "id": "C89",
        "paper": TESTS,
        "title": "Uncorrected tests overstate",
        "claim": "Of differences that a test calls significant one by one, many do not survive a"
        " correction"
        " for their number.",
        "source": "section 3.2 of Demšar",
        "scale": "all paired comparisons of 14 committed tables",
        "set": "after",
        "command": "python -m experiments.claims --only=C89",
        "parts": [
            {
                "what": "share with p < .05 after Holm within each table, less the uncorrected"
                " share",
                "read": {
                    "file": TABLES,
                    "function": "share_significant",
                    "correction": "table",
                    "less": "none",
                },
                "side": "below",
                "threshold": -0.1,
                "against": 0.0,
                "unit": "%",
                "digits": 1,
            },
            {
                "what": "uncorrected share",
                "read": {"file": TABLES, "function": "share_significant", "correction": "none"},
                "unit": "%",
                "digits": 1,
            },
            {
                "what": "share after Holm over all tables",
                "read": {"file": TABLES, "function": "share_significant", "correction": "all"},
                "unit": "%",
                "digits": 1,
            },
        ],
    },
    {
        "id": "C90",
        "paper": "Git Re-Basin, arXiv 2209.04836",
        "title": "Matched networks: low barriers",
        "claim": "After the neurons of one are permuted to match, two networks are connected by"
        " a line of"
        " low loss, the more the wider they are.",
        "source": "abstract",
        "scale": "MLPs with two hidden layers of 32 and 256 on digits, 600 steps, weight"
        " matching, 5 pairs",
        "set": "before",
        "parts": [
            {
                "what": "barrier at width 256, matched / as they are",
                "read": {
                    "study": "mode_connectivity",
                    "metric": "ratio",
                    "where": {"width": 256},
                },
                "side": "below",
                "threshold": 0.5,
                "against": 1.0,
                "digits": 2,
            },
            {
                "what": "matched barrier at width 256 less that at 32",
                "read": {
                    "study": "mode_connectivity",
                    "metric": "matched",
                    "where": {"width": 256},
                    "minus": {"width": 32},
                },
                "side": "below",
                "threshold": 0.0,
                "against": 0.0,
            },
        ],
    },
    {
        "id": "C72",
        "paper": "Liu and Flanigan 2023, on optimization in double descent",
        "title": "Double descent needs a low loss",
        "claim": "The peak of double descent shows only if training reaches a low enough loss.",
        "source": "main claim",
        "scale": "least squares on 50 to 2000 random features of 300 digits, 100 or 10^6 steps"
        " of gradient"
        " descent, 5 draws",
        "set": "before",
        "parts": [
            {
                "what": f"test error at 300 features / larger of those at the ends, {steps} steps",
                "read": {
                    "study": "double_descent",
                    "metric": "peak",
                    "where": {"steps": steps},
                },
                "side": side,
                "threshold": bound,
                "against": against,
                "digits": 2,
            }
            for steps, side, bound, against in (
                (1000000, "above", 1.2, 1.0),
                (100, "below", 1.05, 1.2),
            )
        ],
        "reading": "After 100 steps there is no peak ({n1} of the larger end). After 10^6 steps,"
        " at 300 "
        "features for 300 samples, the mean excess is {n0} [{n0.low}, {n0.high}], short of the "
        "bound and not told from none by five draws: even then gradient descent has not reached "
        "the smallest singular values, whose inverse makes the peak of the minimum-norm "
        "solution. That agrees with the claim more than its verdict says.",
    },
]
