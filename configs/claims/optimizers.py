"""Claims of the papers behind Lion, Lion-K, AdamP, diffGrad and FRUGAL."""

TITLE = "Optimizers"

LION = "Lion, arXiv 2302.06675"
ADAMP = "AdamP, arXiv 2006.08217"
DIFFGRAD = "diffGrad, arXiv 1909.11015"
FRUGAL = "FRUGAL, arXiv 2411.07837"

MNIST = "python -m experiments.reproduce --table=mnist_optimizers --data_dir=DATA"
DIGITS = "python -m experiments.reproduce --table=digits_optimizers"
SHAKESPEARE = "python -m experiments.reproduce --table=tinyshakespeare_optimizers --data_dir=DATA"
FRUGAL_TABLE = "python -m experiments.reproduce --table=frugal_tinyshakespeare --data_dir=DATA"

STUDIES = {}

CLAIMS = [
    {
        "id": "C1",
        "paper": LION,
        "title": "Lion keeps half of Adam's state",
        "claim": "Lion keeps track of the momentum only: half of Adam's state.",
        "source": "abstract",
        "scale": "LeNet-300-100, by shapes",
        "set": "after",
        "command": MNIST,
        "parts": [
            {
                "what": "state of Lion / AdamW",
                "read": {
                    "file": "mnist_optimizers",
                    "row": "Lion",
                    "over": "AdamW",
                    "also": "state bytes per parameter",
                },
                "side": "below",
                "threshold": 0.51,
                "against": 1.0,
                "digits": 2,
            }
        ],
    },
    {
        "id": "C2",
        "paper": LION,
        "title": "Lion: LM as good as AdamW",
        "claim": "On autoregressive language modeling Lion is similar to Adam or better.",
        "source": "abstract",
        "scale": "character LLaMA, .6M parameters, 300 steps, 3 seeds",
        "set": "after",
        "command": SHAKESPEARE,
        "parts": [
            {
                "what": "test loss, Lion - AdamW",
                "read": {"file": "tinyshakespeare_optimizers", "row": "Lion", "minus": "AdamW"},
                "side": "below",
                "threshold": 0.02,
                "against": 0.0,
                "digits": 3,
                "name": "gap",
            }
        ],
        "reading": "Lion's loss is {gap} above AdamW's [{gap.low}, {gap.high}], significantly"
        " so. Both had"
        " ten tuned settings, so that the baseline is not the reason. What differs is length: 300"
        " steps are a sixth of an epoch, where the paper trains for 10^5 steps and more. A step of"
        " Lion has the same size in every coordinate whatever the gradient, and its learning rate"
        " has to fall far before the loss stops jumping; in a short run that share of the budget"
        " is large.",
    },
    {
        "id": "C3",
        "paper": LION,
        "title": "Lion classifies better than AdamW",
        "claim": "Lion improves image classification over AdamW (ViT on ImageNet by up to 2 %).",
        "source": "abstract",
        "scale": "LeNet-300-100 on MNIST and MLP on digits, 5 seeds each",
        "set": "after",
        "command": f"{MNIST} && {DIGITS}",
        "parts": [
            {
                "what": "MNIST, Lion - AdamW",
                "read": {"file": "mnist_optimizers", "row": "Lion", "minus": "AdamW"},
                "side": "above",
                "against": 0.0,
                "unit": "%",
                "digits": 2,
                "name": "mnist",
            },
            {
                "what": "digits, Lion - AdamW",
                "read": {"file": "digits_optimizers", "row": "Lion", "minus": "AdamW"},
                "side": "above",
                "against": 0.0,
                "unit": "%",
                "digits": 2,
                "name": "digits",
            },
        ],
        "reading": "On MNIST Lion is {mnist} points away from AdamW (p {mnist.p}), on digits"
        " {digits} "
        "[{digits.low}, {digits.high}]. The paper's gain is on vision transformers at batch "
        "sizes of thousands, trained for hundreds of epochs. A fully connected network that is "
        "trained for three epochs at a batch of 128 is another regime, and Adam with a tuned "
        "decay leaves little to gain: the five other methods of the MNIST table lie within a "
        "tenth of a point.",
    },
    {
        "id": "C4",
        "paper": LION,
        "title": "Lion: lower rate, higher decay",
        "claim": "Lion wants a learning rate 3 to 10 times lower, and a decay 3 to 10 times"
        " higher, than"
        " AdamW.",
        "source": "authors' README",
        "scale": "chosen of 15 settings on MNIST, of 10 on tinyshakespeare",
        "set": "after",
        "command": f"{MNIST} && {SHAKESPEARE}",
        "parts": [
            {
                "what": "MNIST, learning rate of AdamW / Lion",
                "read": {
                    "file": "mnist_optimizers",
                    "function": "chosen_ratio",
                    "key": "optimizer.learning_rate",
                    "row": "AdamW",
                    "over": "Lion",
                },
                "side": "above",
                "threshold": 2.9,
                "against": 1.0,
            },
            {
                "what": "tinyshakespeare, learning rate of AdamW / Lion",
                "read": {
                    "file": "tinyshakespeare_optimizers",
                    "function": "chosen_ratio",
                    "key": "optimizer.learning_rate",
                    "row": "AdamW",
                    "over": "Lion",
                },
                "side": "above",
                "threshold": 2.9,
                "against": 1.0,
            },
            {
                "what": "MNIST, decay of Lion / AdamW",
                "read": {
                    "file": "mnist_optimizers",
                    "function": "chosen_ratio",
                    "key": "optimizer.weight_decay",
                    "row": "Lion",
                    "over": "AdamW",
                },
                "side": "above",
                "threshold": 2.9,
                "against": 1.0,
            },
        ],
    },
    {
        "id": "C10",
        "paper": ADAMP,
        "title": "AdamP: no effect without normalization",
        "claim": "Weights that are not scale-invariant are left as they are: without"
        " normalization AdamP"
        " is as good as Adam.",
        "source": "the method's section",
        "scale": "LeNet-300-100 on MNIST and MLP on digits, 5 seeds each",
        "set": "after",
        "command": f"{MNIST} && {DIGITS}",
        "parts": [
            {
                "what": "MNIST, AdamP - AdamW",
                "read": {"file": "mnist_optimizers", "row": "AdamP", "minus": "AdamW"},
                "side": "within",
                "threshold": 0.003,
                "against": 0.003,
                "unit": "%",
                "digits": 2,
            },
            {
                "what": "MNIST, SGDP - SGDM",
                "read": {"file": "mnist_optimizers", "row": "SGDP", "minus": "SGDM"},
                "side": "within",
                "threshold": 0.003,
                "against": 0.003,
                "unit": "%",
                "digits": 2,
            },
            {
                "what": "digits, AdamP - AdamW",
                "read": {"file": "digits_optimizers", "row": "AdamP", "minus": "AdamW"},
                "side": "within",
                "threshold": 0.003,
                "against": 0.003,
                "unit": "%",
                "digits": 2,
            },
        ],
    },
    {
        "id": "C12",
        "paper": DIFFGRAD,
        "title": "diffGrad beats SGDM and Adam",
        "claim": "diffGrad outperforms SGDM, AdaGrad, AdaDelta, RMSProp, AMSGrad and Adam.",
        "source": "abstract",
        "scale": "LeNet-300-100 on MNIST and MLP on digits, 5 seeds; of the rivals AdamW and SGDM",
        "set": "after",
        "command": f"{MNIST} && {DIGITS}",
        "parts": [
            {
                "what": f"{name}, diffGrad - {rival}",
                "read": {"file": file, "row": "diffGrad", "minus": rival},
                "side": "above",
                "against": 0.0,
                "unit": "%",
                "digits": 2,
                "name": f"{name}_{rival}",
            }
            for name, file in (("MNIST", "mnist_optimizers"), ("digits", "digits_optimizers"))
            for rival in ("AdamW", "SGDM")
        ],
        "reading": "No difference of diffGrad to AdamW or SGDM is significant: on MNIST"
        " {MNIST_AdamW} "
        "points to AdamW [{MNIST_AdamW.low}, {MNIST_AdamW.high}]. The published numbers came "
        "from code with a defect, as its authors say in that file: the previous gradient was "
        "stored by reference, so that the friction could be 1/2 everywhere and the method Adam "
        "at half the learning rate; at equal nominal rates that compares two learning rates. "
        "Here all have 15 to 48 tuned settings, and the friction is that of the paper.",
    },
    {
        "id": "C14",
        "paper": FRUGAL,
        "title": "FRUGAL beats GaLore and BAdam",
        "claim": "At equal memory FRUGAL outperforms GaLore and BAdam in pre-training.",
        "source": "table of pre-training results on C4",
        "scale": "character LLaMA, .6M parameters, 400 steps, density .25, 3 seeds",
        "set": "after",
        "command": FRUGAL_TABLE,
        "parts": [
            {
                "what": "loss, FRUGAL .25 - BAdam",
                "read": {
                    "file": "frugal_tinyshakespeare",
                    "row": "FRUGAL 0.25",
                    "minus": "BAdam 0.25",
                },
                "side": "below",
                "against": 0.0,
                "digits": 3,
                "name": "badam",
            },
            {
                "what": "loss, FRUGAL .25 - GaLore",
                "read": {
                    "file": "frugal_tinyshakespeare",
                    "row": "FRUGAL 0.25",
                    "minus": "GaLore 0.25",
                },
                "side": "below",
                "against": 0.0,
                "digits": 3,
                "name": "galore",
            },
        ],
        "reading": "FRUGAL is ahead of BAdam by a margin that no chance explains ({badam}), and"
        " behind"
        " GaLore by {galore} [{galore.low}, {galore.high}]. The reason is tuning: GaLore's best"
        " learning rate is thirty times AdamW's here, far from the setting in which it is usually"
        " a baseline, and at a subspace of a quarter of 128 columns the gradient of so small a"
        " model loses little by projection. BAdam moves each block in a quarter of only 400"
        " steps. The paper's ranking is over 10^5 steps of models 100 to 10^4 times as large.",
    },
    {
        "id": "C15",
        "paper": FRUGAL,
        "title": "FRUGAL without state is near Adam",
        "claim": "Even without any state for the projectable weights (density 0) FRUGAL stays"
        " close to"
        " AdamW.",
        "source": "table of pre-training results on C4",
        "scale": "character LLaMA, .6M parameters, 400 steps, 3 seeds",
        "set": "after",
        "command": FRUGAL_TABLE,
        "parts": [
            {
                "what": "loss, FRUGAL 0 - AdamW",
                "read": {"file": "frugal_tinyshakespeare", "row": "FRUGAL 0", "minus": "AdamW"},
                "side": "below",
                "threshold": 0.05,
                "against": 0.05,
                "digits": 3,
            },
            {
                "what": "state of FRUGAL 0 / AdamW",
                "read": {
                    "file": "frugal_tinyshakespeare",
                    "row": "FRUGAL 0",
                    "over": "AdamW",
                    "also": "state bytes per parameter",
                },
                "side": "below",
                "threshold": 0.1,
                "against": 1.0,
                "digits": 3,
            },
        ],
    },
]
