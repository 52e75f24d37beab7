"""What a mistyped name was meant to be."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The choice nearest to ``name``, as " Did you mean X?" to be put after a sentence; "" where
    none is near (``cutoff`` in [0, 1], 1 for equal names)."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=cutoff)
    return f" Did you mean {by_lower_case[nearest[0]]}?" if nearest else ""
