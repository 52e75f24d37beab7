"""Tables of results inside documents, generated from the cells.

A document says what it wants between two comments; what stands between them is replaced:

    <!-- generated: few_label neu_det_cpu 5 10 imagenet agssp -->
    <!-- end -->

The words are the name of the benchmark file, then labelled shares in percent and arms, in any
order; of what is not named, all are shown.
"""

import re
from pathlib import Path

from benchmarks.few_label.results import read_cells, short_table
from benchmarks.few_label.settings import load_benchmark
from benchmarks.generated import fill_generated

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS.parent / "results" / "few_label"


def update_document(path: str | Path, results: str | Path = RESULTS) -> bool:
    """Brings the generated tables of a markdown file up to date.

    Args:
        path: the file; written only where something has changed.
        results: folder of the benchmarks' results, one folder each.

    Returns:
        Whether it has changed.

    Raises:
        FileNotFoundError: the file, or a benchmark that it names, does not exist.
        ValueError: the file has no generated table, or asks for something without results.
    """
    changed = fill_generated(path, "few_label", lambda words: _table(words, Path(results)))
    if changed < 0:
        raise ValueError(
            f"{path} has no table to generate. Expected a line such as "
            "<!-- generated: few_label neu_det_cpu 10 -->, and <!-- end --> after it."
        )
    return changed > 0


def _table(words: list[str], results: Path) -> str:
    name, *chosen = words
    benchmark = load_benchmark(BENCHMARKS / f"{name}.yaml")
    fractions = [float(word) for word in chosen if re.fullmatch(r"[\d.]+", word)]
    arms = [word for word in chosen if word in benchmark.titles()]
    if len(fractions) + len(arms) < len(chosen):
        raise ValueError(
            f"The generated table {' '.join(words)!r} names something that is neither a percentage "
            f"nor an arm; the arms are {', '.join(benchmark.titles())}."
        )
    cells = read_cells(results / name)
    cells = [cell for cell in cells if not fractions or cell["fraction"] in fractions]
    known = {cell[key] for cell in cells for key in ("fraction", "arm")}
    missing = [str(wanted) for wanted in (*fractions, *arms) if wanted not in known]
    if missing or not cells:
        raise ValueError(
            f"The generated table {' '.join(words)!r} has no results of "
            f"{', '.join(missing) or name} in {results / name}."
        )
    return short_table(benchmark, cells, arms)
