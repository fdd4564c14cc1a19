"""Directives and a role that bring numbers into the pages, from files and from the code itself.

``{result}`digits_optimizers.csv Lion mean .2%``` is one number of a file under ``results/``. The
directives make tables: of solvers, bytes, records of the authors' runs and tables to reproduce.
Every result file in Markdown becomes a page of its own under ``tables/``. No number that was
measured is typed.
"""

import contextlib
import io
import json
import os
import re
import shlex
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective, SphinxRole

from docs.numbers import RESULTS, ROOT, number

DOCS = ROOT / "docs"
PAGES = DOCS / "tables"


class Result(SphinxRole):
    """The role ``result``."""

    def run(self):
        self.env.note_dependency(str(RESULTS / shlex.split(self.text)[0]))
        try:
            return [nodes.Text(number(self.text))], []
        except ValueError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [], [message]


class Lines(SphinxDirective):
    """A directive whose content is made as lines of Markdown."""

    make: Callable[..., list[str]]
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        place = f"{self.name} of {self.env.docname}"
        lines = type(self).make(*self.arguments)
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, source=place), self.content_offset, holder)
        return holder.children


class Run(SphinxDirective):
    """``{run}``: Python that is run when the page is built, and what it prints."""

    has_content = True

    def run(self):
        code = "\n".join(self.content)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                exec(compile(code, self.env.docname, "exec"), {"__name__": "__docs__"})
            except Exception as error:
                raise self.error(f"{type(error).__name__}: {error}") from error
        said = [f"{w.category.__name__}: {w.message}" for w in caught]
        shown = "\n".join([printed.getvalue().rstrip(), *said]).strip()
        made = [nodes.literal_block(code, code, language="python")]
        return made + [nodes.literal_block(shown, shown, language="text")] * bool(shown)


class Page(SphinxDirective):
    """``{result-page} FILE``: the head of a result file in Markdown, or else the content given."""

    required_arguments = 1
    has_content = True
    option_spec = MappingProxyType({"until": directives.unchanged, "skip-title": directives.flag})

    def run(self):
        path = RESULTS.parent / self.arguments[0]
        self.env.note_dependency(str(path))
        lines = list(self.content)
        if path.exists():
            text = relinked(path, DOCS / Path(self.env.docname).parent)
            if stop := self.options.get("until"):
                text = text.partition(f"\n{stop}")[0]
            if "skip-title" in self.options:
                text = re.sub(r"\A# .*\n", "", text)
            lines = text.splitlines()
        holder = nodes.container()
        self.state.nested_parse(
            StringList(lines, source=str(path)), self.content_offset, holder, match_titles=True
        )
        return holder.children


def relinked(path: Path, folder: Path) -> str:
    """Returns a result file with its links as they must read in ``folder``.

    A result file that is a page of the site is linked as that page.
    """

    def link(match):
        start, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        file = (path.parent / target).resolve()
        if not file.exists():
            raise ValueError(f"{path.relative_to(ROOT)} links to {target}, which does not exist")
        if file in page_of:
            file, anchor = PAGES / f"{page_of[file]}.md", ""
        return f"{start}({os.path.relpath(file, folder)}{anchor})"

    page_of = {source: name for name, source in pages().items()}
    text = path.read_text(encoding="utf-8")
    return re.sub(r"(\])\(([^)#\s]+)(#[^)\s]*)?\)", link, text)


def pages() -> dict[str, Path]:
    """Returns {page: file} of all results in Markdown."""
    found = {}
    for file in sorted(RESULTS.rglob("*.md")):
        parts = file.relative_to(RESULTS).with_suffix("").parts
        if parts[0] not in ("cache", "runs"):
            found["-".join(parts)] = file
    if (ROOT / "RESULTS.md").exists():
        found["claims"] = ROOT / "RESULTS.md"
    return found


def write_pages(app) -> None:
    """Writes a page for each result; unchanged ones are left, so that nothing is read anew."""
    PAGES.mkdir(exist_ok=True)
    wanted = {f"{name}.md": relinked(file, PAGES) for name, file in pages().items()}
    names = "\n".join(name.removesuffix(".md") for name in wanted)
    wanted["index.md"] = f"# Results\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
    for file in PAGES.iterdir():
        if file.name not in wanted:
            file.unlink()
    for name, text in wanted.items():
        file = PAGES / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def table(head, rows) -> list[str]:
    from experiments.common import markdown

    return markdown.table(head, rows)


