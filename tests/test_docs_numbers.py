"""Numbers that were measured are not typed into README and pages: they come from files."""

import re
from pathlib import Path

import pytest

import bilevel
import optim
from docs import numbers

ROOT = Path(__file__).parent.parent
# How a typed result looks: a percentage with decimals, a spread, a test, a ratio, a duration with
# decimals, or a comparison of two decimals. Settings (a rate of 0.1, 98 % sparse) look otherwise.
LOOKS = {
    "a percentage with decimals": r"\d*\.\d+ ?%",
    "a mean with its spread": r"\d ?(?:±|\+/-) ?\.?\d",
    "a p-value": r"\bp ?[=<] ?0?\.\d",
    "two numbers against each other": r"\d*\.\d+ (?:vs\.?|against|versus) \d*\.\d+",
    "a ratio of speed or size": r"\b\d+(?:\.\d+)? times (?:as|faster|slower|smaller|larger)\b",
    "a measured time or size": r"\b\d+\.\d+ ?(?:s|ms|min|h|GiB|MiB|GB|MB|seconds|minutes|hours)\b",
    "points or a loss": r"(?:\d*\.\d+ points\b|\bloss(?:es)? (?:of|is|was|=) \d*\.\d)",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = ("_build", "gallery", "tables", "names")  # Folders that a build writes.
# Markup that is no prose: code, generated tables, comments, links' targets, the role and math.
NO_PROSE = [
    r"^(`{3,}).*?^\1 *$",
    f"{re.escape(numbers.BEGIN)}.*?{re.escape(numbers.END)}",
    r"<!--.*?-->",
    r"\{\w+(?::\w+)?\}`[^`]*`",
    r"`[^`\n]*`",
    r"\$\$.*?\$\$",
    r"\]\([^)]*\)",
]


def typed(text):
    """The results that stand in the prose of a page: [(what it is, the text)]."""
    for markup in NO_PROSE:
        text = re.sub(markup, " ", text, flags=re.DOTALL | re.MULTILINE)
    return [(what, m[0]) for what, look in LOOKS.items() for m in re.finditer(look, text)]


def pages():
    return [p for p in PAGES if not set(MADE) & set(p.relative_to(ROOT).parts)]


def test_no_page_has_a_typed_result():
    found = {str(p.relative_to(ROOT)): typed(p.read_text(encoding="utf-8")) for p in pages()}
    assert len(found) > 15
    assert {name: hits for name, hits in found.items() if hits} == {}


@pytest.mark.parametrize("planted", [
    "AdamP has 98.11 % on digits.", "it is 97.8 ± 0.4 there", "with p = 0.03", "(p < .05)",
    "2.103 vs 2.111", "2.1 against 2.3", "Lion is 3 times faster", "in 120 times as many steps",
    "a step takes 43.4 ms", "the state is 3.23 GiB", "within .5 points", "a loss of 2.10",
])  # fmt: skip
def test_a_planted_result_is_found(planted):
    assert typed(planted)
    assert typed(f"# Title\n\n| method | {planted} |\n\nMore `code`.\n")
    assert not typed(f"```python\n# {planted}\n```\n")


def test_settings_are_no_results():
    settings = "density 0.25, a rate of 1e-3, 98 % sparse, eight seeds, 3 to 10 times below AdamW's"
    assert not typed(settings + ", jax 0.10.2, {result}`x.csv Lion mean .2%` and $d = 0.5$")


def test_the_readme_has_the_table_that_the_files_give():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition(numbers.BEGIN)[2].partition(numbers.END)[0].strip()
    assert shown == numbers.readme_table()
    assert len(text.splitlines()) <= 110


def test_every_role_of_a_page_names_a_number():
    roles = [
        role
        for p in pages()
        for role in re.findall(r"\{result\}`([^`]+)`", p.read_text(encoding="utf-8"))
    ]
    assert len(roles) >= 3
    assert all(re.fullmatch(r"[-\d.]+(?: %)?", numbers.number(role)) for role in roles)
    for wrong in ("none.csv a b .1f", "digits_optimizers.csv Adam mean .1f", "digits_optimizers.csv"
                  " Lion meen .1f", "small/claims.json nothing .1f"):  # fmt: skip
        with pytest.raises(ValueError, match="no"):
            numbers.number(wrong)


@pytest.mark.parametrize("package", [optim, bilevel], ids=lambda p: p.__name__)
def test_every_public_name_is_on_the_page_of_its_package(package):
    text = (ROOT / "docs" / "api" / f"{package.__name__}.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$", text, re.MULTILINE)
    assert set(package.__all__) <= set(listed)
    assert len(set(listed)) == len(listed)
