"""KeAD from a folder of images to a map folder to boxes, on a small random CLIP."""

import json

import pytest
import torch
from PIL import Image

from detectron2_agssp.boxes.coco_export import pseudo_boxes_as_coco
from detectron2_agssp.maps import MapStore, generate_anomaly_maps, load_map
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer
from tests.small_clip import DESCRIPTIONS

pytest.importorskip("open_clip")

NAMES = ["line/1.png", "line/2.png", "line/3.png", "good/1.png", "good/2.png"]


@pytest.fixture
def images(tmp_path, surface):
    root = tmp_path / "images"
    for seed, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(surface(60 + 8 * seed, 120, seed)).save(root / name)
    return root


def generate(cfg, images, maps):
    return generate_anomaly_maps(cfg, images, maps, progress=False)


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def check_boxes(cfg, maps):
    """Boxes come from the maps, inside the images."""
    coco = pseudo_boxes_as_coco(cfg, maps, progress=False)
    assert [image["file_name"] for image in coco["images"]] == sorted(NAMES)
    assert coco["annotations"]
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert min(x, y, width, height) >= 0
        assert x + width <= sizes[annotation["image_id"]][0]
        assert y + height <= sizes[annotation["image_id"]][1]


def test_texts_alone(kead_cfg, images, tmp_path):
    maps = tmp_path / "maps"
    assert generate(kead_cfg, images, maps).scored == 5
    entries = {entry["image"]: entry for entry in MapStore(maps).entries()}
    assert sorted(entries) == sorted(NAMES)
    for entry in entries.values():
        stored = load_map(maps / entry["map"])
        assert stored.shape == (6, 6)
        assert 0 <= stored.min() < stored.max() <= 1
    info = json.loads((maps / "scorer.json").read_text())
    assert info["scorer"] == "kead"
    assert info["SCORER"]["KEAD"]["FEATURE_LAYERS"] == [3, 6, 9, 12]
    check_boxes(kead_cfg, maps)


@pytest.mark.parametrize("resize", ["square", "aspect", "tile"])
def test_texts_and_normal_images(kead_cfg, images, tmp_path, resize):
    kead_cfg.AGSSP.SCORER.KEAD.MODE = "both"
    kead_cfg.AGSSP.SCORER.NORMAL_IMAGES = ("good/*.png",)
    kead_cfg.AGSSP.SCORER.RESIZE = resize
    maps = tmp_path / "maps"
    generate(kead_cfg, images, maps)
    check_boxes(kead_cfg, maps)
    scorer, _ = load_fitted_scorer(kead_cfg, maps)
    assert scorer.memory.shape[0] == 4
    assert scorer.memory.shape[1] >= 2 * 30

    # A run that has nothing to do changes nothing; one that was cut short ends the same.
    before = contents(maps)
    assert generate(kead_cfg, images, maps).kept == 5
    assert contents(maps) == before
    (maps / "maps" / f"{NAMES[1]}.npy").unlink()
    generate(kead_cfg, images, maps)
    assert contents(maps) == before


def test_normal_images_drawn_by_seed(kead_cfg, images, tmp_path):
    kead_cfg.AGSSP.SCORER.KEAD.MODE = "few_shot"
    with pytest.raises(ValueError, match=r"'kead' needs a few normal images.*NORMAL_SAMPLE"):
        generate(kead_cfg, images, tmp_path / "none")
    kead_cfg.AGSSP.SCORER.NORMAL_SAMPLE = 2
    memories = []
    # Seeds 0 and 1 draw the same two of these five.
    for seed in (0, 0, 2):
        kead_cfg.AGSSP.SCORER.SEED = seed
        maps = tmp_path / str(len(memories))
        generate(kead_cfg, images, maps)
        memories.append(load_fitted_scorer(kead_cfg, maps)[0].memory)
        assert memories[-1].shape == (4, 2 * 36, 48)
    assert torch.equal(memories[0], memories[1])
    assert not torch.equal(memories[0], memories[2])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_resumable(kead_cfg, images, tmp_path, precision):
    kead_cfg.AGSSP.SCORER.PRECISION = precision
    assert generate(kead_cfg, images, tmp_path / "maps").scored == 5
    assert generate(kead_cfg, images, tmp_path / "maps").kept == 5


def test_descriptions_that_changed(kead_cfg, images, tmp_path):
    """An unfinished folder is not completed with other texts."""
    path = tmp_path / "mine.yaml"
    path.write_text(DESCRIPTIONS)
    kead_cfg.AGSSP.SCORER.KEAD.DESCRIPTIONS = str(path)
    generate(kead_cfg, images, tmp_path / "maps")
    path.write_text(DESCRIPTIONS.replace("a dark hole", "a bright bump"))
    with pytest.raises(ValueError, match="made with other descriptions"):
        generate(kead_cfg, images, tmp_path / "maps")


@pytest.mark.parametrize("name", ["mahalanobis", "memory"])
def test_clips_patches_for_scorers_without_text(kead_cfg, images, tmp_path, name, monkeypatch):
    # No texts are encoded.
    monkeypatch.setattr("detectron2_agssp.scoring.kead.scorer.build_text_features", None)
    scorer = kead_cfg.AGSSP.SCORER
    scorer.NAME, scorer.FEATURES, scorer.NORMAL_IMAGES = name, "clip", ("good",)
    maps = tmp_path / "maps"
    generate(kead_cfg, images, maps)
    assert load_map(maps / "maps" / f"{NAMES[0]}.npy").shape == (6, 6)
    info = json.loads((maps / "scorer.json").read_text())
    assert info["SCORER"]["KEAD"]["MODEL"] == scorer.KEAD.MODEL
    fitted, _ = load_fitted_scorer(kead_cfg, maps)
    assert fitted.features.num_channels == 4 * 48
    assert (fitted.stride, fitted.size_divisor) == (16, 16)
    check_boxes(kead_cfg, maps)


def test_texts_by_source(kead_cfg, images, tmp_path):
    """A source with texts of its own has the maps that these give it, the others' stay."""
    kead_cfg.AGSSP.CALIBRATION.PER_SOURCE = True
    kead = kead_cfg.AGSSP.SCORER.KEAD
    kead.OBJECTS_BY_SOURCE = ("line=rails",)
    for _ in range(2):
        generate(kead_cfg, images, tmp_path / "own")
    own = contents(tmp_path / "own/maps/line"), contents(tmp_path / "own/maps/good")
    kead.OBJECTS_BY_SOURCE = ()
    with pytest.raises(ValueError, match=r"OBJECTS_BY_SOURCE.*'line=rails'.* there"):
        generate(kead_cfg, images, tmp_path / "own")
    generate(kead_cfg, images, tmp_path / "one")
    assert MapStore(tmp_path / "own").read_scorer_state().keys() > {"text_normal_0"}
    assert contents(tmp_path / "one/maps/line") != own[0]
    kead.DESCRIPTIONS = "rails"
    generate(kead_cfg, images, tmp_path / "rails")
    raw = {name: MapStore(tmp_path / name).read_scorer_state() for name in ("own", "rails")}
    torch.testing.assert_close(
        torch.from_numpy(raw["own"]["text_anomaly_0"]),
        torch.from_numpy(raw["rails"]["text_anomaly"]),
    )
