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

STABLE = "Stabilizing lottery tickets, arXiv 1903.01611"
SAP = "Sparsity perspective (PQI, SAP), arXiv 2302.05601"
RANDOM = "Random pruning, arXiv 2202.02643"
CROPPING = "PreCropping, arXiv 2203.02549"
RETHINKING = "Rethinking the value of pruning, arXiv 1810.05270"
ORACLE = "Oracle pruning, arXiv 2412.00143"
DISTORTION = "Rate-distortion pruning, arXiv 2308.10438"
EVOPRESS = "EvoPress, arXiv 2410.14649"
GRANET = "GraNet, arXiv 2106.10404"
GRADIENT_FLOW = "Progressive gradient flow, arXiv 2402.04744"
RPS = "STABLE-RPS, arXiv 2310.11611"
SARA = "SaRA, arXiv 2409.06633"
DIGITS = "MLP 64-128-64-10 on digits, 600 steps of SGD"
FASHION = "MLP 784-128-64-10 on 6,000 images of Fashion-MNIST, 900 steps of SGD"

STUDIES = {
    "ticket_speed": {"units": {"rounds": 7, "rate": 0.02, "every": 20, "checks": 40}, "seeds": 5},
    "rewinding": {"units": {"rounds": 10, "rate": [0.05, 0.2], "early": 40}, "seeds": 5},
    "layer_collapse": {"units": {"density": [0.01, 0.005], "floor": 20}, "seeds": 5},
    "pq_index_rounds": {"units": {"rounds": 26}, "seeds": 3},
    "adaptive_amounts": {"units": {"rounds": 6}, "seeds": 5},
    "random_widths": {"units": {"width": [16, 64, 256], "density": 0.1}, "seeds": 5},
    "layer_ratios": {"units": {"density": [0.1, 0.05]}, "seeds": 8},
    "structured_scratch": {"units": {"kept": 32, "steps": 600}, "seeds": 5},
    "ticket_rates": {
        "units": {"rounds": 8, "rates": [(0.02, 0.05, 0.1)], "final": [(0.02, 0.05, 0.1, 0.2)]},
        "seeds": 5,
    },
    "oracle_pruning": {"units": {"masks": 60, "kept": 32, "steps": 100}, "seeds": 5},
    "distortion": {"units": {"vectors": 60}, "seeds": 5},
    "sparse_from_start": {"units": {"density": [0.05, 0.02]}, "seeds": 5, "data": True},
    "pruning_plasticity": {"units": {"density": [0.05, 0.02]}, "seeds": 5, "data": True},
    "nm_gradient_flow": {
        "units": {
            "network": ["mlp", "transformer"],
            "rule": ["sr_ste", "ste", "linear", "exponential"],
            "structure": "1:16",
        },
        "seeds": 3,
        "data": True,
    },
    "level_ratios": {"units": {"density": [0.1, 0.02]}, "seeds": 5, "data": True},
    "equal_memory": {"units": {"compression": [10, 100]}, "seeds": 5, "data": True},
    "smallest_weights": {
        "units": {"widths": [(64, 128, 64, 10), (64, 32, 10)], "share": [0.1, 0.2]},
        "seeds": 10,
    },
}

POINTS = {"unit": "%", "digits": 2}
_NM_NETWORKS = (
    ("mlp", "MLP, accuracy", "above", POINTS),
    ("transformer", "transformer, loss", "below", {"digits": 3}),
)