def solvers() -> list[str]:
    """The table of solvers, from the solvers."""
    from experiments.solving import overview

    return overview.table()


def steps() -> list[str]:
    """Step sizes beside each other, with the letters that they have in the papers."""
    import bilevel
    from experiments.solving import overview

    def cell(row, name):
        solver = row.make(1, 1)
        text = getattr(bilevel, solver.name).__doc__ or ""
        found = re.search(rf"^ +{name}: .*?:math:`(.+?)`", text, re.MULTILINE)
        letter = re.sub(r"\\ge.*|>.*|\\in.*", "", found[1]).strip() if found else ""
        return f"`{name}` ${letter}$" if letter else f"`{name}`"

    rows = []
    for row in overview.ROWS:
        names = row.make(1, 1).step_names
        mine = {n: cell(row, n) for n in names}
        both = [mine.pop("upper_step", "none"), mine.pop("lower_step", "none")]
        rows.append([f"`{row.call}`", *both, ", ".join(mine.values())])
    return table(["solver", "upper step", "lower step", "further steps"], rows)


def state_bytes() -> list[str]:
    """GiB of optimizer state for LLaMA models, from shapes."""
    import jax
    import optax

    import optim
    from experiments import models

    made = {
        "`optax.adamw`": optax.adamw(1e-3),
        "`optim.adamp`": optim.adamp(1e-3),
        "`optim.diffgrad`": optim.diffgrad(1e-3),
        "`optim.lion`": optim.lion(1e-3),
        "`optim.sgdp`": optim.sgdp(1e-3, momentum=0.9),
        "`optim.frugal(density=0.25)`": optim.frugal(1e-3, density=0.25),
        "`optim.frugal(density=0)`": optim.frugal(1e-3, density=0.0),
        '`optim.frugal(0.25, subspace="columns")`': optim.frugal(
            1e-3, density=0.25, subspace="columns"
        ),
        "`optim.galore(density=0.25)`": optim.galore(1e-3, density=0.25),
        "`optim.badam(density=0.25)`": optim.badam(1e-3, density=0.25),
    }
    shapes = {}
    for size in ("60M", "130M", "350M", "1B"):
        model = models.build("llama", input_shape=(256,), num_classes=32000, size=size)
        shapes[size] = jax.eval_shape(lambda m=model: m.init(jax.random.key(0)))[0]
    head = ["optimizer", *(f"{s}, GiB" for s in shapes), "bytes per parameter at 1B"]
    rows = []
    for name, tx in made.items():
        found = [optim.state_bytes(tx, p) for p in shapes.values()]
        count = sum(x.size for x in jax.tree.leaves(shapes["1B"]))
        rows.append([name, *(f"{b / 2**30:.2f}" for b in found), f"{found[-1] / count:.2f}"])
    return table(head, rows)


def dtypes() -> list[str]:
    """Bytes of state per parameter by dtype of parameters and moments."""
    import jax
    import jax.numpy as jnp
    import optax

    import optim

    wide, narrow = jnp.float32, jnp.bfloat16
    cases = [
        ("`optim.adamp(1e-3)`", lambda: optim.adamp(1e-3)),
        ("`optim.adamp(1e-3, mu_dtype=bfloat16)`", lambda: optim.adamp(1e-3, mu_dtype=narrow)),
        (
            "`optim.adamp(1e-3, mu_dtype=float32, nu_dtype=float32)`",
            lambda: optim.adamp(1e-3, mu_dtype=wide, nu_dtype=wide),
        ),
        ("`optim.diffgrad(1e-3)`", lambda: optim.diffgrad(1e-3)),
        ("`optim.lion(1e-4)`", lambda: optim.lion(1e-4)),
        ("`optim.lion(1e-4, mu_dtype=bfloat16)`", lambda: optim.lion(1e-4, mu_dtype=narrow)),
        ("`optim.sgdp(0.1, momentum=0.9)`", lambda: optim.sgdp(0.1, momentum=0.9)),
        ("`optax.adamw(1e-3)`", lambda: optax.adamw(1e-3)),
    ]
    rows = []
    for name, make in cases:
        cells = []
        for dtype in (wide, narrow):
            params = {"kernel": jax.ShapeDtypeStruct((1024, 1024), dtype)}
            cells.append(f"{optim.state_bytes(make(), params) / 2**20:.0f}")
        rows.append([name, *cells])
    return table(["optimizer", "float32 parameters", "bfloat16 parameters"], rows)


