"""AdamW's parameter groups, and the choice of optimizer."""

import pytest
import torch
from torch import nn

from detectron2_agssp.engine import AGSSPTrainer, build_adamw
from tests.tiny_models import SMALL_TIMM, make_cfg, make_model

SETTINGS = {
    "SOLVER.BASE_LR": 0.25,
    "SOLVER.WEIGHT_DECAY": 0.05,
    "AGSSP.SOLVER.BETAS": (0.8, 0.95),
    "AGSSP.SOLVER.OPTIMIZER": "ADAMW",
}


class Small(nn.Module):
    """One parameter of each sort; ``shared`` is ``conv`` again."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4))
        self.attention = nn.Module()
        self.attention.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.attention.rel_pos_h = nn.Parameter(torch.zeros(5, 2))
        self.attention.qkv = nn.Linear(4, 12)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.shared = self.conv


def decays(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Parameter name -> weight decay; every trainable parameter must be there exactly once."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [
        (names[parameter], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(name for name, _ in found) == sorted(
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    )
    return dict(found)


def test_no_decay_on_norms_biases_and_position_tables():
    model = Small()
    found = decays(model, build_adamw(make_cfg("agbp/R50.yaml", SETTINGS), model))
    decayed = {name for name, decay in found.items() if decay == 0.05}
    assert decayed == {"conv.weight", "attention.qkv.weight"}
    assert set(found.values()) == {0.05, 0.0}


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto", "resnet18"])
def test_timm_backbones(name):
    timm = {"AGSSP.TIMM.MODEL": name, "AGSSP.TIMM.NORM": "", "MODEL.BACKBONE.FREEZE_AT": 2}
    cfg = make_cfg("agbp/lite0.yaml", SMALL_TIMM, SETTINGS, timm)
    model = make_model("agbp/lite0.yaml", SMALL_TIMM, SETTINGS, timm)
    optimizer = AGSSPTrainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    for parameter, decay in decays(model, optimizer).items():
        is_norm = any(part.startswith(("norm", "bn")) for part in parameter.split("."))
        if parameter.endswith(("bias", "position_bias_table")) or is_norm:
            assert decay == 0, parameter
        if parameter.endswith(("qkv.weight", "fc1.weight", "conv1.weight", "conv_dw.weight")):
            assert decay == 0.05, parameter


def test_settings_arrive():
    model = Small()
    clipping = {"SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1e-3}
    optimizer = build_adamw(make_cfg("agbp/R50.yaml", SETTINGS, clipping), model)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    assert model.conv.weight.grad.abs().max() == pytest.approx(1e-3)


def test_sgd_is_detectron2_s_own():
    cfg = make_cfg("agbp/R50.yaml")
    optimizer = AGSSPTrainer.build_optimizer(cfg, Small())
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4, 0.0}


def test_unknown_optimizer():
    cfg = make_cfg("agbp/R50.yaml", {"AGSSP.SOLVER.OPTIMIZER": "adam"})
    with pytest.raises(ValueError, match=r"OPTIMIZER is 'adam'\. Choices: 'SGD', 'ADAMW'"):
        AGSSPTrainer.build_optimizer(cfg, Small())
