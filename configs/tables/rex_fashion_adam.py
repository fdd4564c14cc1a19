"""REX and six other schedules under budgets of 1 to 100 %: MLP on Fashion-MNIST, Adam.

python -m experiments.reproduce --table=rex_fashion_adam --data_dir=DATA
"""

from configs.rex import budgets

TABLE = budgets.table(
    "Adam",
    "MLP on Fashion-MNIST",
    "configs/rex/mlp.py:fashion",
    epochs=10,
    scales={"cpu": {"about": "2 CPU cores", "minutes": 45}},
)
