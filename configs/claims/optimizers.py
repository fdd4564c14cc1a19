"""Claims of the papers behind Lion, Lion-K, AdamP, diffGrad and FRUGAL."""

TITLE = "Optimizers"

LION = "Lion, arXiv 2302.06675"
LION_K = "Lion-K, arXiv 2310.05898"
ADAMP = "AdamP, arXiv 2006.08217"
DIFFGRAD = "diffGrad, arXiv 1909.11015"
FRUGAL = "FRUGAL, arXiv 2411.07837"

MNIST = "python -m experiments.reproduce --table=mnist_optimizers --data_dir=DATA"
DIGITS = "python -m experiments.reproduce --table=digits_optimizers"
SHAKESPEARE = "python -m experiments.reproduce --table=tinyshakespeare_optimizers --data_dir=DATA"
FRUGAL_TABLE = "python -m experiments.reproduce --table=frugal_tinyshakespeare --data_dir=DATA"


def _adamp_units(network):
    rates = {"Adam": [3e-3, 1e-2, 3e-2], "SGD": [0.03, 0.1, 0.3]}
    return [
        {
            "network": network,
            "optimizer": optimizer,
            "rates": rates[kind],
            "decays": [0.01 if kind == "Adam" else 1e-4],
            "steps": 600,
        }
        for optimizer, kind in (
            ("Adam", "Adam"),
            ("AdamP", "Adam"),
            ("SGDM", "SGD"),
            ("SGDP", "SGD"),
        )
    ]


STUDIES = {
    "adamp_steps": {"units": {"steps": 800, "rate": 0.1}, "seeds": 5},
    "adamp_accuracy": {"units": _adamp_units("mlp"), "seeds": 5},
    "adamp_cnn": {"file": "adamp_accuracy", "units": _adamp_units("cnn"), "seeds": 5},
    "lion_batches": {
        "units": [
            {"batch": batch, "epochs": 10, "rates": [3e-4, 1e-3, 3e-3, 1e-2]} for batch in (32, 512)
        ],
        "seeds": 5,
        "data": True,
    },
    "lion_k_box": {"units": {"rate": 0.01, "decay": 1.0, "steps": 600}, "seeds": 3},
    "lion_k_solutions": {
        "units": {"kappa": ["l1", "huber", "l2", "l2_squared"], "size": 20, "steps": 50000},
        "seeds": 5,
    },
    "diffgrad_functions": {
        "units": {
            "function": ["parabolas", "waves", "kinks"],
            "rate": 0.1,
            "steps": 300,
            "starts": 201,
        },
        "seeds": 1,
    },
    "diffgrad_activations": {
        "units": [
            {"optimizer": optimizer, "rates": rates, "steps": 400}
            for optimizer, rates in (
                ("diffGrad", [3e-3, 1e-2, 3e-2]),
                ("Adam", [3e-3, 1e-2, 3e-2]),
                ("AMSGrad", [3e-3, 1e-2, 3e-2]),
                ("RMSProp", [1e-3, 3e-3, 1e-2]),
                ("AdaGrad", [0.03, 0.1, 0.3]),
                ("AdaDelta", [0.3, 1.0, 3.0]),
                ("SGDM", [0.03, 0.1, 0.3]),
            )
        ],
        "seeds": 5,
    },
    "frugal_spectrum": {"units": {"steps": 600, "gap": 50, "density": 0.25}, "seeds": 5},
}


def _study(study, metric, what, side, threshold, against=None, **more):
    """A part that reads a study; ``minus``, ``over`` and ``where`` go to its reader."""
    read = {k: more.pop(k) for k in ("where", "minus", "over") if k in more}
    part = {"what": what, "read": {"study": study, "metric": metric, **read}}
    return {**part, "side": side, "threshold": threshold, "against": against, **more}


