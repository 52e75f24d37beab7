"""From a folder of images to a map folder."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps import MapStore, generate_anomaly_maps, load_map
from detectron2_agssp.maps.calibration import border_excess, without_border
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer
from detectron2_agssp.maps.generate import registration_hint
from detectron2_agssp.maps.score import image_loader
from detectron2_agssp.scoring import ANOMALY_SCORER_REGISTRY, AnomalyScorer, AnomalyScores

KEYS = ["image", "map", "height", "width", "source", "score"]


def generate(cfg, images, maps, **settings):
    """Runs with ``settings`` of the scorer, by their short names."""
    cfg = cfg.clone()
    for key, value in settings.items():
        node = cfg.AGSSP.CALIBRATION if key in cfg.AGSSP.CALIBRATION else cfg.AGSSP.SCORER
        node[key] = value
    return generate_anomaly_maps(cfg, images, maps, progress=False)


def entries(maps):
    return {entry["image"]: entry for entry in MapStore(maps).entries()}


def skipped(maps):
    return {line["image"]: line["reason"] for line in map(json.loads, open(maps / "skipped.jsonl"))}


@pytest.fixture
def odd_folder(tmp_path, surface):
    """What cameras and archives hold: (height, width) by name; None where it is no image."""
    image = Image.fromarray(surface(30, 50))
    grey, deep = image.convert("L"), np.asarray(image.convert("L")).astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6
    root = tmp_path / "odd"
    root.mkdir()
    for name, picture in {
        "grey8.png": grey, "grey16.png": Image.fromarray(deep), "16.tiff": Image.fromarray(deep),
        "rgb.png": image, "rgba.png": image.convert("RGBA"), "la.png": grey.convert("LA"),
        "palette.png": image.convert("P"), "bit.png": image.convert("1"), "b.bmp": image,
        "g.gif": image.convert("P"), "w.webp": image, "j.jpg": image, "J.JPEG": grey,
        "cmyk.jpg": image.convert("CMYK"),
    }.items():  # fmt: skip
        picture.save(root / name)
    cv2.imwrite(str(root / "rgb16.png"), np.stack([deep] * 3, axis=2))
    sizes = dict.fromkeys((path.name for path in root.iterdir()), (30, 50))
    image.save(root / "turned.jpg", exif=turned)
    for name, size in {"pixel.png": (1, 1), "tiny.png": (8, 8), "strip.png": (3, 400)}.items():
        Image.fromarray(surface(*size)).save(root / name)
        sizes[name] = size
    Image.new("L", (40, 20), 128).save(root / "blank.png")
    for name in ("empty.png", "text.jpg", "cut.jpg"):
        content = {"text.jpg": b"no image", "cut.jpg": (root / "j.jpg").read_bytes()[:-300]}
        (root / name).write_bytes(content.get(name, b""))
    (root / "notes.txt").write_text("not an image")
    names = {"turned.jpg": (50, 30), "blank.png": (20, 40), "cut.jpg": None}
    return root, {**sizes, **names, "empty.png": None, "text.jpg": None}


def test_all_kinds_of_images(tiny_cfg, odd_folder, tmp_path):
    root, sizes = odd_folder
    summary = generate(tiny_cfg, root, tmp_path / "maps", BATCH_SIZE=8)
    readable = {name: size for name, size in sizes.items() if size}
    found = entries(tmp_path / "maps")
    assert {name: (e["height"], e["width"]) for name, e in found.items()} == readable
    reasons = skipped(tmp_path / "maps")
    assert sorted(reasons) == sorted(set(sizes) - set(readable))
    assert all("can decode" in reason for reason in reasons.values())
    assert (summary.total, summary.scored, summary.kept) == (len(sizes), len(readable), 0)
    same = [
        load_map(tmp_path / "maps" / found[n]["map"]) for n in ("rgb.png", "rgb16.png", "b.bmp")
    ]
    # The same pixels elsewhere in a batch: networks may round them otherwise, maps are float16.
    np.testing.assert_allclose(same[0], same[2], atol=2e-3)
    np.testing.assert_allclose(same[0], same[1], atol=0.02)


def test_files(tiny_cfg, image_folder, tmp_path):
    tiny_cfg.AGSSP.CALIBRATION.BORDER = False
    summary = generate(tiny_cfg, image_folder, tmp_path / "maps")
    assert summary.scored == 6
    found = entries(tmp_path / "maps")
    assert list(found) == list(list_images(image_folder))
    for name, entry in found.items():
        assert list(entry) == [*KEYS, "bytes", "modified", "digest"]
        assert entry["map"] == f"maps/{name}.npy"
        with Image.open(image_folder / name) as image:
            assert (entry["width"], entry["height"]) == image.size
        stored = np.load(tmp_path / "maps" / entry["map"])
        assert stored.dtype == np.float16
        assert stored.shape == (8, 8)
        assert stored.min() >= 0
        assert stored.max() <= 1
        # The image's score is its raw maximum, calibrated but not clipped.
        assert min(entry["score"], 1) == pytest.approx(stored.max(), abs=1e-3)
    sources = [found[name]["source"] for name in ("a.png", "line 1/a.png", "z/c.JPG")]
    assert sources == [image_folder.name, "line 1", "z"]
    info = json.loads((tmp_path / "maps/scorer.json").read_text())
    assert info["scorer"] == "mahalanobis"
    assert info["SCORER"]["IMAGE_SIZE"] == 64
    assert info["image_root"] == str(image_folder)
    assert (tmp_path / "maps/skipped.jsonl").read_text() == ""


def test_maps_are_the_scorers(tiny_cfg, image_folder, tmp_path):
    generate(tiny_cfg, image_folder, tmp_path)
    scorer, calibration = load_fitted_scorer(tiny_cfg, tmp_path)
    loader = image_loader(tiny_cfg, scorer, image_folder)
    batch = next(loader(list_images(image_folder)))
    raw = scorer(batch.groups[0].crops.float())
    for info, expected in zip(batch.infos, calibration(raw.maps.numpy()), strict=True):
        stored = load_map(tmp_path / f"maps/{info['image']}.npy")
        np.testing.assert_array_equal(stored, expected.astype(np.float16))
    tiny_cfg.AGSSP.SCORER.POOL_SIZE = 1
    with pytest.raises(ValueError, match=r"SCORER\.POOL_SIZE: 3 there, 1 now"):
        load_fitted_scorer(tiny_cfg, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"scorer\.json does not exist"):
        load_fitted_scorer(tiny_cfg, tmp_path / "absent")


def test_scored_by_another_folders_scorer(tiny_cfg, image_folder, tmp_path):
    """One image, judged by what is normal in all: as if it had been among them."""
    generate(tiny_cfg, image_folder, tmp_path / "all")
    (tmp_path / "one").mkdir()
    shutil.copy(image_folder / "a.png", tmp_path / "one")
    generate_anomaly_maps(
        tiny_cfg,
        tmp_path / "one",
        tmp_path / "scored",
        fitted_by=tmp_path / "all",
        progress=False,
    )
    expected = load_map(tmp_path / "all/maps/a.png.npy")
    scored = load_map(tmp_path / "scored/maps/a.png.npy")
    np.testing.assert_allclose(scored, expected, atol=2e-3)
    with pytest.raises(FileNotFoundError, match=r"absent has no scorer\.json"):
        generate_anomaly_maps(
            tiny_cfg, tmp_path / "one", tmp_path / "x", fitted_by=tmp_path / "absent"
        )


def test_borders_are_of_the_corpus(tiny_cfg, image_folder, tmp_path):
    tiny_cfg.AGSSP.SCORER.BATCH_SIZE = 6
    generate(tiny_cfg, image_folder, tmp_path / "maps")
    scorer, calibration = load_fitted_scorer(tiny_cfg, tmp_path / "maps")
    batch = next(image_loader(tiny_cfg, scorer, image_folder)(list_images(image_folder)))
    raw = scorer(batch.groups[0].crops.float()).maps.numpy()
    assert calibration.border == pytest.approx(border_excess([raw]), rel=1e-4)
    assert len(calibration.border) == 2
    # The median of what is left, not of the raw scores, goes to 0.
    left = without_border(raw, calibration.border)
    assert calibration.low == pytest.approx(np.median(left), rel=1e-4)
    tiny_cfg.AGSSP.CALIBRATION.BORDER = False
    with pytest.raises(ValueError, match=r"CALIBRATION\.BORDER: True there, False now"):
        generate(tiny_cfg, image_folder, tmp_path / "maps")
    generate(tiny_cfg, image_folder, tmp_path / "with border")
    assert load_fitted_scorer(tiny_cfg, tmp_path / "with border")[1].border == ()


def test_a_folder_of_before_goes_on_as_it_began(tiny_cfg, image_folder, tmp_path):
    """When there was no border to take off."""
    tiny_cfg.AGSSP.CALIBRATION.BORDER = False
    generate(tiny_cfg, image_folder, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npy")}
    path = tmp_path / "scorer.json"
    info = json.loads(path.read_text())
    del info["CALIBRATION"]["BORDER"], info["calibration"]["border"]
    path.write_text(json.dumps(info))
    next(iter(before)).unlink()
    tiny_cfg.AGSSP.CALIBRATION.BORDER = True
    generate(tiny_cfg, image_folder, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.npy")} == before


def test_calibration_is_of_the_corpus(tiny_cfg, image_folder, tmp_path):
    settings = {"LOW_QUANTILE": 0.25, "HIGH_QUANTILE": 0.75}
    generate(tiny_cfg, image_folder, tmp_path, **settings)
    cells = np.stack([load_map(tmp_path / e["map"]) for e in entries(tmp_path).values()])
    assert (cells == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert (cells == 1).mean() == pytest.approx(0.25, abs=0.01)


def test_workers_and_samples(tiny_cfg, image_folder, tmp_path):
    generate(tiny_cfg, image_folder, tmp_path / "a", FIT_IMAGES=3, MAX_IMAGES=2)
    generate(tiny_cfg, image_folder, tmp_path / "b", FIT_IMAGES=3, MAX_IMAGES=2, NUM_WORKERS=1)
    for path in (tmp_path / "a/maps").rglob("*.npy"):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == other.read_bytes()
    generate(tiny_cfg, image_folder, tmp_path / "c")
    assert entries(tmp_path / "c") != entries(tmp_path / "a"), "a sample is not the whole"


def test_one_image(tiny_cfg, image_folder, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(image_folder / "a.png", tmp_path / "images/one.png")
    assert generate(tiny_cfg, tmp_path / "images", tmp_path / "maps").scored == 1
    assert list(entries(tmp_path / "maps")) == ["one.png"]


def test_names_that_are_not_unicode_are_skipped_with_the_reason(tiny_cfg, image_folder, tmp_path):
    (tmp_path / "images").mkdir()
    for name in (os.fsdecode(b"caf\xe9.png"), "b.png"):
        shutil.copy(image_folder / "a.png", tmp_path / "images" / name)
    for _ in range(2):
        generate(tiny_cfg, tmp_path / "images", tmp_path / "maps")
        assert list(entries(tmp_path / "maps")) == ["b.png"]
        skipped = (tmp_path / "maps/skipped.jsonl").read_text()
        assert "its name is not UTF-8: rename it" in skipped


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (None, FileNotFoundError, "images' does not exist or is not a folder"),
        ([], ValueError, r"images holds no images \(searched recursively, by suffix\)"),
        (["notes.txt"], ValueError, "holds no images"),
        (["a.png", "b/c.jpg"], ValueError, r"None of the images could be read.*a\.png"),
    ],
)
def test_no_images(tiny_cfg, tmp_path, names, error, message):
    for name in [] if names is None else ["", *names]:
        path = tmp_path / "images" / name
        path.mkdir(parents=True) if not name else path.parent.mkdir(exist_ok=True)
        if name:
            path.write_bytes(b"nothing")
    with pytest.raises(error, match=message):
        generate(tiny_cfg, tmp_path / "images", tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_blank_images_only(tiny_cfg, tmp_path):
    """Blank images still differ at their borders, where the network pads."""
    (tmp_path / "images").mkdir()
    for grey in (10, 200):
        Image.new("L", (40, 20), grey).save(tmp_path / f"images/{grey}.png")
    generate(tiny_cfg, tmp_path / "images", tmp_path / "maps", STRIDES=(8,), CENTER=False)
    assert len(entries(tmp_path / "maps")) == 2


class BrightnessScorer(AnomalyScorer):
    """Grey values as scores: NaN above 250. One cell per 16 pixels."""

    image_size = 64

    def __init__(self, cfg):
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1))

    def fit(self, images):
        for batch in images:
            assert batch.dtype == torch.float32
        return self

    def forward(self, images):
        maps = torch.nn.functional.avg_pool2d(images[:, 0], 16)
        maps = torch.where(maps > 250, torch.nan, maps)
        return AnomalyScores(maps, maps.flatten(1).amax(dim=1))


@pytest.fixture
def brightness_cfg(tiny_cfg, monkeypatch):
    registered = {**ANOMALY_SCORER_REGISTRY._obj_map, "brightness": BrightnessScorer}
    monkeypatch.setattr(ANOMALY_SCORER_REGISTRY, "_obj_map", registered)
    tiny_cfg.AGSSP.SCORER.NAME = "brightness"
    return tiny_cfg


def write_grey(root, **images):
    root.mkdir(exist_ok=True)
    for name, picture in images.items():
        Image.fromarray(np.broadcast_to(picture, (64, 64)).astype(np.uint8)).save(
            root / f"{name}.png"
        )
    return root


def test_maps_that_nothing_can_be_learned_from_are_skipped(brightness_cfg, tmp_path):
    """A constant map other than 0 would stop the training that reads it."""
    gradient = np.linspace(0, 240, 64)
    images = write_grey(tmp_path / "images", gradient=gradient, light=200, dark=0)
    generate(brightness_cfg, images, tmp_path / "maps", HIGH_QUANTILE=1.0)
    write_grey(images, white=255)
    summary = generate(brightness_cfg, images, tmp_path / "maps", HIGH_QUANTILE=1.0)
    assert list(entries(tmp_path / "maps")) == ["dark.png", "gradient.png"]
    reasons = skipped(tmp_path / "maps")
    assert "the same everywhere" in reasons["light.png"]
    assert "not finite" in reasons["white.png"]
    assert summary.skipped == 2
    for entry in entries(tmp_path / "maps").values():
        load_map(tmp_path / "maps" / entry["map"])


def test_the_strongest_images_are_kept(brightness_cfg, tmp_path):
    """Far above the calibration of another folder: stored as ones, with a score above 1; an image
    that is as strong but flat says nothing."""
    normal = write_grey(tmp_path / "normal", gradient=np.linspace(0, 60, 64))
    generate(brightness_cfg, normal, tmp_path / "fitted")
    test = write_grey(tmp_path / "test", worst=np.linspace(150, 240, 64), flat=200)
    generate_anomaly_maps(
        brightness_cfg, test, tmp_path / "maps", fitted_by=tmp_path / "fitted", progress=False
    )
    (entry,) = entries(tmp_path / "maps").values()
    assert entry["image"] == "worst.png"
    assert entry["score"] > 3
    assert (load_map(tmp_path / "maps" / entry["map"]) == 1).all()
    assert "the same everywhere" in skipped(tmp_path / "maps")["flat.png"]


def test_copies_of_normal_images(tiny_cfg, image_folder, tmp_path, caplog):
    """They are at no distance from themselves: rounding is not stretched to anomalies."""
    tiny_cfg.AGSSP.SCORER.NORMAL_IMAGES = (".",)
    generate(tiny_cfg, image_folder, tmp_path / "maps", NAME="memory")
    assert "differ by rounding alone" in caplog.text
    assert len(entries(tmp_path / "maps")) == 6
    for entry in entries(tmp_path / "maps").values():
        assert not load_map(tmp_path / "maps" / entry["map"]).any()
        assert abs(entry["score"]) < 1e-4


def test_long_names(tiny_cfg, image_folder, tmp_path):
    """The longest that a file can have, twice alike but for the end."""
    names = ["x" * 247 + end for end in ("one.jpeg", "two.jpeg")]
    (tmp_path / "images").mkdir()
    for name, source in zip(names, ("a.png", "z/c.JPG"), strict=True):
        shutil.copy(image_folder / source, tmp_path / "images" / name)
    for scored in (2, 0):
        assert generate(tiny_cfg, tmp_path / "images", tmp_path / "maps").scored == scored
    maps = [load_map(tmp_path / "maps" / entries(tmp_path / "maps")[n]["map"]) for n in names]
    assert not np.array_equal(*maps)


def test_a_name_that_could_lead_out(tiny_cfg, image_folder, tmp_path):
    """Where back slashes part folders, as on Windows."""
    (tmp_path / "images").mkdir()
    for name in ("..\\a.png", "b\\c.png"):
        shutil.copy(image_folder / "a.png", tmp_path / "images" / name)
    assert generate(tiny_cfg, tmp_path / "images", tmp_path / "maps").scored == 1
    assert list(entries(tmp_path / "maps")) == ["b\\c.png"]
    assert not (tmp_path / "maps/..\\a.png.npy").exists()


def test_a_name_that_leaves_no_place_for_the_map(tiny_cfg, image_folder, tmp_path):
    """A folder that is called as an image's map: skipped with the reason, the rest goes on."""
    root = tmp_path / "images"
    (root / "a.png.npy").mkdir(parents=True)
    for name in ("a.png", "a.png.npy/b.png", "c.png"):
        shutil.copy(image_folder / "a.png", root / name)
    assert generate(tiny_cfg, root, tmp_path / "maps").scored == 2
    (reason,) = skipped(tmp_path / "maps").values()
    assert "cannot be stored under its name" in reason


