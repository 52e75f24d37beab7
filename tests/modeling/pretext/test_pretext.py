"""Pretext tasks beside the distillation: losses against loops, gradients, what is left out."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import ImageList

from detectron2_agssp.checkpoint.export import backbone_weights
from detectron2_agssp.modeling.backbone.swin import SwinBackbone, SwinSize
from detectron2_agssp.modeling.backbone.vit import ViTBackbone, ViTSize
from detectron2_agssp.modeling.pretext import MoCoV3, SimMIM, SourceClassification
from tests.tiny_models import SMALL, AverageBackbone, make_model, map_inputs

SWIN = {
    **SMALL,
    "MODEL.BACKBONE.NAME": "build_swin_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "AGSSP.SWIN.SIZE": "tiny",
    "AGSSP.SWIN.EMBED_DIM": 8,
    "AGSSP.SWIN.DEPTHS": (1, 1, 1, 1),
    "AGSSP.SWIN.NUM_HEADS": (1, 1, 1, 1),
    "AGSSP.SWIN.WINDOW_SIZE": 2,
    "AGSSP.SWIN.DROP_PATH_RATE": 0.0,
    "AGSSP.SWIN.OUT_FEATURES": ("res5",),
    "AGSSP.DISTILL.IN_FEATURES": ("res5",),
    "AGSSP.DISTILL.LOSS_WEIGHTS": (2.0,),
    "AGSSP.PRETEXT.MOCO.HIDDEN_CHANNELS": 16,
    "AGSSP.PRETEXT.MOCO.OUT_CHANNELS": 8,
    "MODEL.PIXEL_STD": [58.0, 57.0, 57.0],
    "VIS_PERIOD": 0,
}
LOSSES = {"SourceClassification": "loss_source", "SimMIM": "loss_simmim", "MoCoV3": "loss_moco"}


@pytest.fixture
def two_sources(empty_catalogs):
    DatasetCatalog.register("two", lambda: [{"source": "casting"}, {"source": "strip"}] * 2)
    return {"DATASETS.TRAIN": ("two",)}


def batch(height=64, width=96):
    inputs = map_inputs(*[(height, width)] * 4)
    for number, sample in enumerate(inputs):
        # Each image has stripes of its own, and is brighter than the last.
        sample["image"] = sample["image"] // 4 + 48 * number
        sample["image"][..., :: number + 2] //= 4
        second = sample["image"] // 2 + 40
        sample.update(source=("strip", "casting")[number % 2], second_image=second)
    return inputs


def make_distiller(task, *settings, seed=0):
    return make_model("base/agbp.yaml", SWIN, {"AGSSP.PRETEXT.NAME": task}, *settings, seed=seed)


@pytest.mark.parametrize("task", LOSSES)
def test_beside_the_distillation(task, two_sources):
    model = make_distiller(task, two_sources, {"AGSSP.PRETEXT.WEIGHT": 0.5}).train()
    losses = model(batch())
    assert list(losses) == ["loss_distill_res5", LOSSES[task]]
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    losses[LOSSES[task]].backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("slow" not in name)
        # The mask token is in the masked pass only; the distilled one has no other parameters.
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert set(backbone_weights(model)) == set(model.backbone.state_dict()), "no heads in exports"
    assert set(model.eval()(batch())[0]) == {"energies"}


@pytest.mark.parametrize("task", LOSSES)
def test_alone_and_weighted(task, two_sources):
    alone = {"AGSSP.DISTILL.LOSS_WEIGHTS": (0.0,)}
    single, double = (
        make_distiller(task, two_sources, alone, {"AGSSP.PRETEXT.WEIGHT": weight}).train()
        for weight in (1.0, 2.0)
    )
    double.load_state_dict(single.state_dict())
    torch.manual_seed(1)
    losses = single(batch())
    torch.manual_seed(1)
    doubled = double(batch())
    assert list(losses) == list(doubled) == [LOSSES[task]]
    torch.testing.assert_close(doubled[LOSSES[task]], 2 * losses[LOSSES[task]])


@pytest.mark.parametrize("task", LOSSES)
def test_the_loss_falls(task, two_sources):
    """Of a task that can be solved by heart."""
    alone = {"AGSSP.DISTILL.LOSS_WEIGHTS": (0.0,)}
    model = make_distiller(task, two_sources, alone).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for step in range(50):
        torch.manual_seed(step % 2)
        loss = sum(model(batch(32, 64)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-10:]) < 0.9 * np.mean(history[:10])


def test_an_unknown_task_lists_what_there_is():
    with pytest.raises(ValueError, match=r"NAME is 'Rotation'.*'MoCoV3', 'SimMIM', 'SourceCl"):
        make_distiller("Rotation")


class TestSourceClassification:
    def test_is_a_cross_entropy_of_means(self):
        task = SourceClassification(channels=3, in_feature="f", sources=["b", "a", "b", "c"])
        assert task.sources == {"a": 0, "b": 1, "c": 2}
        features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        loss = task.losses(
            backbone=None,
            images=None,
            features={"f": features},
            batched_inputs=[{"source": "c"}, {"source": "a"}],
            preprocess=None,
        )["loss_source"]
        weight, bias = task.classifier.weight.double(), task.classifier.bias.double()
        expected = 0
        for feature, label in zip(features.double(), (2, 0), strict=True):
            means = [channel.flatten().mean() for channel in feature]
            logits = [sum(w * m for w, m in zip(row, means, strict=True)) for row in weight]
            logits = [logit + b for logit, b in zip(logits, bias, strict=True)]
            expected -= logits[label] - math.log(sum(math.exp(logit) for logit in logits))
        assert loss.item() == pytest.approx(expected.item() / 2, rel=1e-5)

    @pytest.mark.parametrize(("sources", "told"), [("xx", "one source, 'x'"), ("", "no source")])
    def test_one_source_is_nothing_to_learn_and_told(self, sources, told, caplog):
        task = SourceClassification(channels=3, in_feature="f", sources=list(sources))
        assert f"the images are of {told}. A source is an image's first folder" in caplog.text
        assert task.classifier.out_features == 1

    def test_its_model_is_built_without_the_data(self, empty_catalogs):
        model = make_distiller("SourceClassification").train()
        with pytest.raises(ValueError, match="are not among those"):
            model(batch())

    def test_a_source_that_it_was_not_built_for(self, two_sources):
        model = make_distiller("SourceClassification", two_sources).train()
        inputs = batch()
        inputs[0]["source"] = "rail"
        with pytest.raises(ValueError, match=r"\['rail'\] are not among .*: casting, strip"):
            model(inputs)


def swin(**settings):
    size = SwinSize(8, (1, 1, 1, 1), (1, 1, 1, 1))
    return SwinBackbone(size=size, window_size=2, drop_path_rate=0.0, **settings)


def vit():
    return ViTBackbone(size=ViTSize(8, 1, 1, ()), window_size=0, drop_path_rate=0.0)


class TestSimMIM:
    def test_masks_22_of_36_blocks_at_the_paper_s_size(self):
        task = SimMIM(backbone=swin())
        masked = task.draw_blocks(5, 192, 192, torch.device("cpu"))
        assert masked.shape == (5, 6, 6)
        assert masked.sum(dim=(1, 2)).tolist() == [22] * 5
        assert not torch.equal(masked[0], masked[1])

    @pytest.mark.parametrize("make", [swin, vit])
    def test_is_the_mean_error_of_masked_pixels(self, make):
        torch.manual_seed(0)
        backbone = make().eval()
        task = SimMIM(backbone=backbone)
        pixels = torch.randn(2, 3, 64, 96)
        sizes = [(64, 96), (50, 70)]
        pixels[1, :, 50:], pixels[1, :, :, 70:] = 0, 0
        masked = task.draw_blocks(2, 64, 96, torch.device("cpu"))
        task.draw_blocks = lambda *_: masked
        loss = task.losses(
            backbone=backbone,
            images=ImageList(pixels, sizes),
            features=None,
            batched_inputs=None,
            preprocess=None,
        )["loss_simmim"]
        with task.masking(backbone, masked), torch.no_grad():
            made = task.decoder(backbone(pixels)[task.in_feature]).double()
        total, count = 0.0, 0
        for number, (height, width) in enumerate(sizes):
            for y in range(height):
                for x in range(width):
                    if masked[number, y // 32, x // 32]:
                        count += 3
                        difference = made[number, :, y, x] - pixels[number, :, y, x]
                        total += difference.abs().sum().item()
        assert loss.item() == pytest.approx(total / count, rel=1e-4)

    @pytest.mark.parametrize("make", [swin, vit])
    def test_what_is_masked_is_not_seen_and_the_rest_is(self, make):
        torch.manual_seed(0)
        backbone = make().eval()
        task = SimMIM(backbone=backbone)
        embedded = []
        backbone.patch_embed.register_forward_hook(lambda *hooked: embedded.append(hooked[-1]))
        masked = torch.zeros(1, 2, 3, dtype=torch.bool)
        masked[0, 1, 2] = True
        first = torch.randn(1, 3, 64, 96)
        for pixels in (first, first.clone()):
            pixels[:, :, 32:, 64:] = len(embedded)
            with task.masking(backbone, masked), torch.no_grad():
                outputs = backbone(pixels)[task.in_feature]
            embedded.append(outputs)
        torch.testing.assert_close(embedded[1], embedded[3], rtol=0, atol=0)
        with torch.no_grad():
            unmasked = backbone(first)[task.in_feature]
        assert not torch.equal(unmasked, embedded[1]), "the mask ends with the context"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"backbone": AverageBackbone({"fine": 4})}, "AverageBackbone does not have.*swin"),
            ({"block": 48}, "multiple of 32 pixels, the stride of res5, got 48"),
            ({"mask_ratio": 1.0}, r"in \(0, 1\), got 1.0"),
        ],
    )
    def test_refuses(self, settings, message):
        with pytest.raises(ValueError, match=message):
            SimMIM(**{"backbone": swin(), **settings})


class TestMoCoV3:
    def make(self, **settings):
        torch.manual_seed(0)
        backbone = AverageBackbone({"fine": 4})
        sizes = {"hidden_channels": 6, "out_channels": 5, "num_iterations": 10}
        return backbone, MoCoV3(backbone=backbone, **{**sizes, **settings})

    @pytest.mark.parametrize("temperature", [0.2, 1.0])
    def test_contrast_against_a_loop(self, temperature):
        _, task = self.make(temperature=temperature)
        queries, keys = torch.randn(3, 5), torch.randn(3, 5)
        expected = 0.0
        for number, query in enumerate(queries.double()):
            cosines = [
                (query @ key / query.norm() / key.norm()).item() / temperature
                for key in keys.double()
            ]
            expected -= cosines[number] - math.log(sum(map(math.exp, cosines)))
        expected *= 2 * temperature / 3
        assert task.contrast(queries, keys).item() == pytest.approx(expected, rel=1e-5)

    def test_the_views_are_symmetric(self):
        backbone, task = self.make()
        first, second = torch.randn(2, 4, 3, 8, 12)
        losses = []
        for one_view, other_view in ((first, second), (second, first)):
            losses.append(
                task.losses(
                    backbone=backbone,
                    images=ImageList(one_view, [(8, 12)] * 4),
                    features=backbone(one_view),
                    batched_inputs=[{"second_image": view} for view in other_view],
                    preprocess=lambda inputs: ImageList(
                        torch.stack([sample["image"] for sample in inputs]), [(8, 12)] * 4
                    ),
                )["loss_moco"]
            )
        # The copy has moved onto the same parameters both times.
        torch.testing.assert_close(losses[0], losses[1])

    def test_momentum_rises_by_a_cosine(self):
        _, task = self.make(momentum=0.9)
        values = []
        for step in (0, 5, 10, 20):
            task.step.fill_(step)
            values.append(task.current_momentum())
        assert values == pytest.approx([0.9, 0.95, 1.0, 1.0])

    def test_the_copy_follows(self):
        backbone, task = self.make()
        with torch.no_grad():
            backbone.convs["fine"].weight.fill_(2)
        task.slow.follow(backbone, task.projector, 0.0)
        weight = task.slow.backbone.convs["fine"].weight
        assert (weight == 2).all(), "onto what was loaded since it was built"
        with torch.no_grad():
            backbone.convs["fine"].weight.fill_(4)
        task.slow.follow(backbone, task.projector, 0.75)
        torch.testing.assert_close(weight, torch.full_like(weight, 2.5))
        assert not weight.requires_grad

    def test_state_is_kept_under_names_that_no_export_matches(self):
        backbone, task = self.make()
        task.slow.follow(backbone, task.projector, 0.0)
        state = task.state_dict()
        assert "slow.backbone/convs/fine/weight" in state
        _, other = self.make()
        with torch.no_grad():
            state["slow.backbone/convs/fine/weight"].fill_(7)
        other.load_state_dict(state)
        assert (other.slow.backbone.convs["fine"].weight == 7).all()

    def test_needs_two_views_of_two_images(self):
        model = make_distiller("MoCoV3").train()
        with pytest.raises(ValueError, match=r"AGSSP\.MAPPER to .TwoViewMapper"):
            model(map_inputs((64, 64), (64, 64)))
        with pytest.raises(ValueError, match="two or more on each GPU"):
            model(batch()[:1])

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"momentum": 1.5}, r"MOMENTUM must be in \[0, 1\], got 1.5"),
            ({"temperature": 0.0}, "TEMPERATURE must be positive, got 0.0"),
        ],
    )
    def test_refuses(self, settings, message):
        with pytest.raises(ValueError, match=message):
            self.make(**settings)
