"""A run is found with all that belongs to it, or what is missing is named."""

import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp.inference import open_run
from tests.inference.runs import CLASSES

pytestmark = pytest.mark.usefixtures("empty_catalogs")
NAMED = ["AGSSP.PREDICT.CLASSES", "('a', 'b')"]


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def forget_record(weights):
    content = torch.load(weights, weights_only=True)
    torch.save({"model": content["model"]}, weights)


def register(name, classes):
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).thing_classes = classes


def test_a_folder_and_a_weight_file_are_the_same_run(run):
    opened = open_run(run, ["INPUT.MIN_SIZE_TEST", "96"])
    assert opened.classes == tuple(CLASSES)
    assert opened.cfg.INPUT.MIN_SIZE_TEST == 96
    model = opened.build_model()
    assert not model.training
    weights = torch.load(run / "model_final.pth", weights_only=True)["model"]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])
    by_file = open_run(run / "model_final.pth", ["INPUT.MIN_SIZE_TEST", "96"])
    assert (by_file.weights, by_file.classes) == (opened.weights, opened.classes)


def test_the_best_weights_come_first(copied):
    shutil.copy(copied / "model_final.pth", copied / "model_best.pth")
    assert open_run(copied).weights == copied / "model_best.pth"
    assert open_run(copied / "model_final.pth").weights == copied / "model_final.pth"


def test_without_a_record_the_labels_name_the_classes(copied):
    forget_record(copied / "model_final.pth")
    with pytest.raises(ValueError, match=r"not recorded .* nosuch_train, are not registered here"):
        open_run(copied)
    assert open_run(copied, NAMED).classes == ("a", "b")
    register("nosuch_train", ["c", "d"])
    assert open_run(copied).classes == ("c", "d")


def test_classes_that_were_renamed_since(run):
    register("nosuch_train", ["scratch", "hole"])
    with pytest.raises(ValueError, match=r"scratch, pit, but in the labels .*scratch, hole: ren"):
        open_run(run)
    assert open_run(run, NAMED).classes == ("a", "b")


def test_too_few_names(run):
    opened = open_run(run, ["AGSSP.PREDICT.CLASSES", "('a',)"])
    with pytest.raises(ValueError, match="has 2 classes, but there are the names a"):
        opened.build_model()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nosuch", "neither a folder nor a weight file"),
        (lambda root: root / "config.yaml", "holds no weights. Name its folder"),
        (lambda root: (root / "config.yaml").unlink() or root, "There is no .*config.yaml: "),
        (lambda root: (root / "model_final.pth").unlink() or root, "nor model_final.pth. It is no"),
        (
            lambda root: (root / "model_final.pth").rename(root / "model_0000009.pth") and root,
            "did not come to its end; it has got to .*model_0000009.pth",
        ),
        (lambda root: root.parent, r"There are weights in run: name that folder"),
    ],
)
def test_what_is_missing_is_named(copied, make, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_run(make(copied))


def test_a_lazy_config(copied):
    (copied / "config.yaml").write_text("model: {_target_: some.Model}\n")
    with pytest.raises(ValueError, match="is a LazyConfig"):
        open_run(copied)


def test_a_run_of_a_backbone(copied):
    config = copied / "config.yaml"
    text = config.read_text().replace("GeneralizedRCNN", "AnomalyDistiller")
    config.write_text(text)
    with pytest.raises(ValueError, match="is a run of AGBP, which trains a backbone and no det"):
        open_run(copied)


def test_weights_of_another_detector(run):
    opened = open_run(run, ["MODEL.ROI_HEADS.NUM_CLASSES", "5"])
    with pytest.raises(ValueError, match=r"does not have all of the detector .*would be random"):
        opened.build_model()
