"""``threshold="auto"``: stored with the run, or found on its validation set."""

import shutil

import pytest
from detectron2.data import MetadataCatalog

from detectron2_agssp import predict
from detectron2_agssp.evaluation.operating_point import store_threshold, stored_threshold
from detectron2_agssp.inference import open_run
from detectron2_agssp.io.coco import (
    coco_annotation,
    coco_categories,
    coco_image,
    read_coco,
    register_coco,
    write_coco,
)
from tests.inference.runs import write_run

pytestmark = pytest.mark.usefixtures("empty_catalogs")
VALIDATED = {"DATASETS.TEST": ("mine_val",), "DATALOADER.NUM_WORKERS": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), VALIDATED)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_a_stored_one_is_taken(run, image_folder, tmp_path):
    store_threshold(run / "model_final.pth", threshold=0.34, f1=10.0, data="mine_val")
    assert open_run(run).threshold == 0.34
    out = tmp_path / "out"
    found = predict(run, image_folder, out, threshold="auto")
    plain = predict(run, image_folder, threshold=0.34)
    for name, one in plain.items():
        assert one["boxes"].equal(found[name]["boxes"])
    assert '"threshold": 0.34' in (out / "run.json").read_text()


def test_it_is_found_on_the_validation_set_and_stored(run, image_folder, tmp_path):
    """Where the truth is what the detector itself says above a score."""
    predict(run, image_folder, tmp_path / "out", threshold=0.3)
    truth = read_coco(tmp_path / "out" / "predictions.json")
    lowest = sorted(entry["score"] for entry in truth["annotations"])[-8]
    truth["annotations"] = [e for e in truth["annotations"] if e.pop("score") >= lowest]
    write_coco(tmp_path / "val.json", truth)
    register_coco("mine_val", tmp_path / "val.json", image_folder)
    MetadataCatalog.get("mine_val").thing_classes = ["scratch", "pit"]
    predict(run, image_folder, threshold="auto")
    threshold = stored_threshold(run / "model_final.pth")
    # Boxes next to those of the truth may be right as well.
    assert 0.3 < threshold <= lowest + 1e-4
    assert open_run(run).threshold == threshold


def test_what_is_missing_is_named(run, image_folder, tmp_path):
    with pytest.raises(ValueError, match=r"its validation set, mine_val, is not here\. Give a num"):
        predict(run, image_folder, threshold="auto")
    with pytest.raises(ValueError, match="and it has no validation set"):
        predict(run, image_folder, threshold="auto", options=["DATASETS.TEST", "()"])
    content = {
        "images": [coco_image(1, "a.bmp", height=40, width=72)],
        "annotations": [coco_annotation(1, 1, 1, [0, 0, 1, 1])],
        "categories": coco_categories(["scratch"]),
    }
    write_coco(tmp_path / "val.json", content)
    register_coco("mine_val", tmp_path / "val.json", image_folder)
    with pytest.raises(ValueError, match=r"mine_val has the classes scratch, .* scratch, pit"):
        predict(run, image_folder, threshold="auto")
    write_coco(tmp_path / "val.json", {**content, "categories": coco_categories(["a", "b"])})
    register_coco("mine_val", tmp_path / "val.json", image_folder)
    with pytest.raises(ValueError, match=r"On mine_val no box of .* is right, at any score"):
        predict(run, image_folder, threshold="auto")
