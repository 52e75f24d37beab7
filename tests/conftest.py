"""What the tests share: made images and maps, a small scorer's config, and optional real data."""

import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import detectron2_agssp  # noqa: F401  (extends the default config)
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.utils.cpu_memory import keep_freed_memory

keep_freed_memory()
REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def _existing(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path} is not there; {variable} may name another place")
    return path


@pytest.fixture(autouse=True)
def loggers_that_caplog_sees(monkeypatch):
    """Detectron2's trainer tells its logger, above this package's, to keep its own to itself."""
    for name in ("detectron2", "detectron2_agssp", "fvcore"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


@pytest.fixture(scope="session")
def golden():
    """A function that gives the path of a file of golden numbers: the repository's own, or one of
    the larger ones beside the checkout."""

    def path_of(name: str) -> Path:
        own = Path(__file__).parent / "golden" / name
        shared = Path(os.environ.get("AGSSP_SHARED_GOLDEN", SHARED / "golden")) / name
        for path in (own, shared):
            if path.is_file():
                return path
        pytest.skip(f"{shared} is not there; AGSSP_SHARED_GOLDEN may name another folder")

    return path_of


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets."""
    return _existing("AGSSP_SHARED_DATA", SHARED / "data")


def make_surface(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth, noisy surface (H, W, 3) uint8 with one bright scratch."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 160, (4, 5)).astype(np.float32)
    grey = cv2.resize(coarse, (width, height)) + rng.normal(0, 6, (height, width))
    x, y = int(rng.integers(width)), int(rng.integers(height))
    grey[y : y + max(height // 8, 1), x : x + max(width // 3, 1)] += 80
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.fixture(scope="session")
def surface():
    return make_surface


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Six images that are not square, in two folders; two names differ only in their suffix, one
    has a space and letters beyond ASCII. Not to be changed: copy it."""
    root = tmp_path_factory.mktemp("images")
    names = ["a.bmp", "a.png", "line 1/a.png", "line 1/Kratzer ü 划痕.jpg", "z/b.tif", "z/c.JPG"]
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(make_surface(40 + 4 * seed, 72 - 3 * seed, seed)).save(root / name)
    return root


@pytest.fixture
def tiny_cfg():
    """A config with a small scorer that runs in this process; its weights are random."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATALOADER.NUM_WORKERS = 0
    scorer = cfg.AGSSP.SCORER
    scorer.DEVICE = "cpu"
    scorer.WEIGHTS = ""
    scorer.IMAGE_SIZE, scorer.STRIDES, scorer.CENTER = 64, (8, 16), True
    scorer.BATCH_SIZE = 2
    scorer.NUM_WORKERS = 0
    return cfg


@pytest.fixture
def write_maps():
    """A function that makes a map folder of given maps."""

    def write(
        root: Path,
        maps: dict[str, np.ndarray],
        sizes: dict | None = None,
        scores: dict | None = None,
    ) -> Path:
        """``maps``: image -> (h, w) in [0, 1]; ``sizes``: image -> (height, width), by default the
        map's own; ``scores``: image -> image score, by default 1."""
        store = MapStore(root)
        for image, anomaly_map in maps.items():
            height, width = (sizes or {}).get(image, anomaly_map.shape)
            store.write_map(image, np.asarray(anomaly_map))
            source = image.split("/")[0] if "/" in image else "images"
            entry = {"image": image, "map": store.map_name(image), "height": height}
            score = (scores or {}).get(image, 1.0)
            store.append([{**entry, "width": width, "source": source, "score": score}])
        return root

    return write


@pytest.fixture
def empty_catalogs(monkeypatch):
    """No data set is registered, and what the test registers is forgotten."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
