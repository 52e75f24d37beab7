"""What is predicted on: names in a fixed order, whatever they come from."""

import os

import cv2
import numpy as np
import pytest

from detectron2_agssp.inference.inputs import open_inputs
from detectron2_agssp.io.images import ImageReader, UnreadableImageError, list_images, read_image

READER = ImageReader()


def names(inputs):
    return [name for name, _ in inputs.readings()]


@pytest.fixture
def video(tmp_path):
    """Five frames of 48 x 64, each of its own grey."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), (0, 0, 40 * number), np.uint8))
    writer.release()
    return path


def test_a_folder_and_a_file(image_folder):
    inputs = open_inputs(image_folder, READER)
    assert names(inputs) == list(list_images(image_folder))
    assert len(inputs) == 6
    name, read = next(inputs.readings())
    image, state = read()
    assert (image == read_image(image_folder / name)).all()
    assert inputs.is_unchanged(name, state)
    assert not inputs.is_unchanged("nosuch.png", state)
    assert not inputs.is_unchanged("a.png", state)
    single = open_inputs(image_folder / "z" / "b.tif", READER)
    assert names(single) == ["b.tif"]


def test_a_list_keeps_its_names_and_order(image_folder, tmp_path, monkeypatch):
    paths = [image_folder / "z" / "b.tif", str(image_folder / "a.png")]
    assert names(open_inputs(paths, READER)) == [str(path) for path in paths]
    listed = tmp_path / "list.txt"
    # As an editor of Windows saves it; one beside the list, one as seen from the working folder.
    (tmp_path / "own.png").write_bytes((image_folder / "a.png").read_bytes())
    listed.write_text("own.png\n\n a.bmp \r\n", encoding="utf-8-sig")
    monkeypatch.chdir(image_folder)
    inputs = open_inputs(listed, READER)
    assert names(inputs) == ["own.png", "a.bmp"]
    for _, read in inputs.readings():
        assert read()[0].shape[2] == 3


def test_the_frames_of_a_video(video):
    inputs = open_inputs(video, READER)
    assert len(inputs) == 5
    found = {name: read() for name, read in inputs.readings()}
    assert list(found) == [f"clip.avi/{number:06d}" for number in range(5)]
    image, state = found["clip.avi/000003"]
    assert image.shape == (48, 64, 3)
    # RGB: the frames are red.
    assert abs(image[:, :, 0].mean() - 120) < 5
    assert image[:, :, 2].mean() < 5
    assert inputs.is_unchanged("clip.avi/000003", state)
    assert not inputs.is_unchanged("clip.avi/000003", {**state, "digest": "other"})


def test_a_video_that_ends_early_is_named(video):
    inputs = open_inputs(video, READER)
    inputs.count = 8
    *read, (name, last) = inputs.readings()
    assert len(read) == 5
    assert name == "clip.avi/000005"
    with pytest.raises(UnreadableImageError, match="ends early: 5 of the 8 frames"):
        last()


def test_a_name_that_is_not_utf8(image_folder, tmp_path):
    name = os.fsdecode(b"a\xff.png")
    (tmp_path / name).write_bytes((image_folder / "a.png").read_bytes())
    ((shown, read),) = open_inputs(tmp_path, READER).readings()
    assert shown == "a\\udcff.png"
    with pytest.raises(UnreadableImageError, match="not UTF-8: rename it"):
        read()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nosuch", "There is no file or folder .*nosuch to predict on"),
        (lambda root: root, "holds no images .* A video is named by its file"),
        (lambda root: [], "The list holds no images"),
        (lambda root: write(root / "empty.txt", b"\n"), "empty.txt holds no images"),
        (lambda root: write(root / "no.mp4", b"nothing"), "no.mp4 is no video that OpenCV can op"),
    ],
)
def test_nothing_to_predict_on(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_inputs(make(tmp_path), READER)


def test_frames_that_are_too_large(video):
    with pytest.raises(ValueError, match=r"frames of 64 x 48 pixels, more than AGSSP\.INPUT\.MAX"):
        open_inputs(video, ImageReader(max_pixels=1000))


def write(path, content):
    path.write_bytes(content)
    return path
