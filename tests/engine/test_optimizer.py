"""AdamW's parameter groups, and the choice of optimizer."""

import pytest
import torch
from detectron2.engine import DefaultTrainer
from torch import nn

from detectron2_agssp.engine import AGSSPTrainer, build_adamw
from tests.tiny_models import SMALL_R50, SMALL_TIMM, make_cfg, make_model

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


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Parameter name -> learning rate."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_slow_parts_learn_at_their_share_of_the_rate():
    """Modules and parameters, by whole names."""
    parts = {"AGSSP.SOLVER.SLOW_PARTS": ("attention", "pos_embed"), "AGSSP.SOLVER.SLOW_FACTOR": 0.5}
    model = Small()
    found = rates(model, build_adamw(make_cfg("agbp/R50.yaml", SETTINGS, parts), model))
    slow = {name for name in found if name.startswith("attention.")} | {"pos_embed"}
    assert found == {name: 0.125 if name in slow else 0.25 for name in found}
    assert decays(model, build_adamw(make_cfg("agbp/R50.yaml", SETTINGS, parts), model))


def test_a_slow_part_that_the_model_does_not_have():
    cfg = make_cfg("agbp/R50.yaml", SETTINGS, {"AGSSP.SOLVER.SLOW_PARTS": ("conv", "convs")})
    with pytest.raises(ValueError, match=r"SLOW_PARTS has \['convs'\], and no parameter of Small"):
        build_adamw(cfg, Small())


@pytest.mark.parametrize("stage", ["agdp", "finetune"])
def test_dino_s_backbone_and_sampling_offsets_are_slow(stage):
    """In the stock trainer, too."""
    cfg = make_cfg(f"{stage}/dino_R50.yaml", SMALL_R50)
    model = make_model(f"{stage}/dino_R50.yaml", SMALL_R50)
    optimizer = DefaultTrainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = rates(model, optimizer)
    slow = {name for name, rate in found.items() if rate == pytest.approx(1e-5)}
    assert {found[name] for name in found.keys() - slow} == {1e-4}
    named = {name for name in found if name.startswith("backbone.") or "sampling_offsets" in name}
    assert slow == named
    assert any(name.startswith("backbone.") for name in slow) == (stage == "finetune")


def test_sgd_is_detectron2_s_own():
    cfg = make_cfg("agbp/R50.yaml")
    optimizer = AGSSPTrainer.build_optimizer(cfg, Small())
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4, 0.0}


CLIP = {"SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model"}


@pytest.mark.parametrize("trainer", [AGSSPTrainer, DefaultTrainer])
@pytest.mark.parametrize("norm", [2.0, float("inf")])
def test_gradients_are_clipped_together(trainer, norm):
    """One factor for all: 3 and 4 have norm 5 (or, by the largest, 4)."""
    plain = {"SOLVER.BASE_LR": 1.0, "SOLVER.MOMENTUM": 0.0, "SOLVER.WEIGHT_DECAY": 0.0}
    clip = {"SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.5, "SOLVER.CLIP_GRADIENTS.NORM_TYPE": norm}
    model = nn.ParameterList([torch.zeros(1), torch.zeros(1), torch.ones(1)])
    model[2].requires_grad_(False)
    optimizer = trainer.build_optimizer(make_cfg("agbp/R50.yaml", plain, CLIP, clip), model)
    (3 * model[0] + 4 * model[1]).backward()
    optimizer.step()
    factor = 0.5 / (5 if norm == 2 else 4)
    expected = torch.tensor([-3 * factor, -4 * factor, 1])
    torch.testing.assert_close(torch.cat(list(model)).detach(), expected, rtol=1e-4, atol=0)


def test_small_gradients_are_left_as_they_are():
    model = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    cfg = make_cfg("agbp/swin_b.yaml")
    assert (cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE) == (
        "full_model",
        5.0,
    )
    optimizer = DefaultTrainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    for gradients, factor in (((2.9, 4.0), 1.0), ((30.0, 40.0), 0.1)):
        for parameter, gradient in zip(model, gradients, strict=True):
            parameter.grad = torch.tensor([gradient])
        optimizer.step()
        clipped = [parameter.grad.item() / factor for parameter in model]
        assert clipped == pytest.approx(gradients, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"AGSSP.SOLVER.OPTIMIZER": "adam"}, r"OPTIMIZER is 'adam'\. Choices: 'SGD', 'ADAMW'"),
        (
            {**CLIP, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "all"},
            r"CLIP_TYPE is 'all'\. Choices: 'value', 'norm', 'full_model'",
        ),
    ],
)
def test_unknown_choices(settings, message):
    with pytest.raises(ValueError, match=message):
        AGSSPTrainer.build_optimizer(make_cfg("agbp/R50.yaml", settings), Small())
