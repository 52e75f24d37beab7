"""Fine-tuning as people expect it: early stopping, a drawn validation set, trackers, the page."""

import argparse
import json
import math
import sys
import types

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.engine.training import train_or_evaluate
from detectron2_agssp.engine.validation import with_validation
from tests.engine.test_trainer import SHORT
from tests.tiny_data import write_datasets
from tests.tiny_models import SMALL_TIMM, make_cfg

DETECTOR = {
    **SHORT,
    "DATASETS.TRAIN": ("neu_det_train",),
    "DATASETS.TEST": ("neu_det_test",),
    "AGSSP.SOLVER.BEST_METRIC": "bbox/AP",
    "TEST.EVAL_PERIOD": 1,
    "SOLVER.CHECKPOINT_PERIOD": 100,
}
ARGUMENTS = argparse.Namespace(resume=False, eval_only=False, config_file="")


@pytest.fixture
def data(tmp_path, empty_catalogs):
    root = write_datasets(tmp_path / "datasets", num_images=12)
    register_builtin_datasets(root)
    return root


def make(output, **settings):
    own = {"OUTPUT_DIR": str(output), **settings}
    return make_cfg("finetune/retinanet_lite0_fpn.yaml", SMALL_TIMM, DETECTOR, own)


def with_aps(monkeypatch, values):
    """Evaluations give these APs, in turn, and a file of one box."""
    turn = iter(values)

    def test(cfg, model, evaluators=None):
        folder = f"{cfg.OUTPUT_DIR}/inference"
        with open(f"{folder}/coco_instances_results.json", "w") as file:
            box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 16], "score": 0.75}
            json.dump([box], file)
        return {"bbox": {"AP": next(turn), "AP50": 50.0}}

    monkeypatch.setattr(AGSSPTrainer, "test", staticmethod(test))


def iterations(output) -> int:
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return max(record["iteration"] for record in records)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("aps", "patience", "done"),
    [
        ([1.0, 3.0, 2.0, 3.0, 1.0, 9.0], 2, 5),
        ([math.nan, 3.0, 2.0, 1.0, 1.0, 9.0], 1, 4),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 1, 8),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0], 0, 8),
    ],
)
def test_training_stops_after_evaluations_without_gain(tmp_path, monkeypatch, aps, patience, done):
    """One more iteration is the last; everything is there that any run leaves."""
    output = tmp_path / "run"
    (output / "inference").mkdir(parents=True)
    with_aps(monkeypatch, aps)
    options = {
        "AGSSP.SOLVER.PATIENCE": patience,
        "SOLVER.MAX_ITER": 8,
        "AGSSP.SOLVER.EMA_DECAY": 0.5,
    }
    AGSSPTrainer(make(output, **options)).train()
    assert iterations(output) == done
    assert (output / "last_checkpoint").read_text() in ("model_final.pth", "model_best.pth")
    left = {path.name for path in output.iterdir()}
    assert {"model_final.pth", "model_best.pth", "report.html"} <= left


@pytest.mark.usefixtures("data")
def test_how_long_there_was_no_gain_is_kept(tmp_path, monkeypatch):
    output = tmp_path / "run"
    (output / "inference").mkdir(parents=True)
    with_aps(monkeypatch, [5.0, 4.0, 3.0, 2.0])
    AGSSPTrainer(make(output, **{"AGSSP.SOLVER.PATIENCE": 4, "SOLVER.MAX_ITER": 3})).train()
    trainer = AGSSPTrainer(make(output, **{"AGSSP.SOLVER.PATIENCE": 4, "SOLVER.MAX_ITER": 9}))
    trainer.resume_or_load(resume=True)
    hook = trainer._hooks[-1]
    assert (hook.best, hook.without_gain) == (5.0, 1)


@pytest.mark.usefixtures("data")
def test_patience_needs_a_metric(tmp_path):
    settings = {"AGSSP.SOLVER.PATIENCE": 2, "AGSSP.SOLVER.BEST_METRIC": ""}
    with pytest.raises(ValueError, match=r"PATIENCE 2 needs AGSSP\.SOLVER\.BEST_METRIC"):
        AGSSPTrainer(make(tmp_path, **settings))
    with pytest.raises(ValueError, match=r"PATIENCE must be positive.*-1"):
        AGSSPTrainer(make(tmp_path, **{"AGSSP.SOLVER.PATIENCE": -1}))


