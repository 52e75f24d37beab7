"""Names in messages."""

from collections.abc import Iterable


def some_of(names: Iterable[object], limit: int = 5, separator: str = ", ") -> str:
    """The first names, and how many more there are: "a, b and 3 more"; "none" without any."""
    shown = list(map(str, names))
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (separator.join(shown[:limit]) or "none") + more
