"""REX and six other schedules under budgets of 1 to 100 %: MLP on Fashion-MNIST, SGDM.

python -m experiments.reproduce --table=rex_fashion_sgdm --data_dir=DATA
"""

from configs.rex import budgets

TABLE = budgets.table(
    "SGDM",
    "MLP on Fashion-MNIST",
    "configs/rex/mlp.py:fashion",
    epochs=10,
    notes_of="68d95244",
    notes=(
        "REX has the best mean at every budget, as the paper claims (there in 70 % of 28 "
        "experiments); linear decay is second at all but 10 %. None of the differences between "
        "them is significant.",
        "Runs that diverge are those of the highest learning rates.",
    ),
    scales={"cpu": {"about": "2 CPU cores", "minutes": 10}},
)
