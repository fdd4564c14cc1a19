"""Measures how near each replay comes to its record: the figures of the page on fidelity.

python -m docs.fidelity    # runs the tests marked "fidelity", writes results/fidelity.json

Every comparison that those tests make with ``numpy.testing.assert_allclose``, or with the helpers
of the record modules that return a difference, is counted: the largest difference in the whole
test, and the largest share of a tolerance. Demands of equality (masks, indices) count too.
"""

import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from experiments.common import files, provenance

ROOT = Path(__file__).parent.parent
HELPERS = (("sparse_records", "gap"), ("pruning_records", "gap"))
HELPERS += (("bilevel_records", "relative_error"),)
OUT = ROOT / "results" / "fidelity.json"


class Measure:
    """A plugin of pytest that keeps the largest difference of each test."""

    def __init__(self):
        self.tests = defaultdict(lambda: {"cases": 0, "exact": 0, "close": 0, "largest": 0.0})
        self.current = None
        self.failed = 0

    def pytest_sessionstart(self):
        for name, helper in HELPERS:
            module = importlib.import_module(name)
            setattr(module, helper, self.measured(getattr(module, helper)))

    def measured(self, helper):
        """Returns a function that keeps what ``helper`` returns."""

        def wrapped(*arguments, **options):
            value = helper(*arguments, **options)
            if self.current is not None:
                self.current["close"] += 1
                self.current["largest"] = max(self.current["largest"], float(np.max(value)))
            return value

        return wrapped

    def pytest_runtest_setup(self, item):
        self.current = self.tests[item.nodeid]
        self.current["cases"] += 1

    def pytest_runtest_logreport(self, report):
        self.failed += report.failed

    def close(self, actual, desired, rtol=1e-7, atol=0.0, **options):
        real_close(actual, desired, rtol=rtol, atol=atol, **options)
        if self.current is None:
            return
        with np.errstate(all="ignore"):
            a, b = (np.asarray(x, np.float64) for x in (actual, desired))
            difference = np.abs(a - b)
            allowed = atol + rtol * np.abs(b)
        known = self.current
        known["close"] += 1
        known["largest"] = max(known["largest"], float(np.nanmax(difference, initial=0.0)))
        share = np.where(allowed > 0, difference / np.where(allowed > 0, allowed, 1.0), 0.0)
        known["share"] = max(known.get("share", 0.0), float(np.nanmax(share, initial=0.0)))
        known["atol"] = max(known.get("atol", 0.0), float(atol))
        known["rtol"] = max(known.get("rtol", 0.0), float(rtol))

    def equal(self, *arguments, **options):
        real_equal(*arguments, **options)
        if self.current is not None:
            self.current["exact"] += 1


real_close, real_equal = np.testing.assert_allclose, np.testing.assert_array_equal


def main() -> int:
    """Returns 0 where all tests passed and the file is written."""
    measure = Measure()
    np.testing.assert_allclose, np.testing.assert_array_equal = measure.close, measure.equal
    arguments = ["-q", "-n", "0", "-m", "fidelity", str(ROOT / "tests")]
    code = pytest.main(arguments, plugins=[measure])
    if code or measure.failed:
        return int(code) or 1
    content = {
        "command": "python -m docs.fidelity",
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "tests": dict(sorted(measure.tests.items())),
    }
    files.write(OUT, json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
