"""What to label next: the choice by hand-made numbers, and the whole line on small images."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools.coco import COCO

from detectron2_agssp import predict
from detectron2_agssp.cli.main import main
from detectron2_agssp.data import read_labels
from detectron2_agssp.inference.next_choice import choose, ranks, uncertainty, unexplained
from detectron2_agssp.inference.next_images import next_images
from detectron2_agssp.maps.store import MapStore
from tests.conftest import make_surface

NONE = np.zeros((0, 2)), np.zeros((0, 4))
SMALL = ["AGSSP.SCORER.MODEL", "mobilenetv3_small_050", "AGSSP.SCORER.WEIGHTS", "''"]
SMALL += ["AGSSP.SCORER.IMAGE_SIZE", "64", "AGSSP.SCORER.STRIDES", "(8, 16)"]


def pick(promise, vectors, count, known=NONE, thumbnails=None):
    vectors = np.array(vectors, float)
    own = np.eye(len(vectors), 4) if thumbnails is None else np.array(thumbnails, float)
    return choose(
        np.array(promise, float),
        vectors,
        own,
        count,
        known_vectors=known[0],
        known_thumbnails=known[1],
    )


def test_uncertainty_is_greatest_at_the_threshold():
    assert uncertainty(np.zeros(0), 0.4) == 0
    assert uncertainty(np.array([0.4]), 0.4) == 1
    assert uncertainty(np.array([0.2, 0.99]), 0.4) == pytest.approx(0.5)
    assert uncertainty(np.array([0.7]), 0.4) == pytest.approx(0.5)


def test_what_detections_do_not_explain():
    anomaly_map = np.zeros((4, 8))
    anomaly_map[1, 2], anomaly_map[3, 7] = 0.8, 0.4
    both = [[20, 10, 30, 20], [70, 30, 80, 40]]
    for boxes, expected in (([], 1.2), (both[:1], 0.4), (both[1:], 0.8), (both, 0)):
        found = unexplained(anomaly_map, np.array(boxes).reshape(-1, 4), 40, 80)
        assert found == pytest.approx(expected / 32)


def test_ranks():
    assert ranks([3.0, 1.0, 2.0]).tolist() == [1, 0, 0.5]
    assert ranks([1.0, 1.0, 5.0]).tolist() == [0.25, 0.25, 1]
    assert ranks([7.0]).tolist() == [1]


def test_the_most_promising_first_then_what_is_far():
    vectors = [[0, 0], [0, 0.1], [5, 0], [0, 4]]
    assert pick([1, 0.9, 0.5, 0.5], vectors, 3) == [0, 2, 3]
    assert pick([1, 0.9, 0.0, 0.5], vectors, 2) == [0, 3]


def test_far_from_what_is_labelled():
    known = np.array([[0.0, 0.0]]), np.zeros((1, 4))
    assert pick([1, 0.5], [[0.1, 0], [3, 0]], 1, known) == [1]


def test_near_duplicates_are_chosen_once():
    twins = [[1, 0, 0, 0], [1, 0.01, 0, 0], [0, 1, 0, 0]]
    vectors = [[0, 0], [9, 9], [1, 1]]
    assert pick([1, 1, 1], vectors, 3, thumbnails=twins) == [0, 2]
    known = np.array([[5.0, 5.0]]), np.array([[0.0, 2.0, 0, 0]])
    assert pick([1, 1, 1], vectors, 3, known, twins) == [0]
    flat = np.zeros((3, 4))
    assert len(pick([1, 1, 1], vectors, 3, thumbnails=flat)) == 3, "flat images are like no other"


@pytest.fixture
def images(tmp_path):
    """Eight surfaces in two sources, two of them the same but for brightness, and a broken file."""
    root = tmp_path / "images"
    for index in range(8):
        twin = index == 7
        pixels = make_surface(48, 64 + 16 * (index % 2 and not twin), seed=index % 7)
        if twin:
            pixels = np.clip(pixels.astype(int) + 4, 0, 255).astype(np.uint8)
        folder = root / ("mill" if index % 2 else "press")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (root / "mill" / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture
def maps(tmp_path, images):
    store = MapStore(tmp_path / "maps")
    for index, path in enumerate(sorted(images.rglob("[0-9].png"))):
        name = str(path.relative_to(images))
        anomaly_map = np.zeros((12, 16), np.float32)
        anomaly_map[4:8, 4:8] = 0.1 * (1 + index)
        store.write_map(name, anomaly_map)
        with Image.open(path) as image:
            size = {"height": image.height, "width": image.width}
        entry = {"image": name, "map": store.map_name(name), "source": name.split("/")[0]}
        store.append([{**entry, "score": 0.5, **size}])
    (store.root / "scorer.json").write_text(json.dumps({"image_root": str(images)}))
    return store.root


def test_with_a_run(run, images, maps, tmp_path, capsys):
    out = tmp_path / "next.txt"
    main(["next", str(run), str(images), str(out), "--count", "3", "--maps", str(maps)])
    chosen = out.read_text().splitlines()
    assert len(set(chosen)) == 3
    assert all(path.startswith(str(images)) for path in chosen)
    guesses = tmp_path / "next_guesses"
    assert f"3 images in {out}: see {guesses}/report.html" in capsys.readouterr().out
    coco = COCO(str(guesses / "annotations.json"))
    names = [image["file_name"] for image in coco.dataset["images"]]
    assert [str(images / name) for name in names] == chosen
    assert [category["name"] for category in coco.dataset["categories"]] == ["scratch", "pit"]
    page = (guesses / "report.html").read_text()
    assert page.count("data:image/") == 3
    assert "broken.png" not in page


def test_guesses_leave_as_yolo_and_voc(run, images, maps, tmp_path, monkeypatch):
    """And are read again as what they are."""
    monkeypatch.setattr("detectron2_agssp.inference.next_images._THRESHOLD", 0.3)
    next_images(run, images, tmp_path / "next.txt", count=2, maps=maps)
    guesses = tmp_path / "next_guesses"
    expected = json.loads((guesses / "annotations.json").read_text())
    boxes = sorted(entry["bbox"] for entry in expected["annotations"])
    assert len(boxes) > 4
    yolo = read_labels(guesses / "yolo", "yolo")
    found = sorted(entry["bbox"] for entry in yolo["annotations"])
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(boxes, axis=0), atol=0.01)
    objects = 0
    for image in expected["images"]:
        path = (guesses / "voc" / image["file_name"]).with_suffix(".xml")
        objects += len(ElementTree.parse(path).findall("object"))
    assert objects == len(boxes)


def test_large_images_in_tiles(run, tmp_path, monkeypatch):
    """Their guesses are those of agssp predict."""
    monkeypatch.setattr("detectron2_agssp.inference.next_images._THRESHOLD", 0.3)
    wide = tmp_path / "images" / "wide.png"
    wide.parent.mkdir()
    Image.fromarray(make_surface(64, 200)).save(wide)
    guesses = {}
    for tile in ("0", "80"):
        out = str(tmp_path / f"{tile}.txt")
        size = ["--tile", tile, "--overlap", "0.25"]
        main(["next", str(run), str(wide.parent), out, "--count", "1", *size])
        coco = json.loads((tmp_path / f"{tile}_guesses" / "annotations.json").read_text())
        guesses[tile] = [entry["bbox"] for entry in coco["annotations"]]
    options = ["AGSSP.PREDICT.TILE_OVERLAP", "0.25"]
    found = predict(run, wide, threshold=0.05, tile=80, options=options)["wide.png"]
    expected = found["boxes"][found["scores"] >= 0.3].numpy()
    expected[:, 2:] -= expected[:, :2]
    np.testing.assert_allclose(guesses["80"], expected, atol=1e-3)
    assert len(guesses["80"]) > len(guesses["0"]) > 0


def test_without_a_run_maps_and_features_decide(images, maps, tmp_path):
    chosen = next_images("-", images, tmp_path / "a.txt", count=8, maps=maps, options=SMALL)
    assert len(chosen) == 7, "of the two that are nearly the same, one"
    coco = json.loads((tmp_path / "a_guesses" / "annotations.json").read_text())
    assert coco["categories"][0]["name"] == "defect"
    assert coco["annotations"], "boxes of the maps"
    first = next_images("-", images, tmp_path / "b.txt", count=1, maps=maps, options=SMALL)
    assert first == ["press/6.png"], "the map with most mass"
    plain = next_images("-", images, tmp_path / "c.txt", count=4, options=SMALL)
    assert len(plain) == 4


def test_as_many_of_each_source(images, tmp_path):
    options = {"count": 2, "per_source": True, "options": SMALL}
    chosen = next_images("-", images, tmp_path / "next.txt", **options)
    assert [name.split("/")[0] for name in chosen] == ["mill", "mill", "press", "press"]


def test_labelled_images_are_left_out(run, images, tmp_path, empty_catalogs):
    labelled = [str(path) for path in sorted(images.rglob("[0-5].png"))]
    DatasetCatalog.register("nosuch_train", lambda: [{"file_name": path} for path in labelled])
    chosen = next_images(run, images, tmp_path / "next.txt", count=9)
    assert chosen == ["press/6.png"], "the last is nearly one of them"


def test_a_list_of_images(run, images, tmp_path):
    (tmp_path / "list.txt").write_text("images/press/0.png\nimages/press/2.png\n")
    next_images(run, tmp_path / "list.txt", tmp_path / "next.txt", count=1)
    coco = json.loads((tmp_path / "next_guesses" / "annotations.json").read_text())
    assert coco["images"][0]["file_name"] == str(images / "press" / "0.png").lstrip("/")


def test_guesses_are_never_overwritten(run, images, tmp_path):
    next_images(run, images, tmp_path / "next.txt", count=1)
    with pytest.raises(FileExistsError, match="next_guesses holds guesses already"):
        next_images(run, images, tmp_path / "next.txt", count=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "at least 1, got 0"),
        ({"images": "clip.mp4"}, "is a video"),
        ({"maps": "other"}, "has no map of any of these images"),
        ({"run": "nowhere"}, "There is no run"),
        ({"tile": 16}, "A tile of 16 pixels is smaller than 64, the largest stride"),
        (
            {"run": "-", "tile": 64},
            r"Tiles \(--tile 64\) are for a detector, and there is none yet",
        ),
    ],
)
def test_bad_input(run, images, maps, tmp_path, arguments, message):
    if "images" in arguments:
        import cv2

        path = str(tmp_path / "clip.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 48))
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
        arguments = {"images": path}
    if "maps" in arguments:
        other = MapStore(tmp_path / "other")
        other.write_map("a.png", np.zeros((4, 4), np.float32))
        entry = {"image": "a.png", "map": other.map_name("a.png"), "source": "", "score": 0.1}
        other.append([{**entry, "height": 16, "width": 16}])
        arguments = {"maps": other.root}
    given = {"run": run, "images": images, "maps": maps, "count": 1} | arguments
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        next_images(given.pop("run"), given.pop("images"), tmp_path / "next.txt", **given)
    assert not (tmp_path / "next.txt").exists()


def test_nothing_left(run, images, tmp_path, empty_catalogs):
    every = [{"file_name": str(path)} for path in images.rglob("[0-9].png")]
    DatasetCatalog.register("nosuch_train", lambda: every)
    with pytest.raises(ValueError, match=r"None of the 9 images.*is left to label"):
        next_images(run, images, tmp_path / "next.txt", count=1)
    assert torch.is_grad_enabled()
