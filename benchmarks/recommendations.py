"""Does ``experiments.compare --model`` recommend what a search ten times as long would find?

    python -m benchmarks.recommendations --out=results/compare

For each model of ``examples/`` (none of them is a workload of the comparison) all methods are
searched twice, within a budget of gradients and within ten times as many. What either recommends is
then trained with seeds that neither has seen, the same for both. The share by which the short
search's recommendation is worse is reported whatever it is; beforehand it was hoped to be 2 % at
most.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from experiments.common import files, launch, provenance
from experiments.common import markdown as md
from experiments.comparing import halving, methods, own_model, training, verdict
from experiments.tables import stats

MODELS = ("own_model_functions", "own_model_nnx", "own_model_linen")
TIMES, SEEDS, HOPED = 10, range(101, 111), 0.02
STEM = "recommendations"


def measure(model: Path, gradients: float, cache: Path) -> dict[str, Any]:
    """Returns what both searches recommend of a model, and what that gives on new seeds."""
    compared = methods.find(None)
    found: dict[str, Any] = {"model": model.name}
    for name, budget in (("short", gradients), ("long", TIMES * gradients)):
        content = halving.search(str(model), compared, halving.Budget(budget, False), cache)
        best = verdict.winner(content)
        found[name] = {
            "gradients": content["size"]["gradients"],
            "settings": content["size"]["settings"],
            "seconds": sum(r["seconds"] for r in content["runs"]),
            **{key: best[key] for key in ("method", "setting", "schedule")},
            "values": _again(model, best),
        }
    found["metric"] = own_model.fingerprint(str(model))["metric"]
    return found


def _again(model: Path, best: dict[str, Any]) -> list[float]:
    """The metric of a recommendation with each of the new seeds."""
    method = methods.find(best["method"])[0]._replace(schedule=best["schedule"])
    version = own_model.fingerprint(str(model))
    configs = [
        training.config_of(str(model), version, method, best["setting"], seed, version["steps"])
        for seed in SEEDS
    ]
    results = training.run_population(configs)
    return [math.inf if r.final["diverged"] else r.final["best"] for r in results]


def page(content: dict[str, Any]) -> str:
    """Returns the page as Markdown."""
    rows = []
    for entry in content["models"]:
        short, long = entry["short"], entry["long"]
        same = all(short[k] == long[k] for k in ("method", "setting", "schedule"))
        pair = [stats.summarize(e["values"]) for e in (short, long)]
        p = 1.0 if same else stats.paired(short["values"], long["values"]).p
        worse = pair[0].mean / pair[1].mean - 1
        rows.append(
            [
                entry["model"],
                entry["metric"],
                *(f"{e['method']}, {e['schedule']}" for e in (short, long)),
                *(f"{s.mean:.4g} ± {s.std:.2g}" for s in pair),
                f"{100 * worse:+.1f} %",
                "same setting" if same else f"{p:.3f}",
                f"{short['gradients']}, {long['gradients']}",
            ]
        )
    head = ["model", "metric", "short search", "long search", "short", "long", "worse by", "p"]
    near = sum(
        np.mean(e["short"]["values"]) <= (1 + HOPED) * np.mean(e["long"]["values"])
        for e in content["models"]
    )
    lines = [
        "# Recommendations of a short search against those of a long one",
        "",
        f"`{content['command']}` on {content['machine']}. Metrics are minimized: mean ± standard"
        f" deviation over {len(SEEDS)} seeds that neither search has seen; p of a paired t-test.",
        "",
        *md.table([*head, "gradients"], rows, "llllrrrrr"),
        "",
        f"{near} of {len(rows)} are within {100 * HOPED:.0f} %, as was hoped of all. Both searches"
        " judge on few seeds: a negative number says that the long one chose by chance, not that"
        " less is more.",
        "",
    ]
    return "\n".join(lines)


def main(argv) -> None:
    """Measures and writes."""
    del argv
    flag = flags.FLAGS
    folder = Path(__file__).parents[1] / "examples"
    entries = []
    for name in flag.models:
        cache = Path(flag.cache) / name
        entries.append(measure(folder / f"{name}.py", flag.gradients, cache))
    content = {
        "command": "python -m benchmarks.recommendations",
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "seeds": list(SEEDS),
        "models": entries,
    }
    text = page(content)
    print(text)
    if flag.out:
        out = Path(flag.out)
        files.write(out / f"{STEM}.json", json.dumps(content, indent=1) + "\n")
        files.write(out / f"{STEM}.md", text)


if __name__ == "__main__":
    flags.DEFINE_list("models", list(MODELS), "Files of examples/, without .py.")
    flags.DEFINE_float("gradients", 12000, "Of the short search.", lower_bound=1)
    flags.DEFINE_string("cache", "runs/recommendations", "Folder of finished runs.")
    flags.DEFINE_string("out", "", "Folder for the JSON and the page, beside printing.")
    launch.use_compilation_cache()
    sys.exit(launch.guard(lambda: app.run(main)))