def reproducible() -> list[str]:
    """Every table: its command, its cost, its page."""
    from experiments.tables import definition

    have = pages()
    rows = []
    for file in sorted((ROOT / "configs" / "tables").glob("*.py")):
        if file.stem == "__init__":
            continue
        at, scale = next(iter(definition.definition(file.stem)["scales"].items()))
        name = next((n for n in have if n.split("-")[-1] == file.stem), None)
        title = definition.load(file.stem, at).title
        link = f"[{title}](/tables/{name}.md)" if name else title
        command = f"`python -m experiments.reproduce --table={file.stem}`"
        rows.append([link, command, f"{scale['minutes']} min", scale["about"]])
    return table(["table", "command", "planned", "on"], rows)


def studies() -> list[str]:
    """Results that are no tables of ``experiments.reproduce``: the command that each page names."""
    rows = []
    for name, file in pages().items():
        text = file.read_text(encoding="utf-8")
        if "experiments.reproduce --table" in text:
            continue
        command = re.search(r"`?(python -m [^`\n]+)`?", text)
        title = re.search(r"^# (.+)$", text, re.MULTILINE)[1]
        shown = f"`{command[1].strip()}`" if command else ""
        rows.append([f"[{title}](/tables/{name}.md)", shown])
    return table(["study", "command"], rows)


def records() -> list[str]:
    """Every method with the authors' repository, the records, and how near the replay comes."""
    known = tomllib.loads((DOCS / "fidelity.toml").read_text(encoding="utf-8"))["method"]
    path = RESULTS / "fidelity.json"
    tests = json.loads(path.read_text(encoding="utf-8"))["tests"] if path.exists() else {}
    rows = []
    for method in known:
        files = [f for p in method["records"] for f in (ROOT / "tests/reference").glob(p)]
        if not files:
            raise ValueError(f"fidelity.toml: no records match {method['records']}")
        mine = [t for n, t in tests.items() if any(re.search(p, n) for p in method["tests"])]
        if tests and not mine:
            raise ValueError(f"fidelity.toml: no test matches {method['tests']}")
        largest = f"{max(t['largest'] for t in mine):.1e}" if mine else ""
        if mine and not any(t["close"] for t in mine):
            largest = "equal"
        allowed = max((t.get("atol", 0.0) for t in mine), default=0.0)
        allowed = max(allowed, method.get("tolerance", 0.0))
        relative = max((t.get("rtol", 0.0) for t in mine), default=0.0)
        tolerance = " + ".join(
            [f"{allowed:.0e}"] * bool(allowed) + [f"{relative:.0e} rel."] * bool(relative)
        )
        api = ", ".join(f"{{py:obj}}`{n}`" for n in method["names"])
        rows.append([method["title"], largest, tolerance, len(files), api, method["source"]])
    head = ["method", "largest difference", "tolerance", "records", "here", "authors' code"]
    return table(head, rows)


def deviations() -> list[str]:
    """Where paper and code of the authors differ, and which argument selects which."""
    known = tomllib.loads((DOCS / "fidelity.toml").read_text(encoding="utf-8"))["method"]
    rows = [
        [method["title"], d["what"], d["default"], d["flag"]]
        for method in known
        for d in method.get("differs", ())
    ]
    return table(["method", "paper and code differ in", "the default", "the other"], rows)


def setup(app):
    """Registers everything."""
    app.add_role("result", Result())
    app.add_directive("result-page", Page)
    app.add_directive("run", Run)
    made = {"solvers": solvers, "solver-steps": steps, "state-bytes": state_bytes}
    made |= {"state-dtypes": dtypes, "reproducible": reproducible, "studies": studies}
    made |= {"records": records, "deviations": deviations}
    for name, make in made.items():
        app.add_directive(name, type(name, (Lines,), {"make": staticmethod(make)}))
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
