"""REX and six other schedules under budgets of 1 to 100 %: MLP on Fashion-MNIST, SGDM.

python -m experiments.reproduce --table=rex_fashion_sgdm --data_dir=DATA
"""

from configs.rex import budgets

TABLE = budgets.table(
    "SGDM",
    "MLP on Fashion-MNIST",
    "configs/rex/mlp.py:fashion",
    epochs=10,
    scales={"cpu": {"about": "2 CPU cores", "minutes": 45}},
)
