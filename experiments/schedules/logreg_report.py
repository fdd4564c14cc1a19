"""Table and picture of the logistic-regression suite, and its comparison with a reference."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import figures, markdown

FAR = 1.3  # The largest ratio of the picture.
ZERO = 1e-6  # A loss up to it is none.

# Names in the reference file.
REFERENCE_NAMES = {
    "constant": "flat",
    "inverse_time": "inv_t",
    "inverse_sqrt": "inv_sqrt_t",
    "refined from given norms": "refined",
}

# The schedule refined from the reference's pilot norms: compared with it, not ranked.
GIVEN = "refined from given norms"


def _split(results):
    """{optimizer: {set: entry}} with the schedules that are ranked."""
    found: dict[str, dict[str, Any]] = {}
    for key, entry in results.items():
        name, optimizer = key.split("|")
        schedules = {s: v for s, v in entry["schedules"].items() if s != GIVEN}
        found.setdefault(optimizer, {})[name] = {**entry, "schedules": schedules}
    return found


def ranks(sets: dict[str, Any], leave_out=()) -> dict[str, float]:
    """Mean rank of each schedule by mean loss (1 is best) over the sets that are not left out."""
    sets = {name: entry for name, entry in sets.items() if name not in leave_out} or sets
    names = list(next(iter(sets.values()))["schedules"])
    losses = np.array([[e["schedules"][s]["loss_mean"] for s in names] for e in sets.values()])
    return dict(zip(names, (losses.argsort(1).argsort(1) + 1).mean(0).tolist(), strict=True))


def compare(results: dict[str, Any], reference: dict[str, Any], sensitivity: float = 1e-6):
    """Relative differences of final losses where rounding does not decide the outcome.

    A cell is one run. The reference tells its sensitivity: the relative change of its loss when
    the learning rate changes by 1e-7 of itself. Refined schedules are compared if they were made
    from the reference's own norms.

    Returns:
      ``(differences of the cells below the sensitivity, number of cells left out)``.
    """
    near, far = [], 0
    for key in results.keys() & reference.keys():
        entry = reference[key]
        if [float(r) for r in entry["lrs"]] != results[key]["learning_rates"]:
            raise ValueError(f"the reference has other learning rates for {key}: {entry['lrs']}")
        if entry["T"] != results[key]["steps"]:
            raise ValueError(f"the reference has {entry['T']} steps for {key}")
        for schedule, ours in results[key]["schedules"].items():
            if schedule == "refined":
                continue
            theirs = entry["schedules"][REFERENCE_NAMES.get(schedule, schedule)]
            a, b = np.array(ours["final_loss"]), np.array(theirs["final_loss"], float)
            # A loss of exactly 0 is rounding itself.
            stable = (np.array(theirs["sensitivity"], float) < sensitivity) & (b > 0)
            near.extend((np.abs(a - b)[stable] / b[stable]).tolist())
            far += int((~stable).sum())
    return np.array(near), far


def report(results: dict[str, Any], reference: dict[str, Any], separable=()) -> str:
    """Returns the whole text: a table an optimizer, ranks, the comparison, the times."""
    lines = ["# Learning-rate schedules on logistic regression", ""]
    lines += [
        "Training cross-entropy of the last iterate, mean ± std over seeds (ddof 0), at the best",
        "learning rate (in brackets).",
    ]
    for optimizer, sets in _split(results).items():
        names = list(next(iter(sets.values()))["schedules"])
        lines += ["", f"## {optimizer}", ""]
        rows = []
        for name, entry in sets.items():
            best = min(s["loss_mean"] for s in entry["schedules"].values())
            cells = []
            for s in entry["schedules"].values():
                cell = f"{s['loss_mean']:.4f} ± {s['loss_std']:.4f}"
                cell = f"**{cell}**" if s["loss_mean"] == best else cell
                cells.append(f"{cell} ({s['best_lr']:g})")
            rows.append((name, entry["steps"], *cells))
        mean = ranks(sets, separable)
        rows.append(("mean rank", "", *(f"{mean[s]:.1f}" for s in names)))
        lines += markdown.table(("set", "steps", *names), rows, "lr")
    if separable:
        lines += [
            "",
            f"Mean ranks leave out {', '.join(separable)} (separable: the loss goes to 0).",
        ]
    lines += ["", *_refined_gap(results, separable)]
    if reference:
        near, far = compare(results, reference)
        lines += [
            "",
            f"Against the reference: {near.size} runs whose outcome rounding does not decide "
            f"(sensitivity < 1e-6) differ by at most {near.max():.1e} of the loss; "
            f"{int((near <= 1e-5).sum())} of them by at most 1e-5. {far} runs are at the edge of "
            "stability and are not compared.",
        ]
    ours = sum(e["seconds"] for e in results.values())
    loop = sum(e["python_loop_seconds"] for e in results.values())
    runs = sum(np.size(s["final_loss"]) for e in results.values() for s in e["schedules"].values())
    lines += [
        "",
        f"{runs} runs took {ours:.0f} s with compilation. One after another in a python loop of "
        f"jitted steps they take {loop:.0f} s (from the time of a step, measured in the same "
        f"process): {loop / ours:.1f} times as long.",
    ]
    return "\n".join(lines) + "\n"


def _refined_gap(results, leave_out):
    for optimizer, sets in _split(results).items():
        gaps = []
        for name, entry in sets.items():
            if name in leave_out:
                continue
            linear, refined = (entry["schedules"][s]["loss_mean"] for s in ("linear", "refined"))
            gaps.append(refined / linear - 1)
        wins = sum(g < 0 for g in gaps)
        yield (
            f"- {optimizer}: refined is below linear on {wins} of {len(gaps)} sets; "
            f"median gap {100 * np.median(gaps):+.1f} %."
        )


def draw(results: dict[str, Any], path: Path) -> None:
    """Draws each schedule's loss relative to linear decay, a panel an optimizer."""
    found = _split(results)
    title = f"Logistic regression, means of the seeds; ratios above {FAR:g} are open, at the edge"
    figure, axes = figures.figure(len(found), width=5.5, height=3.8, title=title)
    for axis, (optimizer, sets) in zip(axes, found.items(), strict=True):
        names = [s for s in next(iter(sets.values()))["schedules"] if s != "linear"]
        # Where linear decay separates the classes a ratio of losses says nothing.
        none = [s for s, e in sets.items() if e["schedules"]["linear"]["loss_mean"] <= ZERO]
        sets = {name: entry for name, entry in sets.items() if name not in none}
        without = f"\nwithout {', '.join(none)}, where linear decay ends below {ZERO:g}"
        base = np.array([e["schedules"]["linear"]["loss_mean"] for e in sets.values()])
        for i, (schedule, (color, marker, _)) in enumerate(figures.looks(names).items()):
            loss = np.array([e["schedules"][schedule]["loss_mean"] for e in sets.values()])
            ratio = loss / base
            at = np.arange(len(sets)) + 0.8 * ((i + 0.5) / len(names) - 0.5)
            # The worst schedules do not set the scale: they stand at the edge, open.
            far = ratio > FAR
            axis.plot(at[~far], ratio[~far], marker, color=color, ms=4, label=schedule)
            axis.plot(at[far], np.full(far.sum(), FAR), marker, color=color, ms=4, mfc="none")
        axis.axhline(1.0, color="gray", lw=1, label="linear")
        axis.set_title(optimizer + without * bool(none), fontsize=10)
        axis.set(xlabel="data set", ylabel="loss / that of linear decay")
        axis.set_xticks(range(len(sets)), list(sets), rotation=60, ha="right", fontsize=8)
    figures.legend(figure, axes[0])
    figures.save(figure, path)
