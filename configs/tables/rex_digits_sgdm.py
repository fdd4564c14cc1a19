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
    notes_of="8420531a",
    notes=(
        "The paper has REX first in 70 % of its 28 experiments. Here linear decay has the best "
        "mean rank; REX is among the first three at every low budget, and first at 25 % alone.",
        "Above the 1 % budget most differences are within one standard deviation: digits saturate "
        "near 98 %, and learning rates are chosen among near ties of the validation accuracy.",
    ),
    scales={"cpu": {"about": "2 CPU cores, no data needed", "minutes": 8}},
)
