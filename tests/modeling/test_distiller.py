"""The AGBP meta-architecture: construction, gradients, frozen stages, padding, pictures."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from detectron2_agssp.modeling import AnomalyDistiller, distillation_loss
from tests.tiny_models import (
    R18,
    SMALL_TIMM,
    AverageBackbone,
    copy_of,
    make_cfg,
    make_model,
    map_inputs,
)

BACKBONES = {
    "resnet": ("agbp/R50.yaml", R18),
    "timm": ("agbp/lite0.yaml", {**SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}),
}
NO_PICTURES = {"VIS_PERIOD": 0}


def make_distiller(kind, **settings):
    return make_model(*BACKBONES[kind], NO_PICTURES, settings).train()


def small_distiller(**settings) -> AnomalyDistiller:
    torch.manual_seed(0)
    arguments = {
        "backbone": AverageBackbone({"fine": 4, "coarse": 8}),
        "in_features": ("fine", "coarse"),
        "loss_weights": (1.0, 0.5),
        "pixel_mean": (100.0, 110.0, 120.0),
        "pixel_std": (50.0, 60.0, 70.0),
    }
    return AnomalyDistiller(**{**arguments, **settings})


@pytest.mark.parametrize("kind", BACKBONES)
def test_from_config(kind):
    model = make_distiller(kind)
    cfg = make_cfg(*BACKBONES[kind])
    assert isinstance(model, AnomalyDistiller)
    assert model.in_features == ("res4", "res5")
    assert model.input_format == cfg.INPUT.FORMAT
    assert model.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert model.pixel_std.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_STD)
    losses = model(map_inputs((64, 96), (64, 96)))
    assert list(losses) == ["loss_distill_res4", "loss_distill_res5"]
    assert all(0 <= loss <= 2 for loss in losses.values())


def test_losses_are_those_of_the_normalised_image():
    model = small_distiller()
    inputs = map_inputs((16, 24), (16, 24))
    losses = model(inputs)
    images = torch.stack([sample["image"] for sample in inputs])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((100, 110, 120), (50, 60, 70)))
    features = model.backbone((images - mean) / std)
    maps = torch.stack([sample["anomaly_map"] for sample in inputs])
    for name, weight in (("fine", 1.0), ("coarse", 0.5)):
        expected = weight * distillation_loss(features[name], maps)
        torch.testing.assert_close(losses[f"loss_distill_{name}"], expected)


@pytest.mark.parametrize("freeze_at", range(5))
@pytest.mark.parametrize("kind", BACKBONES)
def test_gradients_reach_all_that_is_trainable_and_nothing_frozen(kind, freeze_at):
    model = make_distiller(kind, **{"MODEL.BACKBONE.FREEZE_AT": freeze_at})
    sum(model(map_inputs((64, 96), (64, 96))).values()).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}
    assert reached
    moved = [name for name in reached if model.get_parameter(name).grad.abs().max() > 0]
    assert len(moved) > 0.9 * len(reached)


@pytest.mark.parametrize("norm", ["", "FrozenBN"])
@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_timm_stages_stay_bit_identical(freeze_at, norm):
    settings = {"MODEL.BACKBONE.FREEZE_AT": freeze_at, "AGSSP.TIMM.NORM": norm}
    model = make_distiller("timm", **settings)
    assert_only_trainable_stages_change(model, freeze_at, has_statistics=norm == "")


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_resnet_stages_stay_bit_identical(freeze_at, norm):
    settings = {"MODEL.BACKBONE.FREEZE_AT": freeze_at, "MODEL.RESNETS.NORM": norm}
    model = make_distiller("resnet", **settings)
    assert_only_trainable_stages_change(model, freeze_at, has_statistics=norm == "BN")


def assert_only_trainable_stages_change(model, freeze_at, has_statistics):
    """Three steps; every tensor before the first trainable parameter is as it was."""
    before = copy_of(model)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert bool(trainable) == (freeze_at < 5)
    if trainable:
        optimizer = torch.optim.SGD(map(model.get_parameter, trainable), lr=0.1)
    for _ in range(3):
        losses = model(map_inputs((32, 64)))
        if trainable:
            sum(losses.values()).backward()
            optimizer.step()
    after = model.state_dict()
    names = list(after)
    first = names.index(trainable[0]) if trainable else len(names)
    changed = [name for name in names if not torch.equal(before[name], after[name])]
    assert all(names.index(name) >= first for name in changed), changed
    if trainable:
        assert set(changed) >= {trainable[0]}
        moved = [name for name in changed if name.endswith("running_mean")]
        assert bool(moved) == has_statistics


@pytest.mark.parametrize("target_resize", ["area", "bilinear"])
def test_padding_takes_no_part(target_resize):
    """A batch of different sizes costs the mean of its images, each alone."""
    model = small_distiller(target_resize=target_resize)
    inputs = map_inputs((16, 24), (40, 8), (20, 28))
    together = model(inputs)
    alone = [model([sample]) for sample in inputs]
    for name, loss in together.items():
        torch.testing.assert_close(loss, torch.stack([losses[name] for losses in alone]).mean())


def test_inference_returns_energies_of_the_valid_cells():
    model = small_distiller().eval()
    inputs = [{"image": sample["image"]} for sample in map_inputs((16, 24), (18, 8))]
    outputs = model(inputs)
    assert [tuple(output["energies"]["fine"].shape) for output in outputs] == [(4, 6), (5, 2)]
    assert [tuple(output["energies"]["coarse"].shape) for output in outputs] == [(2, 3), (3, 1)]
    alone = model(inputs[1:])[0]["energies"]
    for name, energy in outputs[1]["energies"].items():
        torch.testing.assert_close(energy, alone[name])


@pytest.mark.parametrize("input_format", ["BGR", "RGB"])
def test_pictures(input_format):
    model = small_distiller(input_format=input_format, vis_period=2)
    (sample,) = map_inputs((32, 48))
    sample["image"][:] = torch.tensor([250, 130, 10]).view(3, 1, 1)
    with EventStorage() as storage:
        for iteration in range(3):
            storage.iter = iteration
            model([sample])
        pictures = storage._vis_data
    assert [iteration for _, _, iteration in pictures] == [0, 2]
    for _, picture, _ in pictures:
        assert picture.dtype.name == "uint8"
        assert picture.ndim == 3
        assert picture.shape[0] == 3
        expected = (250, 130, 10) if input_format == "RGB" else (10, 130, 250)
        # The picture is RGB whatever the input's order, so the image's colour is in it.
        assert (picture.transpose(1, 2, 0) == expected).all(axis=-1).any()


def test_no_pictures_without_a_period():
    # Would raise outside an EventStorage.
    small_distiller(vis_period=0)(map_inputs((16, 16)))


def test_training_without_maps_names_the_mapper():
    with pytest.raises(ValueError, match=r"AGSSP\.MAPPER to 'AnomalyMapMapper'"):
        small_distiller()([{"image": torch.zeros(3, 16, 16)}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_features": ("fine", "res9")}, r"IN_FEATURES.*res9.*\['fine', 'coarse'\].*OUT_FEAT"),
        ({"in_features": (), "loss_weights": ()}, r"IN_FEATURES asks for \[\].*'fine'"),
        ({"loss_weights": (1.0,)}, "LOSS_WEIGHTS has 1 values for 2 features"),
        ({"target_resize": "nearest"}, "TARGET_RESIZE is 'nearest'. Choices: area, bilinear"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        small_distiller(**settings)


def test_bad_settings_from_config():
    settings = {"AGSSP.DISTILL.IN_FEATURES": ("res2", "res5")}
    with pytest.raises(ValueError, match=r"'res2'.*MODEL.RESNETS.OUT_FEATURES"):
        build_model(make_cfg("agbp/R50.yaml", R18, settings))


def test_distilling_is_not_idle():
    """A few steps bring the loss down."""
    model = make_distiller("timm")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    (sample,) = map_inputs((64, 64))
    sample["anomaly_map"] = nn.functional.pad(torch.ones(1, 16, 16), (40, 8, 8, 40))
    losses = []
    for _ in range(8):
        loss = sum(model([sample]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
