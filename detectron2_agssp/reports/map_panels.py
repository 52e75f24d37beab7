"""Pictures of stored maps: each image beside its map, overlay and pseudo-boxes."""

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.io.files import atomic_write, safe_join
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.manifest import seeded_rank
from detectron2_agssp.maps.store import MapStore, load_map
from detectron2_agssp.visualization import anomaly_panel, message_tile


class MapPainter:
    """Draws entries of a map folder's manifest.

    An image that is not there any more is replaced by a tile that says so.

    Args:
        cfg: boxes are cut by ``cfg.AGSSP.BOXES``.
        map_root: the map folder.
        rule: of the boxes; None for the folder's own by ``cfg``.
        image_root: folder that the manifest's paths are relative to; None for the recorded one.

    Attributes:
        image_root: as given or recorded; "" if neither.
        missing: how many images could not be shown.
    """

    def __init__(
        self,
        cfg,
        map_root: str | Path,
        *,
        rule: BoxRule | None = None,
        image_root: str | Path | None = None,
    ):
        self.store = MapStore(map_root)
        self.rule = BoxRule.from_config(cfg, map_root) if rule is None else rule
        self.image_root = find_image_root(map_root, image_root)
        # That of the maps, so that the image is shown as the scorer saw it.
        recorded = self.store.read_scorer() or {}
        settings = cfg.AGSSP.INPUT
        self.read_image = ImageReader(
            bit_depth=recorded.get("BIT_DEPTH", settings.BIT_DEPTH),
            float_max=recorded.get("FLOAT_MAX", settings.FLOAT_MAX),
            max_pixels=settings.MAX_PIXELS,
        )
        self.missing = 0

    def __call__(
        self, entry: dict, height: int = 224, title: bool = False
    ) -> tuple[str, np.ndarray]:
        """A caption (path, score, source) and the panel, RGB uint8.

        Args:
            entry: of the manifest.
            height: of the tiles, pixels.
            title: write the caption above the tiles as well.

        Raises:
            FileNotFoundError, ValueError: the map is missing or damaged (named).
        """
        anomaly_map = load_map(self.store.root / entry["map"])
        rows, columns = entry["height"], entry["width"]
        image, remark = self._read(entry)
        boxes, scores = self.rule(anomaly_map, rows, columns, entry["source"])
        caption = f"{entry['image']}, score {entry['score']:.3f}, source: {entry['source']}{remark}"
        panel = anomaly_panel(
            image, anomaly_map, boxes, scores, title=caption if title else "", height=height
        )
        return caption, panel

    def _read(self, entry: dict) -> tuple[np.ndarray, str]:
        """The image (height, width, 3) of the manifest's size, and what there is to say of it."""
        rows, columns = entry["height"], entry["width"]
        # Not pathlib, which would take the double slash out of "s3://bucket".
        path = os.path.join(self.image_root, entry["image"])
        try:
            image = self.read_image(path)
        except FileNotFoundError:
            self.missing += 1
            return message_tile("image is not there", rows, columns), " (the image is not there)"
        except (OSError, ValueError) as error:
            self.missing += 1
            return message_tile("image cannot be read", rows, columns), f" ({error})"
        if image.shape[:2] == (rows, columns):
            return image, ""
        remark = (
            f" (the file is now {image.shape[1]} x {image.shape[0]} pixels, its map was made of "
            f"{columns} x {rows})"
        )
        return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA), remark


def write_map_panels(
    cfg,
    map_root: str | Path,
    output: str | Path,
    *,
    images: Sequence[str] = (),
    num: int | None = 16,
    seed: int = 0,
    image_root: str | Path | None = None,
    height: int = 320,
    progress: bool = True,
) -> list[Path]:
    """Writes panels (image, map, overlay, pseudo-boxes) as ``<output>/<image>.png``.

    Args:
        cfg: boxes are cut by ``cfg.AGSSP.BOXES``.
        map_root: the map folder.
        output: folder to write.
        images: paths as in the manifest, or patterns of them (``*`` also matches ``/``), or either
            with the image folder before it; empty for all images.
        num: at most so many of them, a seeded sample; None for all.
        seed: of the sample.
        image_root: folder that the manifest's paths are relative to; None for the recorded one.
        height: of the tiles, pixels.
        progress: show a progress bar.

    Returns:
        The files, in the manifest's order.

    Raises:
        FileNotFoundError: no manifest, no ``image_root``, or a map is missing (named).
        ValueError: the manifest is empty, nothing in it matches one of ``images`` (named), a map is
            damaged (named), or an entry leads out of ``output``.
    """
    if num is not None and num < 1:
        raise ValueError(f"The number of panels must be 1 or more, got {num}.")
    store = MapStore(map_root)
    entries = _chosen(store, images, num, seed, find_image_root(map_root, image_root))
    draw = MapPainter(cfg, map_root, image_root=image_root)
    written = []
    for entry in tqdm(entries, desc="panels", unit="img", disable=not progress):
        _, panel = draw(entry, height, title=True)
        # Named as its map, whose name is short enough for a file where the image's just was.
        name = entry["map"].removeprefix("maps/").removesuffix(".npy")
        path = safe_join(output, f"{name}.png")
        _, encoded = cv2.imencode(".png", np.ascontiguousarray(panel[:, :, ::-1]))
        with atomic_write(path, "wb") as file:
            file.write(encoded.tobytes())
        written.append(path)
    return written


def find_image_root(map_root: str | Path, image_root: str | Path | None = None) -> str:
    """The image folder: as given, else as ``scorer.json`` records it, else "".

    Raises:
        FileNotFoundError: the given one does not exist.
    """
    if image_root is None:
        return str((MapStore(map_root).read_scorer() or {}).get("image_root", ""))
    from detectron2.utils.file_io import PathManager

    if not PathManager.isdir(os.fspath(image_root)):
        raise FileNotFoundError(f"Image folder {os.fspath(image_root)!r} does not exist.")
    return os.fspath(image_root)


def _chosen(store: MapStore, images, num: int | None, seed: int, image_root: str) -> list[dict]:
    entries = list(store.entries())
    if not entries:
        raise ValueError(f"The manifest of {store.root} is empty: there are no maps to draw.")
    patterns = {pattern: _relative(str(pattern), image_root) for pattern in images}
    unmatched, chosen = set(patterns), []
    for entry in entries:
        name = entry["image"]
        # Also as it is: brackets in a name would otherwise be taken for a pattern.
        hits = {p for p, r in patterns.items() if r == name or fnmatch.fnmatchcase(name, r)}
        unmatched -= hits
        if hits or not patterns:
            chosen.append(entry)
    if unmatched:
        raise ValueError(
            f"No image of {store.root} matches {', '.join(sorted(map(repr, unmatched)))}. Expected "
            "paths as in its manifest.jsonl, or patterns such as 'line1/*'."
        )
    ranked = sorted(chosen, key=lambda entry: seeded_rank(seed, entry["image"]))
    sample = {entry["image"] for entry in ranked[:num]}
    return [entry for entry in chosen if entry["image"] in sample]


def _relative(pattern: str, image_root: str) -> str:
    """``pattern`` without the image folder, should it start with that (as a shell expands it)."""
    if not image_root:
        return pattern
    here, root = os.path.abspath(pattern), os.path.abspath(image_root)
    return here[len(root) + 1 :] if here.startswith(f"{root}{os.sep}") else pattern