@pytest.mark.usefixtures("data")
def test_a_validation_set_is_drawn_where_none_is_named(tmp_path, monkeypatch):
    """By class, without overlap; the run's config finds both parts."""
    before = {entry["file_name"] for entry in DatasetCatalog.get("neu_det_train")}
    settings = {"DATASETS.TEST": (), "AGSSP.DATA.VALIDATION": 0.5, "SOLVER.MAX_ITER": 1}
    (tmp_path / "run" / "inference").mkdir(parents=True)
    with_aps(monkeypatch, [1.0])
    train_or_evaluate(make(tmp_path / "run", **settings), ARGUMENTS)
    names = ["neu_det_train_drawn_train", "neu_det_train_drawn_validation"]
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    cfg = make_cfg(tmp_path / "run" / "config.yaml")
    assert [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST] == names
    train, validation = (
        [entry["file_name"] for entry in DatasetCatalog.get(name)] for name in names
    )
    assert len(validation) == 6
    assert not set(train) & set(validation)
    assert set(train) | set(validation) == before
    classes = {a["category_id"] for e in DatasetCatalog.get(names[1]) for a in e["annotations"]}
    assert len(classes) == 6
    assert (tmp_path / "run" / "model_best.pth").exists()


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"AGSSP.DATA.VALIDATION": 1.0}, r"share of the images in \[0, 1\), got 1\.0"),
        (
            {"DATASETS.TRAIN": ("neu_det_train", "neu_det_test")},
            "one data set only, not from neu_det",
        ),
        ({"AGSSP.DATA.VALIDATION": 0.01}, r"12 images: too few.*of 1% of each"),
    ],
)
def test_no_validation_set_can_be_drawn(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        with_validation(make(tmp_path, **{"DATASETS.TEST": (), **settings}))


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    "settings",
    [{}, {"AGSSP.DATA.VALIDATION": 0.0}, {"AGSSP.SOLVER.BEST_METRIC": ""}],
)
def test_nothing_is_drawn_otherwise(tmp_path, settings):
    test = {"DATASETS.TEST": ()} if settings else {}
    cfg = make(tmp_path, **test, **settings)
    assert with_validation(cfg) is cfg


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_trackers_get_every_metric_once(tmp_path, monkeypatch, name):
    sent, ended = [], []
    log = lambda values, step: sent.append((step, values))  # noqa: E731
    run = types.SimpleNamespace(log=log, finish=lambda: ended.append(1))
    fake = types.SimpleNamespace(
        start_run=lambda run_name: None,
        log_params=lambda values: None,
        log_dict=lambda content, file: json.dumps(content),
        log_metrics=log,
        end_run=lambda: ended.append(1),
        init=lambda project, name, config: (json.dumps(config), run)[1],
    )
    monkeypatch.setitem(sys.modules, name, fake)
    (tmp_path / "inference").mkdir()
    with_aps(monkeypatch, [1.0, 2.0, 3.0])
    settings = {"AGSSP.SOLVER.TRACKERS": (name,), "SOLVER.MAX_ITER": 3}
    AGSSPTrainer(make(tmp_path, **settings)).train()
    assert ended == [1]
    values = {(step, key): value for step, own in sent for key, value in own.items()}
    assert values[3, "bbox/AP"] == 3.0
    assert "total_loss" in {key for _, key in values}
    assert len(values) == sum(len(own) for _, own in sent), "once"


@pytest.mark.usefixtures("data")
def test_a_tracker_that_is_unknown_or_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'comet'; choices: mlflow, wandb"):
        AGSSPTrainer(make(tmp_path, **{"AGSSP.SOLVER.TRACKERS": ("comet",)}))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match="pip install mlflow"):
        AGSSPTrainer(make(tmp_path, **{"AGSSP.SOLVER.TRACKERS": ("mlflow",)}))


@pytest.mark.usefixtures("data")
def test_the_page_is_about_the_best_weights(tmp_path, monkeypatch):
    """And names the rates of the runs beside it; a picture per image with a mistake."""
    for name, rate in (("slow", 0.001), ("fast", 0.02)):
        output = tmp_path / name
        (output / "inference").mkdir(parents=True)
        with_aps(monkeypatch, [9.0, 4.0, 3.0])
        cfg = make(output, **{"SOLVER.BASE_LR": rate, "SOLVER.MAX_ITER": 3})
        train_or_evaluate(cfg, ARGUMENTS)
    page = (tmp_path / "fast" / "report.html").read_text()
    assert "model_best.pth" in page
    assert "Learning rates tried" in page
    assert "<td>0.001</td>" in page
    assert "<td>0.02</td>" in page
    assert page.count("data:image/") == 11, "of the misses; the one detection is right"
    assert (tmp_path / "fast" / "inference" / "best_results.json").exists()
    assert "Learning rates tried" not in (tmp_path / "slow" / "report.html").read_text()


@pytest.mark.usefixtures("data")
def test_a_page_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch, caplog):
    (tmp_path / "inference").mkdir()
    with_aps(monkeypatch, [1.0])
    (tmp_path / "report.html").mkdir()
    AGSSPTrainer(make(tmp_path, **{"SOLVER.MAX_ITER": 1})).train()
    assert "The page of this training was not written" in caplog.text
    assert (tmp_path / "model_final.pth").exists()
