"""Builds the site into ``docs/_build/html``; every warning is an error.

python -m docs.build                 # pages, API and gallery; runs the examples that changed
python -m docs.build --no-gallery    # without running examples: a minute
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code of Sphinx."""
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=__doc__)
    parser.add_argument("--no-gallery", action="store_true", help="do not run the examples")
    parser.add_argument("--fresh", action="store_true", help="read every page anew")
    given = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(DOCS / "_build" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    from sphinx.cmd.build import build_main  # Needs the extra [docs].

    os.chdir(DOCS.parent)
    if given.fresh:  # Pages of names that are gone.
        shutil.rmtree(DOCS / "api" / "names", ignore_errors=True)
    options = ["-D", "plot_gallery=0"] * given.no_gallery + ["-E", "-a"] * given.fresh
    return build_main(
        ["-b", "html", "-W", "--keep-going", "-q", *options, str(DOCS), str(DOCS / "_build/html")]
    )


if __name__ == "__main__":
    sys.exit(main())
