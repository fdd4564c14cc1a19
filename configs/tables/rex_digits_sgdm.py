"""REX and six other schedules under budgets of 1 to 100 %: MLP on digits, SGDM.

python -m experiments.reproduce --table=rex_digits_sgdm
python -m experiments.ranks rex_digits_sgdm rex_digits_adam
"""

from configs.rex import budgets

TABLE = budgets.table(
    "SGDM",
    "MLP on digits",
    "configs/rex/mlp.py",
    epochs=100,
    scales={"cpu": {"about": "2 CPU cores, no data needed", "minutes": 8}},
)
