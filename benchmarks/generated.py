"""Parts of documents that are generated. A document says what it wants between two comments; what
stands between them is replaced:

    <!-- generated: KIND WORDS -->
    <!-- end -->
"""

import re
from collections.abc import Callable
from pathlib import Path

from detectron2_agssp.io.files import atomic_write


def fill_generated(path: str | Path, kind: str, text: Callable[[list[str]], str]) -> int:
    """Brings the generated parts of one kind in a markdown file up to date.

    Args:
        path: the file; written only where something has changed.
        text: WORDS, split -> what is to stand there, with a line break at its end.

    Returns:
        how many of them have changed; -1 where there is none of the kind.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    pattern = re.compile(
        rf"(<!-- generated: {re.escape(kind)}((?: [^\n>]+)?) -->\n).*?(<!-- end -->)", re.DOTALL
    )
    changed = found = 0

    def filled(match: re.Match) -> str:
        nonlocal changed, found
        whole = f"{match[1]}{text(match[2].split())}{match[3]}"
        found, changed = found + 1, changed + (whole != match[0])
        return whole

    after = pattern.sub(filled, path.read_text(encoding="utf-8"))
    if changed:
        with atomic_write(path) as file:
            file.write(after)
    return changed if found else -1
