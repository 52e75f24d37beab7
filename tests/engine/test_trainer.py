"""The trainer: hooks, the best checkpoint, the evaluators, and what a run leaves behind."""

import pickle

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from detectron2_agssp.data import register_map_folders
from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.engine import AGSSPTrainer, ExportBackbone
from detectron2_agssp.engine import hooks as agssp_hooks
from detectron2_agssp.evaluation.map_evaluator import AnomalyMapEvaluator
from tests.io.test_weight_files import Harm
from tests.tiny_data import final_metrics, write_datasets
from tests.tiny_models import SMALL_TIMM, make_cfg

SHORT = {
    "AGSSP.TIMM.MODEL": "mobilenetv3_small_050",
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (64, 64),
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.CROP.SIZE": [48, 48],
    "VIS_PERIOD": 0,
}
AGBP = {**SHORT, "DATASETS.TRAIN": ("agssp_tiny",), "DATASETS.TEST": ("agssp_tiny",)}


@pytest.fixture
def datasets(tmp_path, empty_catalogs):
    root = write_datasets(tmp_path / "datasets")
    register_builtin_datasets(root)
    register_map_folders(root)


def agbp_trainer(tmp_path, **settings) -> AGSSPTrainer:
    output = {"OUTPUT_DIR": str(tmp_path / "output")}
    (tmp_path / "output").mkdir()
    return AGSSPTrainer(make_cfg("agbp/lite0.yaml", SMALL_TIMM, AGBP, output, settings))


@pytest.mark.usefixtures("datasets")
def test_agbp_evaluates_and_leaves_the_best_and_the_exported_backbone(tmp_path):
    best = {"TEST.EVAL_PERIOD": 1, "AGSSP.SOLVER.BEST_METRIC": "anomaly_map/cosine_res5"}
    trainer = agbp_trainer(tmp_path, **best)
    trainer.train()
    names = {path.name for path in (tmp_path / "output").glob("*.pth")}
    assert names == {"model_final.pth", "model_best.pth", "backbone_final.pth"}
    metrics = final_metrics(tmp_path / "output")
    for level in ("res4", "res5"):
        assert 0 <= metrics[f"anomaly_map/cosine_{level}"] <= 1
    exported = torch.load(tmp_path / "output" / "backbone_final.pth", weights_only=True)
    for name, tensor in trainer.model.backbone.state_dict().items():
        assert torch.equal(tensor, exported["model"][name])


@pytest.mark.usefixtures("datasets")
def test_a_full_disk_leaves_no_file_that_says_done(tmp_path, monkeypatch):
    """Nor half of one: model_final.pth comes last, after backbone_final.pth."""
    trainer = agbp_trainer(tmp_path)
    written = []

    def save(content, file):
        written.append(file.name)
        file.write(b"PK half of a file")
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr(AGSSPTrainer, "test", lambda *_: {})
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert [path.name for path in (tmp_path / "output").glob("*.pth")] == ["backbone_final.pth"]
    assert not list((tmp_path / "output").glob(".agssp-*"))
    assert not (tmp_path / "output" / "last_checkpoint").exists()


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_weights_that_hold_code_are_refused_and_nothing_runs(tmp_path, name):
    harm = {"model": {}, "__author__": Harm(tmp_path / "marker")}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(harm))
    else:
        torch.save(harm, tmp_path / name)
    trainer = agbp_trainer(tmp_path, **{"MODEL.WEIGHTS": str(tmp_path / name)})
    with pytest.raises(ValueError, match=f"{name} holds more than tensors"):
        trainer.resume_or_load(resume=False)
    assert not (tmp_path / "marker").exists()


@pytest.mark.usefixtures("datasets")
def test_a_checkpoint_that_was_cut_short_is_named_when_a_run_goes_on(tmp_path):
    trainer = agbp_trainer(tmp_path)
    trainer.checkpointer.save("model_0000000", iteration=0)
    path = tmp_path / "output" / "model_0000000.pth"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model_0000000\.pth is cut short"):
        trainer.resume_or_load(resume=True)


@pytest.mark.usefixtures("datasets")
def test_a_best_metric_needs_evaluations(tmp_path):
    with pytest.raises(ValueError, match=r"BEST_METRIC 'bbox/AP' needs TEST\.EVAL_PERIOD > 0"):
        agbp_trainer(tmp_path, **{"AGSSP.SOLVER.BEST_METRIC": "bbox/AP"})


@pytest.mark.usefixtures("datasets")
def test_no_export_from_detectors(tmp_path):
    output = {"OUTPUT_DIR": str(tmp_path), "DATASETS.TRAIN": ("neu_det_train",)}
    config = "finetune/retinanet_lite0_fpn.yaml"
    trainer = AGSSPTrainer(make_cfg(config, SMALL_TIMM, SHORT, output))
    assert not any(isinstance(hook, ExportBackbone) for hook in trainer._hooks)


@pytest.mark.parametrize("last_iteration", [0, 1])
@pytest.mark.usefixtures("datasets")
def test_no_export_when_training_breaks_off(tmp_path, monkeypatch, last_iteration):
    """Nor when it does so in the last iteration."""
    trainer = agbp_trainer(tmp_path)
    run_step = trainer.run_step

    def failing_step():
        if trainer.iter == last_iteration:
            raise RuntimeError("out of memory")
        run_step()

    monkeypatch.setattr(trainer, "run_step", failing_step)
    monkeypatch.setattr(AGSSPTrainer, "test", lambda *_: {})
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert not (tmp_path / "output" / "backbone_final.pth").exists()


def test_only_the_main_process_exports(tmp_path, monkeypatch):
    monkeypatch.setattr(agssp_hooks.comm, "is_main_process", lambda: False)
    hook = ExportBackbone(tmp_path)
    hook.trainer = type("Trainer", (), {"iter": 1, "max_iter": 2, "model": None})
    hook.after_step()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("datasets")
def test_evaluators_by_data_set(tmp_path):
    cfg = make_cfg("agbp/lite0.yaml", {"OUTPUT_DIR": str(tmp_path)})
    cfg.AGSSP.DISTILL.TARGET_RESIZE = "bilinear"
    of_maps = AGSSPTrainer.build_evaluator(cfg, "agssp_tiny")
    assert isinstance(of_maps, AnomalyMapEvaluator)
    assert of_maps.target_resize == "bilinear"
    assert isinstance(AGSSPTrainer.build_evaluator(cfg, "neu_det_test"), COCOEvaluator)
    MetadataCatalog.get("mine").evaluator_type = "lvis"
    with pytest.raises(ValueError, match=r"'mine' has evaluator_type 'lvis'.*'coco' and 'agssp'"):
        AGSSPTrainer.build_evaluator(cfg, "mine")
