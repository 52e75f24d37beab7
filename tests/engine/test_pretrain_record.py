"""What a pretraining remembers of its images, also of those that are none."""

import os

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.engine.pretrain_record import checked_record, files_of


@pytest.fixture
def images(tmp_path):
    """With a pipe, which would be read for ever, a link to itself and a name that is not UTF-8."""
    root = tmp_path / "images"
    root.mkdir()
    for name in ("a.tif", os.fsdecode(b"b\xff.tif")):
        Image.fromarray(np.full((30, 50), 4095, np.float32)).save(root / name)
    os.mkfifo(root / "pipe.png")
    (root / "self.png").symlink_to("self.png")
    return root


def record_of(images):
    output = images.parent / "out"
    output.mkdir(exist_ok=True)
    return checked_record(output, {"images": str(images)}, files_of(images))


def test_what_cannot_be_read_does_not_stop_it(images):
    """Nor do values beyond a scale that only the maps' config knows."""
    record = record_of(images)
    assert (record["count"], record["image_size"]) == (4, [30, 50])
    os.utime(images / "a.tif")  # as of a copy
    assert record_of(images) == record


def test_an_image_that_changed_is_named(images):
    record_of(images)
    (images / "self.png").unlink()
    Image.new("L", (50, 30)).save(images / "self.png")
    with pytest.raises(ValueError, match=r"made of other images.*1 changed \(self\.png\)"):
        record_of(images)
