"""A scorer from outside the package, from a folder of images to boxes and training images."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from detectron2_agssp.boxes.coco_export import pseudo_boxes_as_coco
from detectron2_agssp.data import AnomalyMapMapper, PseudoBoxMapper, register_unlabeled
from detectron2_agssp.maps import MapStore, generate_anomaly_maps, load_map
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer
from detectron2_agssp.scoring import (
    ANOMALY_SCORER_REGISTRY,
    AnomalyScorer,
    AnomalyScores,
    build_anomaly_scorer,
)
from tests.scoring.third_party import Brightness, Contrast, NormalBrightness, SourceBrightness

KINDS = (Contrast, Brightness, NormalBrightness, SourceBrightness)
# Ground grey of each image; line "b" is darker than line "a".
GREYS = {"a/1.png": 120, "a/2.png": 124, "a/3.png": 122, "b/1.png": 60, "b/2.png": 64}


@pytest.fixture
def register(monkeypatch, tiny_cfg):
    """A function that registers what makes a scorer, and gives a config that names it."""
    monkeypatch.setattr(ANOMALY_SCORER_REGISTRY, "_obj_map", dict(ANOMALY_SCORER_REGISTRY._obj_map))

    def registered(make):
        ANOMALY_SCORER_REGISTRY._obj_map["theirs"] = make
        tiny_cfg.AGSSP.SCORER.NAME = "theirs"
        return tiny_cfg

    return registered


@pytest.fixture
def images(tmp_path):
    """Plain images, 48 x 96; one has a bright spot."""
    for name, grey in GREYS.items():
        pixels = np.full((48, 96), grey, np.uint8)
        if name == "a/3.png":
            pixels[12:24, 48:72] = 250
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "images"


@pytest.mark.parametrize("kind", KINDS)
def test_from_images_to_boxes_and_training(register, images, tmp_path, empty_catalogs, kind):
    cfg = register(lambda cfg: kind())
    cfg.AGSSP.SCORER.NORMAL_IMAGES = ("a/1.png", "a/2.png")
    cfg.AGSSP.SCORER.RESIZE = "aspect"
    cfg.AGSSP.CALIBRATION.LOW_QUANTILE = 0.0
    maps = tmp_path / "maps"
    assert build_anomaly_scorer(cfg).device == torch.device("cpu")
    generate_anomaly_maps(cfg, images, maps, progress=False)
    scorer, _ = load_fitted_scorer(cfg, maps)
    expected = {
        Contrast: [],
        Brightness: [pytest.approx(99.6, abs=0.2)],
        NormalBrightness: [pytest.approx(122, abs=0.2)],
    }
    if kind is SourceBrightness:
        assert scorer.counts.tolist() == [2, 2]
        assert bytes(scorer.names.tolist()) == b"a\nb"
    else:
        assert [state.item() for state in scorer.learned_state().values()] == expected[kind]
    # The spot stands out, whatever the scorer compares with.
    (entry,) = (entry for entry in MapStore(maps).entries() if entry["image"] == "a/3.png")
    anomaly_map = load_map(maps / entry["map"])
    assert anomaly_map.shape == (6, 11)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert 12 <= (row + 0.5) * 8 <= 24
    assert 48 <= (column + 0.5) * 96 / 11 <= 72
    # To be run again is to change nothing.
    assert generate_anomaly_maps(cfg, images, maps, progress=False).scored == 0

    cfg.AGSSP.BOXES.THRESHOLD_MODE, cfg.AGSSP.BOXES.THRESHOLD = "fixed", 0.5
    coco = pseudo_boxes_as_coco(cfg, maps, progress=False)
    by_id = {image["id"]: image["file_name"] for image in coco["images"]}
    assert "a/3.png" in {by_id[box["image_id"]] for box in coco["annotations"]}
    register_unlabeled("theirs", images, maps)
    cfg.DATASETS.TRAIN = ("theirs",)
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    (sample,) = (s for s in DatasetCatalog.get("theirs") if s["file_name"].endswith("a/3.png"))
    assert AnomalyMapMapper(cfg)(sample)["anomaly_map"].max() > 0.8
    assert len(PseudoBoxMapper(cfg)(sample)["instances"]) >= 1


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"fit_sample": "unlabelled"}, r"fit_sample 'unlabelled'\. Choices: unlabeled, normal"),
        ({"fit_sample": None}, "fit_sample None"),
        ({"fit_sample": "per_source"}, "at most: images_per_source is 0"),
        ({"image_size": 0}, "'theirs' has no image_size"),
    ],
)
def test_incomplete_scorers(register, attributes, message):
    scorer = Contrast()
    for name, value in attributes.items():
        setattr(scorer, name, value)
    with pytest.raises(ValueError, match=message):
        build_anomaly_scorer(register(lambda cfg: scorer))


def test_what_is_no_scorer(register):
    with pytest.raises(ValueError, match=r"'theirs' is a Linear: .* return an AnomalyScorer"):
        build_anomaly_scorer(register(lambda cfg: torch.nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="has no image_size"):
        build_anomaly_scorer(register(lambda cfg: AnomalyScorer()))


def test_the_base_classs_example_runs(register, images, tmp_path):
    """The docstring is what people copy."""
    code = AnomalyScorer.__doc__.partition("::\n\n")[2].partition("\n\n    With the module")[0]
    names = {}
    lines = "\n".join(line.removeprefix("        ") for line in code.splitlines())
    imports = (
        "import torch, torch.nn.functional as F\n"
        "from detectron2_agssp.scoring import *\n"
        "from detectron2_agssp.scoring.base import as_batches, strongest_cells\n"
    )
    cfg = register(Contrast)
    exec(imports + lines, names)
    assert ANOMALY_SCORER_REGISTRY.get("brightness") is names["brightness"]
    cfg.AGSSP.SCORER.NAME = "brightness"
    assert generate_anomaly_maps(cfg, images, tmp_path / "maps", progress=False).scored == 3
    assert isinstance(build_anomaly_scorer(cfg)(torch.rand(2, 3, 32, 48)), AnomalyScores)
