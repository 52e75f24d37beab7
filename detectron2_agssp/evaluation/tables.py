"""Figures as aligned text."""

from collections.abc import Iterable, Sequence


def format_rows(headers: Sequence[str], rows: Iterable[Sequence], num_names: int = 1) -> str:
    """A Markdown table with three decimals and "-" for None; the first ``num_names`` columns are
    names, which may look like numbers."""
    from tabulate import tabulate  # slow to import

    return tabulate(
        list(rows),
        list(headers),
        floatfmt=".3f",
        tablefmt="github",
        missingval="-",
        disable_numparse=list(range(num_names)),
    )
