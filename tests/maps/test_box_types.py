"""Groups of images by what their anomalies look like."""

import cv2
import numpy as np
import pytest

from detectron2_agssp.maps.box_types import find_types, read_types
from tests.child_process import run_script

SETTINGS = {"WEIGHTS": "", "IMAGE_SIZE": 64, "STRIDES": (4, 8), "NUM_WORKERS": 0}


@pytest.fixture
def stripes(tmp_path, write_maps):
    """Image and map folder: in the left third, where the map is high, each image has stripes, along
    or across; elsewhere noise that differs."""
    images = tmp_path / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    anomaly_map = np.zeros((8, 12))
    anomaly_map[:, :4] = 1
    names = []
    for number in range(8):
        pixels = generator.integers(80, 160, (64, 96), dtype=np.uint8)
        pattern = np.tile(np.repeat([0, 255], 4), 8).astype(np.uint8)
        pixels[:, :32] = pattern[:, None] if number % 2 else pattern[None, :32]
        names.append(f"{number}.png")
        cv2.imwrite(str(images / names[-1]), pixels)
    return images, write_maps(tmp_path / "maps", dict.fromkeys(names, anomaly_map), None)


@pytest.fixture
def typed_cfg(tiny_cfg):
    tiny_cfg.AGSSP.BOXES.TYPES = 2
    for key, value in SETTINGS.items():
        tiny_cfg.AGSSP.SCORER[key] = value
    return tiny_cfg


def test_what_looks_alike_has_one_type(typed_cfg, stripes):
    types = find_types(typed_cfg, *stripes, progress=False)
    assert sorted(types) == [f"{number}.png" for number in range(8)]
    assert {types[f"{number}.png"] for number in (0, 2, 4, 6)} == {types["0.png"]}
    assert {types[f"{number}.png"] for number in (1, 3, 5, 7)} == {1 - types["0.png"]}
    assert read_types(stripes[1], 2) == types
    # Batches are no part of it, and neither is the run.
    typed_cfg.AGSSP.SCORER.BATCH_SIZE = 3
    assert find_types(typed_cfg, *stripes, progress=False) == types


def test_an_unreadable_image_has_no_type(typed_cfg, stripes):
    (stripes[0] / "3.png").write_bytes(b"no image")
    assert sorted(find_types(typed_cfg, *stripes, progress=False)) == [
        f"{number}.png" for number in (0, 1, 2, 4, 5, 6, 7)
    ]


@pytest.mark.parametrize(
    ("types", "message"), [(1, "at least 2"), (9, "TYPES is 9, but .* only 8 readable.*lower it")]
)
def test_too_few_and_too_many(typed_cfg, stripes, types, message):
    typed_cfg.AGSSP.BOXES.TYPES = types
    with pytest.raises(ValueError, match=message):
        find_types(typed_cfg, *stripes, progress=False)


def test_no_images(typed_cfg, stripes):
    for path in stripes[0].iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="only 0 readable"):
        find_types(typed_cfg, *stripes, progress=False)


def test_missing_types_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"find_box_types\.py IMAGE_DIR .*TYPES 5"):
        read_types(tmp_path, 5)


def test_tool(tools, stripes, tmp_path):
    pairs = [part for key, value in SETTINGS.items() for part in (f"AGSSP.SCORER.{key}", value)]
    script = tools / "find_box_types.py"
    arguments = [*stripes, "AGSSP.BOXES.TYPES", "2", *map(str, pairs)]
    done = run_script(script, *arguments, output=tmp_path)
    assert done.code == 0, done.stderr
    assert "0: 4, 1: 4" in done.stdout
    assert set(read_types(stripes[1], 2).values()) == {0, 1}
    done = run_script(script, *stripes, output=tmp_path)
    assert done.code == 2
    assert "TYPES must be at least 2" in done.stderr
