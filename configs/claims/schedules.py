"""Claims about learning-rate schedules: REX and refined schedules."""

TITLE = "Schedules"

REX = "REX, arXiv 2107.04197"
REFINED = "Refined schedules, arXiv 2310.07831"
TABLES = ["rex_digits_sgdm", "rex_digits_adam", "rex_fashion_sgdm", "rex_fashion_adam"]
LOW, HIGH = ["1%", "5%", "10%"], ["25%", "50%", "100%"]
RIVALS = ["Linear Schedule", "Cosine Schedule", "OneCycle", "Exp decay", "Step Schedule", "(none)"]
SHORT = ["linear", "cosine", "OneCycle", "exponential", "step", "none"]
REPRODUCE = "python -m experiments.reproduce --table=TABLE --data_dir=DATA"
LOGREG = "python -m experiments.logreg --data_dir=DATA"

STUDIES = {
    "refined_shape": {"units": {"steps": 1000, "rate": 0.05}, "seeds": 5},
    "sampled_schedules": {
        "units": {"profile": ["linear", "rex"], "rates": [(0.05, 0.1, 0.2)], "steps": 600},
        "seeds": 5,
    },
    "schedule_bounds": {
        "units": {"rates": [(0.01, 0.03, 0.1, 0.3, 1.0)], "steps": 600},
        "seeds": 5,
    },
}


def _study(study, metric, what, side, threshold, against=None, **more):
    """A part that reads a study; ``minus``, ``over`` and ``where`` go to its reader."""
    read = {k: more.pop(k) for k in ("where", "minus", "over") if k in more}
    part = {"what": what, "read": {"study": study, "metric": metric, **read}}
    return {**part, "side": side, "threshold": threshold, "against": against, **more}


def _rex(columns, low):
    return [
        {
            "what": f"accuracy, REX - {short}, {low} budgets",
            "read": {
                "file": TABLES,
                "function": "over_experiments",
                "row": "REX",
                "minus": rival,
                "columns": columns,
            },
            "side": "above",
            "against": 0.0,
            "unit": "%",
            "digits": 2,
            "name": short,
        }
        for rival, short in zip(RIVALS, SHORT, strict=True)
    ]


