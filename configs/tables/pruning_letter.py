"""BiP and the methods it is judged against, on LIBSVM's letter.scale.

python -m experiments.reproduce --table=pruning_letter --data_dir=DATA
"""

from configs.tables import pruning_digits

TABLE = {
    **pruning_digits.TABLE,
    "title": "Pruning an MLP on letter: accuracy against sparsity",
    "config": "configs/pruning/letter.py",
    "protocol": "MLP 16-{model.options.widths}-26 on letter.scale (standardized), {epochs} epochs "
    "of batches of {batch_size}. " + pruning_digits.PROTOCOL,
    "notes_of": "a4296f5a",
    "notes": (
        "BiP is not worse than IMP with its default learning rate at any sparsity, for 1/3.3 of "
        "its gradients and 1/2.3 of its seconds at 80 %, 1/7.9 and 1/5.8 at 98 %.",
        "That IMP is untuned: at twice the learning rate, rewound or fine-tuned, its means are "
        "better up to 95 %, significantly so at 95 % for both and at 90 % with fine-tuning, and as "
        "good at 98 %. GMP of about BiP's cost ties up to 95 % and is four points behind at 98 %, "
        "which is not significant.",
        "The implicit term makes no visible difference: without it BiP is as good.",
        "OMP and random masks collapse at 98 %.",
    ),
    "scales": {"cpu": {"about": "2 CPU cores, needs letter.scale", "minutes": 14}},
}
