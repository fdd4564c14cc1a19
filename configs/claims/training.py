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

STUDIES = {}

CLAIMS = [
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
]