def _study(study, metric, what, side, threshold, against=None, **more):
    """A part that reads a study; ``minus``, ``over`` and ``where`` go to its reader."""
    read = {k: more.pop(k) for k in ("where", "minus", "over") if k in more}
    part = {"what": what, "read": {"study": study, "metric": metric, **read}}
    return {**part, "side": side, "threshold": threshold, "against": against, **more}


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
    {
        "id": "C38",
        "paper": LTH,
        "title": "Tickets learn faster",
        "claim": "Winning tickets learn faster: their validation loss is least at an earlier"
        " step than the dense network's.",
        "source": "abstract",
        "scale": f"{DIGITS}; 7 rounds, then a constant rate of .02, checked every 20 steps, 5"
        f" seeds",
        "set": "before",
        "parts": [
            _study(
                "ticket_speed",
                "ticket / dense",
                "step of the least validation loss, ticket / dense",
                "below",
                1.0,
                1.0,
                digits=2,
            )
        ],
    },
    {
        "id": "C39",
        "paper": STABLE,
        "title": "Rewinding a little later rescues IMP",
        "claim": "At high learning rates iterative pruning fails if weights go back to step 0,"
        " and works if they go back to .1 to 7 % of training.",
        "source": "abstract",
        "scale": f"{DIGITS}, 10 rounds; rates of .05 and .2, rewinding to step 0 or 40 (7 %), 5"
        f" seeds",
        "set": "before",
        "parts": [
            _study(
                "rewinding",
                "gain",
                f"accuracy at rate {rate:g}, later - step 0",
                "above",
                0.0,
                0.0,
                where={"rate": rate},
                **POINTS,
                name=f"rate{100 * rate:g}",
            )
            for rate in (0.2, 0.05)
        ],
        "reading": "Nothing fails here that rewinding could repair: a perceptron on digits finds"
        " its tickets from step 0 at both rates, and going back to a later step changes the"
        " accuracy by {rate20} and {rate5} points. The paper's failures are of deep"
        " convolutional networks at high rates.",
    },
    {
        "id": "C42",
        "paper": GLOBAL,
        "title": "A floor prevents layer collapse",
        "claim": "A minimum number of weights in every layer prevents the collapse of global"
        " pruning at extreme sparsity.",
        "source": "abstract",
        "scale": f"{DIGITS}, pruned once to 1 and .5 %, at least 20 weights in a layer, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "layer_collapse",
                "gain",
                f"accuracy at {100 * density:g} %, with - without the floor",
                "above",
                0.02,
                0.0,
                where={"density": density},
                **POINTS,
                name=f"gain{i}",
            )
            for i, density in enumerate((0.01, 0.005))
        ],
    },
    {
        "id": "C43",
        "paper": SAP,
        "title": "PQ index falls, rises, falls",
        "claim": "During iterative pruning the PQ index falls, then rises, then falls again.",
        "source": "hypothesis of the paper",
        "scale": f"{DIGITS}, 26 rounds of a fifth, 3 seeds",
        "set": "before",
        "parts": [
            _study(
                "pq_index_rounds",
                "wave",
                "the smallest of fall, rise and second fall",
                "above",
                0.005,
                0.0,
                name="wave",
            ),
            {
                "what": "index after all rounds less that before",
                "read": {"study": "pq_index_rounds", "metric": "first to last"},
                "name": "change",
            },
        ],
    },
    {
        "id": "C44",
        "paper": SAP,
        "title": "Adaptive amounts beat a fixed share",
        "claim": "Pruning in each round as much as the PQ index says is better than a fixed share.",
        "source": "abstract",
        "scale": f"{DIGITS}, 6 rounds, a fixed share that ends at the same density, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "adaptive_amounts",
                "gain",
                "accuracy, adaptive - fixed",
                "above",
                0.0,
                0.0,
                **POINTS,
                name="gain",
            ),
            {
                "what": "final density",
                "read": {"study": "adaptive_amounts", "metric": "density"},
                "unit": "%",
                "name": "density",
            },
        ],
    },
    {
        "id": "C45",
        "paper": GRANET,
        "title": "Sparse to sparse beats dense to sparse",
        "claim": "Gradual pruning with regrowth from a sparse start is better than dynamic sparse"
        " training and than gradual pruning from a dense one.",
        "source": "abstract",
        "scale": f"{FASHION}, 5 and 2 % of the weights, changes every 30 steps, 5 seeds",
        "set": "before",
        "command": "python -m experiments.claims --only=C45 --fresh --data_dir=DATA",
        "parts": [
            *(
                _study(
                    "sparse_from_start",
                    f"granet - {other}",
                    f"accuracy at {100 * density:g} %, GraNet - {name}",
                    "above",
                    0.0,
                    0.0,
                    where={"density": density},
                    **POINTS,
                    name=f"{other}{i}",
                )
                for i, density in enumerate((0.05, 0.02))
                for other, name in (("rigl", "RigL"), ("set", "SET"), ("gmp", "GMP"))
            ),
            *(
                {
                    "what": f"the same, GraNet - random masks that stay, at {100 * density:g} %",
                    "read": {
                        "study": "sparse_from_start",
                        "metric": "granet - static",
                        "where": {"density": density},
                    },
                    **POINTS,
                    "name": f"static{i}",
                }
                for i, density in enumerate((0.05, 0.02))
            ),
        ],
        "reading": "GraNet is {rigl0} and {rigl1} points above RigL, which has the final"
        " density from the start; over GMP, which starts dense and grows nothing, it is {gmp0} and"
        " {gmp1}. What counts here is that many weights are tried early, from a sparse start or"
        " not; at 2 % the sparse start has a small gain on top.",
    },
    {
        "id": "C46",
        "paper": GRANET,
        "title": "Plasticity falls late, regrowth raises it",
        "claim": "A network recovers less from pruning the later in training it is pruned, and more"
        " if as many connections are grown again.",
        "source": "abstract; section on pruning plasticity",
        "scale": f"{FASHION}, rate .05 cut to a tenth at 50 and 75 %; pruned to 5 and 2 % at step"
        " 270 or 810, then 450 steps at the rate of its time; growth at equal density, 5 seeds",
        "set": "before",
        "command": "python -m experiments.claims --only=C46 --fresh --data_dir=DATA",
        "parts": [
            _study(
                "pruning_plasticity",
                metric,
                f"{what}, {100 * density:g} %",
                side,
                0.0,
                0.0,
                where={"density": density},
                **POINTS,
                name=f"{name}{i}",
            )
            for i, density in enumerate((0.05, 0.02))
            for metric, what, side, name in (
                (
                    "late - early",
                    "recovered accuracy, pruned at step 810 less at 270",
                    "below",
                    "late",
                ),
                ("early gain", "at step 270, with growth less without", "above", "early"),
                ("late gain", "at step 810, with growth less without", "above", "grown"),
            )
        ],
        "reading": "What falls late is as the paper has it: {late0} points at 5 % and {late1} at"
        " 2 %, with the rates of their times. Growth is compared at equal density here: half of"
        " what a cut has left gives its place to the largest gradients, from zero. It recovers less"
        " then, by {early0} and {early1} points early, {grown0} and {grown1} late: 450 steps do not"
        " make good what trained weights were. The paper exchanges again and again, which is C45.",
    },
    {
        "id": "C47",
        "paper": GRADIENT_FLOW,
        "title": "Masks that fade in beat SR-STE",
        "claim": "At high sparsity N:M masks that fade in give better models than SR-STE, of images"
        " and of language.",
        "source": "abstract",
        "scale": f"{FASHION}; character transformer of two blocks, width 48, 400 steps of Adam; all"
        " kernels 1:16, 3 seeds",
        "set": "before",
        "command": "python -m experiments.claims --only=C47 --fresh --data_dir=DATA",
        "parts": [
            *(
                _study(
                    "nm_gradient_flow",
                    "test",
                    f"{what}, {rule} decay - SR-STE",
                    side,
                    0.0,
                    0.0,
                    where={"network": network, "rule": rule},
                    minus={"network": network, "rule": "sr_ste"},
                    **form,
                    name=f"{rule}_{network}",
                )
                for network, what, side, form in _NM_NETWORKS
                for rule in ("linear", "exponential")
            ),
            *(
                {
                    "what": f"{what}, STE - SR-STE",
                    "read": {
                        "study": "nm_gradient_flow",
                        "metric": "test",
                        "where": {"network": network, "rule": "ste"},
                        "minus": {"network": network, "rule": "sr_ste"},
                    },
                    **form,
                    "name": f"ste_{network}",
                }
                for network, what, _, form in _NM_NETWORKS
            ),
        ],
        "reading": "The linear fade is behind SR-STE on both networks; the exponential one, most of"
        " which is over early, is not told from it: {exponential_mlp} points, and"
        " {exponential_transformer} in loss. Runs of 400 and 900 steps leave a fade little time"
        " with the final masks; the papers' are far longer. Three seeds.",
    },
    {
        "id": "C48",
        "paper": RANDOM,
        "title": "Random pruning: gap closes with width",
        "claim": "The gap of randomly pruned networks to dense ones closes as networks grow wider.",
        "source": "abstract",
        "scale": "MLPs with two hidden layers of 16, 64, 256 on digits, 10 % of the weights, 600"
        " steps, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "random_widths",
                "gap",
                "gap at width 16 less that at 256",
                "above",
                0.0,
                0.0,
                where={"width": 16},
                minus={"width": 256},
                **POINTS,
            ),
            _study(
                "random_widths",
                "gap",
                "gap at width 256",
                "below",
                0.01,
                0.02,
                where={"width": 256},
                **POINTS,
            ),
        ],
    },
    {
        "id": "C49",
        "paper": RANDOM,
        "title": "Ratios of layers matter",
        "claim": "For random pruning the ratios of layers matter: ERK is better than uniform ones.",
        "source": "abstract",
        "scale": f"{DIGITS}, 10 and 5 % of the weights, 8 seeds",
        "set": "before",
        "parts": [
            _study(
                "layer_ratios",
                "erk - uniform",
                f"accuracy at {100 * density:g} %, ERK - uniform",
                "above",
                0.0,
                0.0,
                where={"density": density},
                **POINTS,
                name=f"gain{i}",
            )
            for i, density in enumerate((0.1, 0.05))
        ],
    },
    {
        "id": "C50",
        "paper": CROPPING,
        "title": "Ratios of layers are all that matters",
        "claim": "The accuracy of pruning at initialization depends on the share of weights that"
        " each layer keeps, not on which: shuffled masks are as good.",
        "source": "abstract",
        "scale": f"{DIGITS}, masks of SNIP at 10 and 5 %, 8 seeds",
        "set": "before",
        "parts": [
            _study(
                "layer_ratios",
                "snip - shuffled",
                f"accuracy at {100 * density:g} %, SNIP - its masks shuffled",
                "within",
                0.01,
                0.01,
                where={"density": density},
                **POINTS,
                name=f"gain{i}",
            )
            for i, density in enumerate((0.1, 0.05))
        ],
        "reading": "Here it does matter which weights are kept: SNIP's masks are {gain0} points"
        " above "
        "their own shuffled versions at 10 % and {gain1} at 5 % (p {gain1.p}). The paper is "
        "about convolutions, whose weights within a layer are seen by every pixel and are "
        "exchangeable at the start. The inputs of an MLP are not: the border pixels of the "
        "digits are always zero, SNIP gives their weights no score, and a shuffle spends a part "
        "of the few weights on them. That ratios matter too shows under C49.",
    },
    {
        "id": "C51",
        "paper": RETHINKING,
        "title": "Scratch is as good as fine-tuning",
        "claim": "Of structured pruning the widths count: trained from new weights they are as"
        " good as fine-tuned, or better.",
        "source": "abstract",
        "scale": "MLP 64-128-10 on digits cut to 32 neurons, 600 steps, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "structured_scratch",
                f"{name} - tuned",
                f"accuracy, {name} - fine-tuned",
                "above",
                -0.005,
                -0.005,
                **POINTS,
                name=name.replace("-", ""),
            )
            for name in ("scratch-E", "scratch-B")
        ],
    },
    {
        "id": "C52",
        "paper": RETHINKING,
        "title": "At the best rate tickets give nothing",
        "claim": "With the optimal learning rate the initialization of a winning ticket brings"
        " no improvement over a random one.",
        "source": "abstract",
        "scale": f"{DIGITS}, 8 rounds, both kinds at the best of 4 rates, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "ticket_rates",
                "gain",
                "accuracy, ticket - new weights under its masks",
                "within",
                0.005,
                0.005,
                **POINTS,
                name="gain",
            )
        ],
    },
    {
        "id": "C53",
        "paper": ORACLE,
        "title": "Loss after pruning tells little",
        "claim": "The loss right after pruning barely correlates with the accuracy after"
        " retraining.",
        "source": "abstract",
        "scale": f"{DIGITS}, 60 sets of 32 of 128 neurons, 100 steps of retraining, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "oracle_pruning",
                "accuracy",
                "Kendall's tau, loss before retraining and accuracy after",
                "above",
                -0.2,
                -0.4,
                digits=2,
                name="tau",
            ),
            {
                "what": "the same with the training loss after",
                "read": {"study": "oracle_pruning", "metric": "loss"},
                "digits": 2,
                "name": "loss",
            },
        ],
    },
    {
        "id": "C54",
        "paper": DISTORTION,
        "title": "Distortions of layers add up",
        "claim": "The distortion of the output from pruning several layers is the sum of the"
        " distortions from each.",
        "source": "the additivity property",
        "scale": f"{DIGITS}, all layers pruned by 50 and 80 %, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "distortion",
                f"excess {level}",
                f"distortion together / sum of single ones, less 1, at {100 * level:g} %",
                "within",
                0.2,
                0.2,
                unit="%",
                digits=1,
                name=f"excess{i}",
            )
            for i, level in enumerate((0.5, 0.8))
        ],
        "reading": "At 80 % distortions add up to within {excess1} % [{excess1.low},"
        " {excess1.high}], at "
        "50 % they are {excess0} % above the sum [{excess0.low}, {excess0.high}]: errors of "
        "earlier layers pass through later ones and meet theirs, and five networks scatter. An "
        "allocation by sums is a usable guide, not an identity, which C56 says from the other "
        "side.",
    },
    {
        "id": "C55",
        "paper": DISTORTION,
        "title": "Levels by distortion beat other ratios",
        "claim": "Ratios of layers that minimize the output's distortion give better models than"
        " ERK's, LAMP's and those of a global cut.",
        "source": "abstract",
        "scale": f"{FASHION}, pruned once to 10 and 2 %, 300 steps of retraining, 5 seeds",
        "set": "before",
        "command": "python -m experiments.claims --only=C55 --fresh --data_dir=DATA",
        "parts": [
            *(
                _study(
                    "level_ratios",
                    f"rd - {other}",
                    f"accuracy at {100 * density:g} %, rate-distortion - {name}",
                    "above",
                    0.0,
                    0.0,
                    where={"density": density},
                    **POINTS,
                    name=f"{other}{i}",
                )
                for i, density in enumerate((0.1, 0.02))
                for other, name in (("erk", "ERK"), ("lamp", "LAMP"), ("global", "global"))
            ),
            *(
                {
                    "what": f"before retraining, at {100 * density:g} %, rate-distortion - {name}",
                    "read": {
                        "study": "level_ratios",
                        "metric": f"rd - {other} raw",
                        "where": {"density": density},
                    },
                    **POINTS,
                    "name": f"raw_{other}{i}",
                }
                for i, density in enumerate((0.1, 0.02))
                for other, name in (("erk", "ERK"), ("lamp", "LAMP"), ("global", "global"))
            ),
        ],
        "reading": "Retrained, ratios hardly matter at 10 %; at 2 % those of the distortions are"
        " {global1} points above a global cut, and no better than ERK ({erk1}) and LAMP ({lamp1})."
        " The networks have three layers, and the distortions are of the logits with one layer"
        " pruned at a time, which C54 finds to add up only roughly.",
    },
    {
        "id": "C56",
        "paper": EVOPRESS,
        "title": "A smaller sum can be a worse model",
        "claim": "Error monotonicity fails: of two models the one with the smaller sum of"
        " layer-wise errors can have the larger loss.",
        "source": "abstract",
        "scale": f"{DIGITS}, 60 random vectors of levels from 30 to 95 %, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "distortion",
                "wrong order",
                "share of pairs in the wrong order",
                "above",
                0.05,
                0.01,
                unit="%",
                digits=1,
            )
        ],
    },
    {
        "id": "C57",
        "paper": RPS,
        "title": "Sharing beats pruning at equal memory",
        "claim": "Parameter sharing is better than pruning at the start by magnitude, SNIP, GraSP"
        " and SynFlow at every memory, and than lottery tickets at high compression.",
        "source": "abstract",
        "scale": f"{FASHION}, a tenth and a hundredth of the kernels' numbers stored, masks not"
        " counted; tickets of 4 rounds, 5 times the training; 5 seeds",
        "set": "before",
        "command": "python -m experiments.claims --only=C57 --fresh --data_dir=DATA",
        "parts": [
            *(
                _study(
                    "equal_memory",
                    f"rps - {other}",
                    f"accuracy at {compression} times, STABLE-RPS - {name}",
                    "above",
                    0.0,
                    0.0,
                    where={"compression": compression},
                    **POINTS,
                    name=f"{other}{compression}",
                )
                for compression in (10, 100)
                for other, name in (
                    ("magnitude", "magnitude"),
                    ("snip", "SNIP"),
                    ("grasp", "GraSP"),
                    ("synflow", "SynFlow"),
                    ("ltr", "tickets"),
                )
                if compression == 100 or other != "ltr"
            ),
            {
                "what": "accuracy at 10 times, STABLE-RPS - tickets",
                "read": {
                    "study": "equal_memory",
                    "metric": "rps - ltr",
                    "where": {"compression": 10},
                },
                **POINTS,
                "name": "ltr10",
            },
            *(
                {
                    "what": f"{what} at 100 times",
                    "read": {
                        "study": "equal_memory",
                        "metric": metric,
                        "where": {"compression": 100},
                    },
                    "digits": 1,
                    "name": name,
                }
                for metric, what, name in (
                    ("kilobytes", "kilobytes of the shared numbers", "shared_kb"),
                    ("kilobytes with masks", "kilobytes of pruned kernels with masks", "pruned_kb"),
                )
            ),
        ],
        "reading": "With a tenth of the numbers only GraSP is clearly behind sharing; with a"
        " hundredth magnitude ({magnitude100} points) and GraSP ({grasp100}) are, SNIP ({snip100})"
        " and SynFlow ({synflow100}) less surely. Not so"
        " tickets, which had five times the training ({ltr100} points) and whose mask was not"
        " counted: with a bit for each weight they take {pruned_kb} kB, the pool {shared_kb}.",
    },
    {
        "id": "C59",
        "paper": SARA,
        "title": "The smallest weights do nothing",
        "claim": "The smallest 10 to 20 % of the weights of a trained model have no influence:"
        " set to zero, nothing changes.",
        "source": "abstract",
        "scale": "MLPs 64-128-64-10 and 64-32-10 on digits, 600 steps, 10 seeds",
        "set": "before",
        "parts": [
            _study(
                "smallest_weights",
                "change",
                f"{'-'.join(map(str, widths))}, accuracy without the smallest {100 * share:g} %,"
                f" change",
                "within",
                0.003,
                0.003,
                where={"widths": list(widths), "share": share},
                **POINTS,
            )
            for widths in ((64, 128, 64, 10), (64, 32, 10))
            for share in (0.1, 0.2)
        ],
    },
]
