"""SOLVER.AMP on a CPU: bfloat16 in the network, float32 in the loss."""

import pytest
import torch
from torch import nn

from detectron2_agssp.engine import AGSSPTrainer, mixed_precision
from detectron2_agssp.modeling import distillation_loss
from tests.engine.test_trainer import AGBP, datasets  # noqa: F401  (a fixture)
from tests.tiny_models import SMALL_TIMM, copy_of, make_cfg

AMP = {"SOLVER.AMP.ENABLED": True}


def make_trainer(tmp_path, monkeypatch, has_bfloat16: bool) -> AGSSPTrainer:
    monkeypatch.setattr(mixed_precision, "cpu_has_bfloat16", lambda: has_bfloat16)
    output = {"OUTPUT_DIR": str(tmp_path / "output")}
    (tmp_path / "output").mkdir()
    return AGSSPTrainer(make_cfg("agbp/lite0.yaml", SMALL_TIMM, AGBP, AMP, output))


def dtypes_of_convolutions(model: nn.Module) -> dict[bool, set[torch.dtype]]:
    """Of what they return, in training (True) and in evaluation; filled as the model runs."""
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, inputs, output: seen[model.training].add(output.dtype)
            )
    return seen


@pytest.mark.usefixtures("datasets")
def test_agbp_in_bfloat16(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, monkeypatch, True)
    model = trainer.model
    seen, before = dtypes_of_convolutions(model), copy_of(model)
    losses, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda inputs: losses.append(forward(inputs)) or losses[-1]
    )
    trainer.train()
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    trained = [output for output in losses if isinstance(output, dict)]
    assert {loss.dtype for output in trained for loss in output.values()} == {torch.float32}
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(parameter.grad.isfinite().all() for parameter in learning.values())
    assert not all(torch.equal(parameter, before[name]) for name, parameter in learning.items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("datasets")
def test_a_cpu_without_it_trains_in_float32_and_says_so(tmp_path, monkeypatch, caplog):
    trainer = make_trainer(tmp_path, monkeypatch, False)
    assert "no instructions for bfloat16; training in float32" in caplog.text
    seen = dtypes_of_convolutions(trainer.model)
    trainer.train()
    assert seen[True] == {torch.float32}


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_in_single_precision_under_autocast(device, dtype):
    """And computed there, not only cast: large energies neither overflow nor lose digits."""
    torch.manual_seed(0)
    features = (300 * torch.randn(2, 64, 6, 8, device=device)).to(dtype)
    maps = torch.rand(2, 1, 96, 128, device=device)
    with torch.autocast(device, dtype=dtype):
        loss = distillation_loss(features.requires_grad_(), maps)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distillation_loss(features.detach().float(), maps))
    assert features.grad.isfinite().all()
