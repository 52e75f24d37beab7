"""Averaged weights: against a loop, and what evaluations and checkpoints of a run see of them."""

import copy

import pytest
import torch
from torch import nn

from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.engine.averaging import WeightAverage
from tests.tiny_data import write_datasets
from tests.tiny_models import make_cfg


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double()


def test_against_a_loop():
    """Statistics too; the count of batches, a whole number, is left alone."""
    model = small_model()
    average, expected = WeightAverage(model, 0.3), {}
    for update in range(6):
        model(torch.rand(2, 1, 3, 4, dtype=torch.float64))
        with torch.no_grad():
            model[0].weight += 1
        average.update()
        decay = min(0.3, (1 + update) / (10 + update))
        for name, tensor in model.state_dict().items():
            old = expected.get(name, tensor)
            expected[name] = decay * old + (1 - decay) * tensor
    assert "1.num_batches_tracked" in expected
    assert set(average.average) == set(expected) - {"1.num_batches_tracked"}
    for name, tensor in average.average.items():
        torch.testing.assert_close(tensor, expected[name])


def test_exchanging_twice_changes_nothing():
    model = small_model()
    average = WeightAverage(model, 0.9)
    average.update()
    with torch.no_grad():
        model[0].weight += 1
    before, kept = copy.deepcopy(model.state_dict()), copy.deepcopy(average.average)
    average.exchange()
    assert torch.equal(model[0].weight, kept["0.weight"])
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert average.state_dict() == {"updates": 0, "average": {}}
    average.exchange()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in average.average.items())


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=rf"EMA_DECAY must be in \[0, 1\), got {decay}"):
        WeightAverage(small_model(), decay)


def yolo_trainer(tmp_path, **settings) -> AGSSPTrainer:
    short = {
        "DATALOADER.NUM_WORKERS": 0,
        "DATASETS.TRAIN": ("neu_det_train",),
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 4,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "INPUT.MIN_SIZE_TRAIN": (64, 64),
        "TEST.EVAL_PERIOD": 2,
        "OUTPUT_DIR": str(tmp_path / "output"),
    }
    (tmp_path / "output").mkdir(exist_ok=True)
    cfg = make_cfg("finetune/yolo_cspdarknet_n.yaml", short, settings)
    assert cfg.AGSSP.SOLVER.EMA_DECAY == 0.9999
    return AGSSPTrainer(cfg)


@pytest.fixture
def seen(tmp_path, empty_catalogs, monkeypatch):
    """Biases of a class predictor at the evaluations of a run; they change every iteration."""
    register_builtin_datasets(write_datasets(tmp_path / "datasets"))
    seen = []

    def test(cfg, model):
        seen.append(bias_of(model.state_dict()))
        return {"bbox": {"AP": float(len(seen))}}

    monkeypatch.setattr(AGSSPTrainer, "test", staticmethod(test))
    return seen


def bias_of(weights) -> torch.Tensor:
    return weights["head.cls_score.0.bias"].clone()


def test_evaluations_and_the_end_see_the_average(seen, tmp_path, monkeypatch):
    trainer = yolo_trainer(tmp_path, **{"AGSSP.SOLVER.BEST_METRIC": "bbox/AP"})
    run_step, raw = trainer.run_step, []

    def step():
        run_step()
        raw.append(bias_of(trainer.model.state_dict()))

    monkeypatch.setattr(trainer, "run_step", step)
    trainer.train()
    average, averages = raw[0], []
    for update, bias in enumerate(raw):
        decay = (1 + update) / (10 + update)
        average = decay * average + (1 - decay) * bias
        averages.append(average)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], averages[1])
    torch.testing.assert_close(seen[1], averages[3])
    assert not torch.allclose(averages[1], raw[1])
    files = {
        name: torch.load(tmp_path / "output" / f"{name}.pth", weights_only=True)
        for name in ("model_0000001", "model_best", "model_final")
    }
    assert torch.equal(bias_of(files["model_0000001"]["model"]), raw[1]), "from which one goes on"
    torch.testing.assert_close(bias_of(files["model_final"]["model"]), averages[3])
    assert files["model_final"]["agssp_average"] == {"updates": 0, "average": {}}
    assert torch.equal(bias_of(files["model_best"]["model"]), seen[1])


def test_a_run_that_goes_on_goes_on_with_its_average(seen, tmp_path):
    first = yolo_trainer(tmp_path)
    first.max_iter = 3
    first.train()
    saved = torch.load(tmp_path / "output" / "model_0000001.pth", weights_only=True)
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000001.pth")
    second = yolo_trainer(tmp_path)
    second.resume_or_load(resume=True)
    average = second.checkpointer.checkpointables["agssp_average"]
    assert (second.start_iter, average.updates) == (2, 2)
    for name, tensor in saved["agssp_average"]["average"].items():
        assert torch.equal(average.average[name], tensor)
    second.train()
    assert average.updates == 4


def test_without_a_decay_nothing_is_averaged(seen, tmp_path):
    trainer = yolo_trainer(tmp_path)
    ours = {"AverageWeights", "ExchangeWeights"}
    assert ours < {type(hook).__name__ for hook in trainer._hooks}
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.AGSSP.SOLVER.EMA_DECAY = 0.0
    plain = AGSSPTrainer(cfg)
    assert not ours & {type(hook).__name__ for hook in plain._hooks}
    assert "agssp_average" not in plain.checkpointer.checkpointables
