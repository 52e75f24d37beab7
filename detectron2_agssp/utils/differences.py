"""What differs between two nested settings."""

from collections.abc import Iterator
from typing import Any


def differences(there: dict, here: dict, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, value there, value here (None where it is missing), in order of the keys."""
    for key in sorted(set(there) | set(here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