POINTS = {"unit": "%", "digits": 2}

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
    {
        "id": "C5",
        "paper": LION,
        "title": "Lion gains with the batch size",
        "claim": "Lion's gain over AdamW grows with the batch size.",
        "source": "abstract",
        "scale": "MLP on 6000 images of Fashion-MNIST, 10 epochs, batches of 32 and 512, 4 rates"
        " each,"
        " 5 seeds",
        "set": "before",
        "command": "python -m experiments.claims --only=C5 --fresh --data_dir=DATA",
        "parts": [
            _study(
                "lion_batches",
                "gain",
                "accuracy, Lion - AdamW at 512, less the same at 32",
                "above",
                0.0,
                0.0,
                where={"batch": 512},
                minus={"batch": 32},
                **POINTS,
                name="growth",
            ),
            _study(
                "lion_batches",
                "gain",
                "accuracy, Lion - AdamW at 32",
                "",
                0.0,
                where={"batch": 32},
                **POINTS,
                name="small",
            ),
        ],
        "reading": "At a batch of 32 Lion is {small} points from AdamW, and the distance changes by"
        " {growth} at 512. Epochs are equal, so that the large batch has a sixteenth of the"
        " steps, and a weight cannot move further under Lion than the sum of its rates. The"
        " paper's large batches are of thousands of images and its runs of hundreds of thousands of"
        " steps: there the noise that the batch removes counts, here the steps that it costs.",
    },
    {
        "id": "C6",
        "paper": LION_K,
        "title": "Lion enters its box exponentially",
        "claim": "The constraint |x_i| <= 1 / lambda is enforced at an exponential rate: the"
        " distance falls"
        " by 1 - rate * lambda or more in each step, and iterates that are inside stay there.",
        "source": "abstract",
        "scale": "logistic regression, MLP, MLP with normalization on digits, started far"
        " outside, 600"
        " steps, 3 seeds",
        "set": "before",
        "parts": [
            _study(
                "lion_k_box",
                "ratio",
                "largest distance after a step / (1 - rate * lambda) of that before",
                "below",
                1.0001,
                1.0001,
                digits=5,
            ),
            _study(
                "lion_k_box",
                "left",
                "how far any iterate that was inside went out",
                "below",
                1e-4,
                1e-4,
            ),
        ],
    },
    {
        "id": "C7",
        "paper": LION_K,
        "title": "Each kappa solves its own problem",
        "claim": "Lion-K solves min f(x) + K*(lambda x) / lambda: each kappa another constraint or"
        " penalty.",
        "source": "abstract",
        "scale": "5 random quadratics of 20 variables, 50000 steps with a falling rate",
        "set": "before",
        "parts": [
            _study(
                "lion_k_solutions",
                "distance",
                f"{kappa}: distance to that problem's solution / its norm",
                "below",
                0.02,
                0.1,
                where={"kappa": kappa},
            )
            for kappa in ("l1", "huber", "l2", "l2_squared")
        ],
    },
    {
        "id": "C8",
        "paper": ADAMP,
        "title": "Momentum shrinks effective steps",
        "claim": "Momentum makes the norms of scale-invariant weights grow, and effective step"
        " sizes decay,"
        " faster; the projection prevents it.",
        "source": "abstract",
        "scale": "MLP with batch normalization on digits, 800 steps at rate .1, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "adamp_steps",
                "sgdm / sgd norm",
                "growth of the norm, SGD with momentum / SGD",
                "above",
                1.3,
                1.0,
                digits=2,
            ),
            _study(
                "adamp_steps",
                "sgdp / sgdm norm",
                "the same, SGDP / SGD with momentum",
                "below",
                0.8,
                1.0,
                digits=2,
            ),
            _study(
                "adamp_steps",
                "sgdp / sgdm step",
                "effective step size in the last quarter, SGDP / SGD with momentum",
                "above",
                1.2,
                1.0,
                digits=2,
            ),
        ],
        "reading": "The mechanism is there and small: the norm under momentum grows to {n0}"
        " times that of "
        "plain SGD, where the bound asked for more, and the projection takes back nearly all of "
        "it (by a factor of {n1}); effective steps at the end differ by {n2} [{n2.low}, "
        "{n2.high}]. Digits are fitted within a few hundred steps; then gradients vanish, and "
        "with them the growth of the norm. The paper's networks train for 10^5 steps at losses "
        "that stay away from zero. The bounds were set before the run, and are left as they "
        "were.",
    },
    {
        "id": "C9",
        "paper": ADAMP,
        "title": "AdamP and SGDP gain with normalization",
        "claim": "On networks with normalization AdamP and SGDP bring uniform gains over Adam"
        " and SGD.",
        "source": "abstract",
        "scale": "MLP 64-128-128-10 with batch normalization on digits, 600 steps, 3 rates for"
        " each method, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "adamp_accuracy",
                "test",
                f"accuracy, {ours} - {theirs}",
                "above",
                0.0,
                0.0,
                where={"optimizer": ours},
                minus={"optimizer": theirs},
                **POINTS,
                name=ours,
            )
            for ours, theirs in (("AdamP", "Adam"), ("SGDP", "SGDM"))
        ],
        "reading": "With three tuned rates for each, AdamP is {AdamP} points from Adam"
        " [{AdamP.low}, "
        "{AdamP.high}] and SGDP {SGDP} from SGD with momentum: no gain that five seeds show. C8"
        " has the reason: in 600 steps momentum "
        "makes the norms of these weights grow by a few per cent only, so that there is little "
        "to take back. The paper's gains are over hundreds of epochs, mostly against baselines "
        "at their published settings, where an effective step that decays on its own is a "
        "mistuned schedule; here the rate is tuned for each method. The convolutional twin "
        "(C97) is defined and not run.",
    },
    {
        "id": "C97",
        "paper": ADAMP,
        "title": "The same on a convolutional network",
        "claim": "On convolutional networks with normalization AdamP and SGDP bring uniform"
        " gains over Adam and SGD.",
        "source": "abstract",
        "scale": "convolutions of 16 and 32 channels with batch normalization on digits, 600"
        " steps, 3 rates for each method, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "adamp_cnn",
                "test",
                f"accuracy, {ours} - {theirs}",
                "above",
                0.0,
                0.0,
                where={"optimizer": ours},
                minus={"optimizer": theirs},
                **POINTS,
                name=ours,
            )
            for ours, theirs in (("AdamP", "Adam"), ("SGDP", "SGDM"))
        ],
    },
    {
        "id": "C11",
        "paper": DIFFGRAD,
        "title": "diffGrad leaves local minima",
        "claim": "On functions of one variable with a local minimum diffGrad ends in the global"
        " one where"
        " Adam does not.",
        "source": "empirical analysis on three synthetic functions",
        "scale": "three functions of that kind, written from memory of the paper; 201 starts,"
        " rate .1, 300"
        " steps, no chance involved",
        "set": "before",
        "parts": [
            _study(
                "diffgrad_functions",
                "gain",
                f"{function}, share of starts that end at the global minimum, diffGrad less Adam",
                "above",
                0.05,
                -0.05,
                where={"function": function},
                exact=True,
                unit="%",
                digits=1,
                name=function,
            )
            for function in ("parabolas", "waves", "kinks")
        ],
        "reading": "From a grid of starts diffGrad ends in the global minimum less often than"
        " Adam: by "
        "{parabolas} points on two parabolas and {kinks} on the kinked function, and as often "
        "on the third ({waves}). Its friction is between 1/2 and 1, so that it moves as Adam at "
        "a smaller rate, and what carries Adam over a barrier is a large step. The paper shows "
        "single trajectories at one rate, from code whose friction may have been 1/2 "
        "throughout; the functions here are written from memory of its three.",
    },
    {
        "id": "C13",
        "paper": DIFFGRAD,
        "title": "diffGrad good for all activations",
        "claim": "diffGrad trains networks uniformly well with different activation functions.",
        "source": "abstract",
        "scale": "MLP on digits, 5 activations, 400 steps, 3 rates for each of 7 methods, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "diffgrad_activations",
                activation,
                f"{activation}, accuracy, diffGrad - Adam",
                "above",
                -0.01,
                -0.01,
                where={"optimizer": "diffGrad"},
                minus={"optimizer": "Adam"},
                **POINTS,
            )
            for activation in ("relu", "elu", "tanh", "sigmoid", "swish")
        ],
    },
    {
        "id": "C96",
        "paper": DIFFGRAD,
        "title": "diffGrad beats six rivals",
        "claim": "diffGrad outperforms SGDM, AdaGrad, AdaDelta, RMSProp, AMSGrad and Adam, over"
        " activation"
        " functions.",
        "source": "abstract",
        "scale": "mean of 5 activations, MLP on digits, 400 steps, 3 rates for each method, 5"
        " seeds",
        "set": "before",
        "parts": [
            _study(
                "diffgrad_activations",
                "mean",
                f"accuracy, diffGrad - {rival}",
                "above",
                0.0,
                0.0,
                where={"optimizer": "diffGrad"},
                minus={"optimizer": rival},
                **POINTS,
                name=rival,
            )
            for rival in ("SGDM", "AdaGrad", "AdaDelta", "RMSProp", "AMSGrad", "Adam")
        ],
    },
    {
        "id": "C16",
        "paper": FRUGAL,
        "title": "Full-rank updates move more directions",
        "claim": "Updates outside of the subspace keep what low-rank methods lose: the weights"
        " move along"
        " more directions.",
        "source": "abstract; introduction",
        "scale": "hidden 128 x 128 kernel of an MLP on digits, 600 steps, density .25, new"
        " subspace every"
        " 50, 5 seeds",
        "set": "before",
        "parts": [
            _study(
                "frugal_spectrum",
                "ratio",
                "effective rank of W_T - W_0, FRUGAL / GaLore",
                "above",
                1.2,
                1.0,
                digits=2,
            ),
            {
                "what": "the same, AdamW",
                "read": {"study": "frugal_spectrum", "metric": "AdamW rank"},
                "digits": 1,
                "name": "adamw",
            },
        ],
    },
]
