"""A small map folder with images, for the report and the panels."""

from pathlib import Path

import cv2
import numpy as np

from detectron2_agssp.maps.store import MapStore

NAMES = ["a/1.png", "a/2.png", "b/<b>Öl & 划痕.png", "b/4.png", "b/[5].png", "c/6.png"]
SCORES = {name: 0.2 * number for number, name in enumerate(NAMES, start=1)}


def make_map_folder(
    root: Path, scores: dict[str, float], recorded: bool = True, images: bool = True
) -> Path:
    """Makes 16-bit images of 40 x 60 (middle grey) in ``root/images``, their maps in ``root/maps``,
    and ``scorer.json``. The maximum of each map is its score; its right half is 0, so its box is
    the left half of the image."""
    store = MapStore(root / "maps")
    store.append([])
    for image, score in scores.items():
        anomaly_map = np.zeros((4, 6), np.float32)
        anomaly_map[:, :3] = min(score, 1)
        store.write_map(image, anomaly_map)
        entry = {"image": image, "map": store.map_name(image), "height": 40, "width": 60}
        store.append([{**entry, "source": image.split("/")[0], "score": score}])
        if images:
            path = root / "images" / image
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = np.full((40, 60), 0x8000, np.uint16)
            # Not imwrite, which cannot take every name everywhere.
            path.write_bytes(cv2.imencode(".png", grey)[1].tobytes())
    if recorded:
        settings = {"NAME": "memory", "IMAGE_SIZE": 256, "MODEL": "m0", "MEMORY": {"K": 7}}
        info = {"SCORER": settings, "scorer": "memory", "fingerprint": "f00", "BIT_DEPTH": 0}
        info["calibration"] = {"low": 2.0, "high": 5.0}
        store.write_scorer({**info, "image_root": str(root / "images")}, {})
    return store.root
