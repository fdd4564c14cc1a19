"""Claims about pruning and sparse training."""

TITLE = "Pruning and sparsity"

BIP = "BiP, arXiv 2210.04092"
LTH = "Lottery tickets, arXiv 1803.03635"
GLOBAL = "Global magnitude pruning, arXiv 2209.14624"
LETTER = "python -m experiments.reproduce --table=pruning_letter --data_dir=DATA"
BOTH = f"python -m experiments.reproduce --table=pruning_digits && {LETTER}"
TICKETS = "python -m experiments.reproduce --table=pruning_tickets --data_dir=DATA"
SETS = (("digits", "pruning_digits"), ("letter", "pruning_letter"))
SCALE = "MLPs on digits and letter, 5 splits each, settings of the methods fixed beforehand"

STUDIES = {}


def _accuracy(row, minus, columns, side="above", threshold=0.0, against=0.0, sets=SETS):
    return [
        {
            "what": f"{name} {column}, {row} - {minus}",
            "read": {"file": file, "row": row, "minus": minus, "column": column},
            "side": side,
            "threshold": threshold,
            "against": against,
            "unit": "%",
            "digits": 2,
            "name": f"{name}{column.replace(' %', '').replace('.', '_')}",
        }
        for name, file in sets
        for column in columns
    ]


CLAIMS = [
    {
        "id": "C32",
        "paper": BIP,
        "title": "BiP finds better tickets than IMP",
        "claim": "BiP finds better winning tickets than IMP in most cases.",
        "source": "abstract",
        "scale": SCALE,
        "set": "after",
        "command": BOTH,
        "parts": _accuracy("BiP", "IMP", ["80 %", "90 %", "95 %", "98 %"]),
        "reading": "BiP's mean is above IMP's at all eight places, yet none of these differences is"
        " significant: at 98 % of digits it is {digits98} points (p {digits98.p}). The gain is also"
        " one over an untuned baseline: IMP at twice the learning rate, or fine-tuned instead of"
        " rewound, is as good or better in both tables. In the authors' program scores and weights"
        " share their memory, which makes it magnitude pruning with two updates; the method of the"
        " paper is what runs here.",
    },
    {
        "id": "C33",
        "paper": BIP,
        "title": "BiP is 2 to 7 times faster than IMP",
        "claim": "BiP is 2 to 7 times faster than IMP at the same accuracy and sparsity.",
        "source": "abstract",
        "scale": SCALE,
        "set": "after",
        "command": BOTH,
        "parts": [
            {
                "what": f"{name} {column}, {of} of IMP / BiP",
                "read": {
                    "file": file,
                    "row": "IMP",
                    "over": "BiP",
                    "column": column,
                    "also": of,
                },
                "side": "above",
                "threshold": 1.9,
                "against": 1.0,
                "digits": 1,
            }
            for name, file in SETS
            for of in ("gradients", "seconds")
            for column in ("80 %", "98 %")
        ],
    },
    {
        "id": "C34",
        "paper": BIP,
        "title": "BiP's implicit gradient helps",
        "claim": "The implicit-gradient term, cheap by bi-linearity, improves the masks.",
        "source": "ablation against alternating updates without it",
        "scale": SCALE,
        "set": "after",
        "command": BOTH,
        "parts": _accuracy("BiP", "BiP, no implicit term", ["80 %", "90 %", "95 %", "98 %"]),
        "reading": "With and without the term BiP is as good: at 98 % of digits {digits98} points"
        " [{digits98.low}, {digits98.high}], of letter {letter98} [{letter98.low},"
        " {letter98.high}]. The term is the squared gradient of a weight divided by gamma; after"
        " dense training, from where BiP starts, gradients are small and their squares smaller."
        " The authors' program has another term in its place (the square of the gradient by the"
        " scores), and runs without any under recent PyTorch.",
    },
    {
        "id": "C36",
        "paper": LTH,
        "title": "Tickets of < 20 % are as good as dense",
        "claim": "Winning tickets with less than 10 to 20 % of the weights match the dense"
        " network.",
        "source": "abstract",
        "scale": "LeNet-300-100 on MNIST, a third of the paper's iterations, 3 seeds",
        "set": "after",
        "command": TICKETS,
        "parts": _accuracy(
            "IMP",
            "dense",
            ["7.0 %", "3.6 %", "1.9 %"],
            threshold=-0.005,
            against=-0.005,
            sets=[("kept", "pruning_tickets")],
        ),
    },
    {
        "id": "C37",
        "paper": LTH,
        "title": "Re-initialized tickets lose",
        "claim": "With new random weights the same masks train to a worse network.",
        "source": "abstract; section 2",
        "scale": "LeNet-300-100 on MNIST, a third of the paper's iterations, 3 seeds",
        "set": "after",
        "command": TICKETS,
        "parts": _accuracy(
            "IMP's masks, new weights",
            "IMP",
            ["7.0 %", "3.6 %", "1.9 %"],
            side="below",
            sets=[("kept", "pruning_tickets")],
        ),
    },
    {
        "id": "C41",
        "paper": GLOBAL,
        "title": "Gradual magnitude pruning is enough",
        "claim": "Global magnitude pruning is as good as elaborate pruners.",
        "source": "abstract",
        "scale": SCALE + "; gradual pruning at three times the epochs of BiP and Hydra",
        "set": "after",
        "command": BOTH,
        "parts": [
            part
            for rival in ("BiP", "Hydra")
            for part in _accuracy(
                "GMP, 3 x epochs", rival, ["90 %", "95 %", "98 %"], threshold=-0.01, against=-0.01
            )
        ],
    },
]