CLAIMS = [
    {
        "id": "C17",
        "paper": REX,
        "title": "REX best at low budgets",
        "claim": "REX is the best schedule in the low-budget regime.",
        "source": "abstract",
        "scale": "12 experiments: MLPs on digits and Fashion-MNIST, SGDM and Adam, 1, 5 and 10 %"
        " of the"
        " epochs; each the mean of 3 seeds at a tuned rate",
        "set": "after",
        "command": REPRODUCE.replace("TABLE", "rex_fashion_sgdm"),
        "parts": _rex(LOW, "low"),
        "reading": "Over the twelve low-budget experiments REX is {linear} points from linear"
        " decay "
        "[{linear.low}, {linear.high}] and {cosine} from cosine (p {cosine.p}). It has the best "
        "mean at each of the six budgets on Fashion-MNIST with SGDM, yet none of these single "
        "differences is significant after correction: three seeds scatter by as much as the "
        "schedules differ. Against a constant rate it gains {none} points [{none.low}, "
        "{none.high}], against exponential decay {exponential}, which one test alone would call "
        "significant and six together do not (p {none.p}).",
    },
    {
        "id": "C18",
        "paper": REX,
        "title": "REX Top-1 in 70 %, Top-3 in 92 %",
        "claim": "Over all experiments REX is the best schedule in 70 % and among the best three"
        " in 92 %.",
        "source": "table 1",
        "scale": "24 experiments: MLPs on digits and Fashion-MNIST, SGDM and Adam, six budgets",
        "set": "after",
        "command": "python -m experiments.ranks " + " ".join(TABLES),
        "parts": [
            {
                "what": "Top-1",
                "read": {"file": TABLES, "function": "top_share", "row": "REX", "k": 1},
                "side": "above",
                "threshold": 0.6,
                "against": 1 / 7,
                "unit": "%",
                "digits": 0,
                "name": "top1",
            },
            {
                "what": "Top-3",
                "read": {"file": TABLES, "function": "top_share", "row": "REX", "k": 3},
                "side": "above",
                "threshold": 0.8,
                "against": 3 / 7,
                "unit": "%",
                "digits": 0,
                "name": "top3",
            },
            *(
                {
                    "what": f"Top-1 on {name}",
                    "read": {"file": files, "function": "top_share", "row": "REX", "k": 1},
                    "unit": "%",
                    "digits": 0,
                    "name": name,
                }
                for name, files in (("digits", TABLES[:2]), ("fashion", TABLES[2:]))
            ),
        ],
        "reading": "REX is first in {top1} % and among the first three in {top3} %, against 70"
        " and 92 in "
        "the paper. Half of these experiments are on digits, where it is first in {digits} %: "
        "100 epochs of a small MLP end at a loss near zero whatever the schedule, and ranks are "
        "noise. On Fashion-MNIST it is first in {fashion} %.",
    },
    {
        "id": "C19",
        "paper": REX,
        "title": "REX first on ResNet-20, CIFAR-10, 1 %",
        "claim": "ResNet-20 on CIFAR-10 at 1 % of the epochs: REX 72.06, cosine 71.51, linear"
        " 71.30, step"
        " 67.86.",
        "source": "table 4",
        "scale": "the paper's, one seed",
        "set": "after",
        "command": "python -m experiments.reproduce --table=rex_cifar10_sgdm --data_dir=DATA",
        "parts": [
            {
                "what": f"accuracy, REX - {short} (one seed)",
                "read": {"file": "rex_cifar10_sgdm", "row": "REX", "minus": rival, "column": "1%"},
                "side": "above",
                "against": 0.0,
                "unit": "%",
                "digits": 2,
                "name": short,
            }
            for rival, short in (
                ("Linear Schedule", "linear"),
                ("Cosine Schedule", "cosine"),
                ("Step Schedule", "step"),
            )
        ],
        "reading": "REX is first and step last, as in the paper, by {linear} points over linear,"
        " {cosine} "
        "over cosine and {step} over step. That is one run of each, and a single seed decides "
        "nothing, so the verdict stays open. The level is below the paper's, which does not "
        "state batch size, weight decay and grid; here 5000 of the 50000 images are kept for "
        "validation.",
    },
    {
        "id": "C21",
        "paper": REFINED,
        "title": "Linear decay matches or beats all",
        "claim": "Linear decay matches or outperforms the common default schedules, cosine"
        " included.",
        "source": "abstract; logistic regression experiments",
        "scale": "10 LIBSVM sets, best of 10 rates, 3 seeds",
        "set": "after",
        "command": LOGREG,
        "parts": [
            {
                "what": f"{optimizer}, loss of linear over {rival}",
                "read": {
                    "file": "logreg/results",
                    "function": "over_sets",
                    "optimizer": optimizer,
                    "schedule": "linear",
                    "minus": rival,
                },
                "side": "below",
                "threshold": 0.01,
                "against": 0.01,
                "unit": "%",
                "digits": 1,
            }
            for optimizer in ("sgd", "adam")
            for rival in ("cosine", "inverse_sqrt", "constant")
        ],
    },
    {
        "id": "C23",
        "paper": REFINED,
        "title": "Refined schedules beat linear",
        "claim": "Schedules refined from the gradient norms of a run improve on linear decay"
        " further.",
        "source": "abstract",
        "scale": "10 LIBSVM sets, best of 10 rates, 3 seeds",
        "set": "after",
        "command": LOGREG,
        "parts": [
            {
                "what": f"{optimizer}, loss of refined over linear",
                "read": {
                    "file": "logreg/results",
                    "function": "over_sets",
                    "optimizer": optimizer,
                    "schedule": "refined",
                    "minus": "linear",
                },
                "side": "below",
                "against": 0.0,
                "unit": "%",
                "digits": 1,
                "name": optimizer,
            }
            for optimizer in ("sgd", "adam")
        ],
        "reading": "The mean loss of refined schedules over that of linear decay is {sgd} %"
        " [{sgd.low}, "
        "{sgd.high}] with SGD and {adam} % [{adam.low}, {adam.high}] with Adam. These are "
        "convex problems and thousands of steps, on which linear decay is close to what any "
        "schedule reaches. The norms come from one pilot at its own best rate, which for SGD is "
        "often near the edge of stability: what is refined there is in part the pilot's noise.",
    },
    {
        "id": "C20",
        "paper": REX,
        "title": "Refresh the rate at every step",
        "claim": "How often the rate is refreshed is a choice apart from the profile: sampled at"
        " every"
        " step, profiles do better than held between a few milestones.",
        "source": "section 3, profiles and sampling rates",
        "scale": "MLP on digits, 600 steps, linear and REX, best of 3 rates, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "sampled_schedules",
                f"every - {sampling}",
                f"{profile}, log training loss, every step - held ({sampling})",
                "below",
                0.0,
                0.0,
                where={"profile": profile},
                digits=2,
                name=f"{profile}{sampling[:2]}",
            )
            for profile in ("linear", "rex")
            for sampling in ("50-75", "10-10")
        ],
    },
    {
        "id": "C22",
        "paper": REFINED,
        "title": "Refined: warm-up and annealing",
        "claim": "Schedules refined from gradient norms show warm-up and rapid annealing near"
        " the end.",
        "source": "abstract",
        "scale": "MLP on digits, 1000 steps of SGD with momentum, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "refined_shape",
                "first",
                "rate in the first step / largest",
                "below",
                0.8,
                0.95,
                digits=2,
                name="first",
            ),
            _study(
                "refined_shape",
                "place",
                "place of the largest, 0 first and 1 last step",
                "above",
                0.05,
                0.02,
                digits=2,
                name="place",
            ),
            _study(
                "refined_shape",
                "last",
                "rate in the last step / largest",
                "below",
                0.1,
                0.5,
                digits=3,
            ),
        ],
    },
    {
        "id": "C25",
        "paper": REFINED,
        "title": "The bound orders schedules",
        "claim": "The bound on the last iterate orders schedules as their losses do.",
        "source": "the theorem on last iterates and its use for comparison",
        "scale": "linear classifier of digits, 600 steps of SGD with momentum, 6 schedules, best"
        " of 5"
        " rates, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "schedule_bounds",
                "spearman",
                "Spearman's correlation of bound and training loss",
                "above",
                0.5,
                0.0,
                digits=2,
                name="rho",
            ),
        ],
    },
]
