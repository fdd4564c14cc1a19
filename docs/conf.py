"""Settings of Sphinx; ``python -m docs.build`` runs it."""

import sys
from pathlib import Path

import jax

import optim

jax.config.update("jax_num_cpu_devices", 8)  # For the example of sharding.
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "optim-bilevel"
author = "the authors of optim-bilevel"
version = release = optim.__version__
html_title = f"{project} {version}"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # The formulas need no network either.
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "results",
]
exclude_patterns = ["_build", "_ext", "_templates", "examples", "gallery/**/*.ipynb"]
templates_path = ["_templates"]
nitpicky = True
# Of other packages, whose pages are not at hand without a network, and of Python itself.
nitpick_ignore_regex = [
    ("py:.*", r"(jax|jaxlib|numpy|np|optax|flax|collections|typing|pathlib|ml_collections)\b.*"),
    ("py:.*", r"(Any|Array|Callable|Iterable|Iterator|Mapping|Path|Sequence|Literal|ndarray)"),
    ("py:class", r"(ArrayTree|bilevel\.pruning\._.*)"),
]

autosummary_generate = True
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # The section "Args" says what each argument is.
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "filename_pattern": r".*\.py",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "min_reported_time": 0,
    "reset_modules": (),
}

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False


def setup(app):
    """Leaves out the fields of named tuples, which the section "Attributes" has."""
    app.connect("autodoc-skip-member", _is_field)


def _is_field(app, what, name, member, skip, options):
    plain = type(member).__name__ == "_tuplegetter" or (what == "class" and name.startswith("_"))
    return True if plain else skip
