"""The quickstart at a tiny size: what it leaves, and that it goes on where it was killed."""

import dataclasses

import numpy as np
import pytest

from detectron2_agssp.engine.trainer import AGSSPTrainer
from detectron2_agssp.io.coco import read_coco
from examples.quickstart import pipeline, run_on_images, run_on_sample
from examples.quickstart.detections import THRESHOLDS, best_score_threshold, truth_of
from examples.quickstart.sizes import Sizes
from examples.quickstart.timings import Timings
from tests.benchmarks.few_label.tiny_benchmark import DETECTOR, SCORER

pytestmark = pytest.mark.usefixtures("empty_catalogs")

TINY = {**DETECTOR, "SOLVER.MAX_ITER": 3}
SIZES = Sizes(
    num_train=10,
    num_test=3,
    num_labeled=3,
    num_validation=2,
    image_sizes=((64, 80),),
    pretraining={**TINY, **SCORER, "AGBP.INPUT.CROP.SIZE": [48, 48]},
    fine_tuning=TINY,
)


class Killed(BaseException):
    """Not caught by anything that cleans up after errors."""


def test_killed_in_the_last_evaluation_it_goes_on(tmp_path, monkeypatch, capsys):
    def killed(trainer, cfg, model):
        if cfg.DATASETS.TEST:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(AGSSPTrainer, "test", killed)
        with pytest.raises(Killed):
            run_on_sample(tmp_path, SIZES)
    steps, step = [], AGSSPTrainer.run_step
    monkeypatch.setattr(
        AGSSPTrainer, "run_step", lambda trainer: steps.append(trainer.iter) or step(trainer)
    )
    results = run_on_sample(tmp_path, SIZES)
    # Only the second start is still to be trained; both have the evaluation at the end.
    assert steps == [0, 1, 2]
    assert set(results) == {"ImageNet", "AGSSP"}
    for metrics in results.values():
        assert 0 <= metrics["AP"] <= metrics["AP50"] <= 100
    assert "| AGSSP" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for text in ("Test images", "Pretraining", "ImageNet: ", "AGSSP: ", "agssp://finetune/"):
        assert text in page
    # Nothing is done again, and other sizes are not mixed.
    assert run_on_sample(tmp_path, SIZES) == results
    assert steps == [0, 1, 2]
    with pytest.raises(ValueError, match=r"other sizes \(num_labeled\)"):
        run_on_sample(tmp_path, dataclasses.replace(SIZES, num_labeled=4))


def test_both_starts_are_fine_tuned_alike(tmp_path):
    plain, pretrained = (
        pipeline._fine_tuning_config(tmp_path, SIZES, weights) for weights in ("", "agdp.pth")
    )
    assert plain.MODEL.WEIGHTS == ""
    assert pretrained.MODEL.WEIGHTS == "agdp.pth"
    pretrained = pretrained.clone()
    pretrained.defrost()
    pretrained.MODEL.WEIGHTS = ""
    assert pretrained == plain


def test_own_images(image_folder, tmp_path, monkeypatch):
    called = pipeline.pretrain

    def tiny(images, output, **arguments):
        options = [part for pair in SIZES.pretraining.items() for part in pair]
        return called(images, output, rounds=1, options=options, **arguments)

    monkeypatch.setattr(pipeline, "pretrain", tiny)
    pretrained = run_on_images(tmp_path, image_folder)
    assert pretrained.weights.is_file()
    page = (tmp_path / "report.html").read_text()
    assert str(pretrained.weights) in page
    assert "line 1/a.png" in page


class Detector:
    """Finds each label with a score of 0.7, and its double, elsewhere, with 0.4."""

    def __init__(self, coco):
        self.truth = iter([truth_of(coco, image) for image in coco["images"]])

    def predict(self, image):
        boxes, classes = next(self.truth)
        both = np.concatenate([boxes, boxes + 1000])
        scores = np.repeat([0.7, 0.4], len(boxes))
        return both, scores, np.tile(classes, 2)


def test_the_score_threshold_leaves_what_is_wrong_out(tmp_path):
    run = pipeline.generate_sample_dataset(
        tmp_path, num_train=4, num_test=0, sizes=((64, 80),), normal_fraction=0.0, progress=False
    )["splits"]["train"]
    coco = read_coco(run["annotations"])
    threshold = best_score_threshold(
        Detector(coco), tmp_path / "annotations" / "train.json", tmp_path / "images" / "train"
    )
    assert 0.4 < threshold <= 0.7
    assert threshold in THRESHOLDS


def test_damaged_timings_are_measured_anew(tmp_path):
    (tmp_path / "timings.json").write_text("{")
    timings = Timings(tmp_path / "timings.json")
    with timings.measure("stage"):
        pass
    assert Timings(tmp_path / "timings.json").seconds == timings.seconds != {}
