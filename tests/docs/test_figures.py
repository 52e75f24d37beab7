"""Figures in the README are those of the committed results."""

import re

from tests.tiny_models import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "few_label"
INTERVAL = re.compile(r"[+-]?\d+\.\d ± \d+\.\d")


def test_intervals_of_the_readme_stand_in_a_table():
    tables = "".join(path.read_text() for path in RESULTS.glob("*/table.md"))
    intervals = INTERVAL.findall((ROOT / "README.md").read_text())
    assert len(intervals) > 4
    assert set(intervals) <= set(INTERVAL.findall(tables))