@pytest.mark.parametrize(
    ("images", "message"),
    [({"a": 100, "b": 100}, "are 100.*not blank"), ({"a": 255, "b": 0}, "50.0% .*not finite")],
)
def test_raw_scores_that_cannot_be_calibrated(brightness_cfg, tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        generate(brightness_cfg, write_grey(tmp_path / "images", **images), tmp_path / "maps")
    assert not (tmp_path / "maps/scorer.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MAX_IMAGES": 0}, "MAX_IMAGES 1 or more, got 0 and 0"),
        ({"FIT_IMAGES": -1}, "FIT_IMAGES must be 0 .*got -1"),
        ({"BATCH_SIZE": 0}, "BATCH_SIZE must be positive"),
        ({"IMAGE_SIZE": 0}, "IMAGE_SIZE must be positive, got 0"),
    ],
)
def test_bad_settings(tiny_cfg, image_folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(tiny_cfg, image_folder, tmp_path / "maps", **settings)


def test_registration_hint(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert "('agssp_mine_boxes',)" in registration_hint(tmp_path, tmp_path / "agssp/mine")
    assert "register_unlabeled" in registration_hint(tmp_path, tmp_path / "elsewhere")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision(tiny_cfg, image_folder, tmp_path, precision):
    """Half precision: nearly the same maps, and a folder that is resumed."""
    tiny_cfg.AGSSP.SCORER.IMAGE_SIZE = 32
    generate(tiny_cfg, image_folder, tmp_path / "fp32", POOL_SIZE=3)
    for scored in (6, 0):
        summary = generate(tiny_cfg, image_folder, tmp_path / "half", PRECISION=precision)
        assert summary.scored == scored
    for name in entries(tmp_path / "half"):
        maps = [load_map(tmp_path / f"{kind}/maps/{name}.npy") for kind in ("fp32", "half")]
        assert np.abs(maps[0] - maps[1]).mean() < 0.05


def test_fit_only(tiny_cfg, image_folder, tmp_path):
    """The scorer is there for others, and the next run makes the same maps as one run does."""
    maps = tmp_path / "two steps"
    summary = generate_anomaly_maps(tiny_cfg, image_folder, maps, fit_only=True, progress=False)
    assert (summary.total, summary.scored) == (6, 0)
    assert sorted(path.name for path in maps.iterdir()) == ["scorer.json", "scorer.npz"]
    generate(tiny_cfg, image_folder, maps)
    generate(tiny_cfg, image_folder, tmp_path / "one step")
    assert (maps / "manifest.jsonl").read_bytes() == (
        tmp_path / "one step/manifest.jsonl"
    ).read_bytes()
