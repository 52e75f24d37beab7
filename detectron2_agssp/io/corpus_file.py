"""The manifest by which a folder of links to several image folders is one corpus.

``agssp_corpus.jsonl`` has an object per image, ``image`` and what is known of it, in the order of
a folder walk. ``image`` is ``<source>/<path>``, and ``<source>`` beside the manifest a link to the
folder that the images are in: nothing is copied, and whatever reads a folder of images reads a
corpus. Images of these folders that the manifest does not list are not of the corpus.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

CORPUS_FILE = "agssp_corpus.jsonl"


def is_corpus(root: str | Path) -> bool:
    """Whether a folder has the manifest."""
    return "://" not in str(root) and os.path.isfile(os.path.join(root, CORPUS_FILE))


def corpus_entries(root: str | Path) -> Iterator[dict]:
    """Yields the manifest's objects, in its order.

    Raises:
        ValueError: a line (it is named) is damaged, or its image is not below the folder.
    """
    path = os.path.join(root, CORPUS_FILE)
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                parts = entry["image"].split("/")
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(_damaged(path, number, error)) from error
            if len(parts) < 2 or {"", ".", ".."} & set(parts) or "\0" in entry["image"]:
                raise ValueError(_damaged(path, number, f"image {entry['image']!r}"))
            yield entry


def _damaged(path: str, number: int, what: object) -> str:
    return f"{path}:{number} is not an image of a corpus ({what}). Make it again with agssp corpus."
