"""The detector DINO: what a query sees, what is learnt, what is detected, and what is refused."""

import logging

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.utils.events import EventStorage
from torch import nn

from detectron2_agssp.modeling import DINO
from detectron2_agssp.modeling.detectors.dino_denoising import add_noise
from detectron2_agssp.modeling.detectors.dino_transformer import Queries, SelfAttention
from detectron2_agssp.modeling.detectors.labels import Truth
from tests.modeling.detectors.samples import (
    said_of_area,
    with_boxes_without_area,
    with_scores,
)
from tests.tiny_models import SMALL_R50, AverageBackbone, detection_inputs, make_model

CONFIG = "finetune/dino_R50.yaml"
STRIDES = {"res3": 8, "res4": 16, "res5": 32}
PARTS = ("", "_choice", "_dn")
LOSSES = [f"loss_dino{part}_{name}" for part in PARTS for name in ("cls", "l1", "giou")]


def tiny_dino(num_classes=2, seed=0, **settings) -> DINO:
    """On cell means, with numbers of its own in every parameter that starts with zeros."""
    torch.manual_seed(seed)
    sizes = {"dim": 32, "feedforward_dim": 16, "num_points": 2, "num_queries": 100}
    sizes |= {"num_encoder_layers": 1, "num_decoder_layers": 3, "dn_queries": 20}
    model = DINO(
        backbone=AverageBackbone(STRIDES),
        in_features=list(STRIDES),
        num_classes=num_classes,
        **{**sizes, **settings},
        pixel_mean=[127.0] * 3,
        pixel_std=[64.0] * 3,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def step(model, inputs) -> dict[str, torch.Tensor]:
    with EventStorage():
        return model(inputs)


def encoded(model, inputs):
    """Tokens, memory and queries of a batch."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    tokens = model.tokenizer(list(features.values()), images.image_sizes)
    memory = model.transformer.encode(tokens)
    return tokens, memory, model.transformer.choose(memory, tokens)[0]


def test_queries_are_the_tokens_with_the_best_class():
    """Of those whose middle lies on the image."""
    model = tiny_dino(num_queries=20)
    with torch.no_grad():
        tokens, memory, queries = encoded(model, detection_inputs((64, 90), (33, 48)))
        _, logits, boxes = model.transformer.choose(memory, tokens)
        scores = model.transformer.class_branches[-1](model.transformer.choice(memory))
    for image in range(2):
        middle = (tokens.centers[image] < 1).all(dim=1)
        best = scores[image, middle].amax(dim=1).sort(descending=True).values[:20]
        torch.testing.assert_close(logits[image].amax(dim=1), best)
    assert queries.valid.all()
    assert torch.equal(queries.boxes, boxes)
    assert torch.equal(queries.content[0], model.transformer.content.weight)
    assert ((boxes > 0) & (boxes < 1)).all()


def test_a_batch_has_no_more_queries_than_tokens():
    """The smaller image has fewer; what fills it up is not valid."""
    model = tiny_dino(num_queries=200)
    with torch.no_grad():
        tokens, _, queries = encoded(model, detection_inputs((64, 90), (33, 48)))
    eligible = (tokens.valid & (tokens.centers < 1).all(dim=-1)).sum(dim=1)
    assert queries.valid.shape == (2, tokens.valid.shape[1])
    assert torch.equal(queries.valid.sum(dim=1), eligible)
    assert queries.valid[1].diff().count_nonzero() == 1, "the valid ones come first"


def test_attention_among_queries_is_pytorch_s():
    module = SelfAttention(32, 4)
    expected = nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        weights = [module.query_key.weight, module.value.weight]
        expected.in_proj_weight.copy_(torch.cat(weights))
        expected.in_proj_bias.copy_(torch.cat([module.query_key.bias, module.value.bias]))
        expected.out_proj.load_state_dict(module.output.state_dict())
        content, positions = torch.rand(2, 6, 32), torch.rand(2, 6, 32)
        mask = torch.rand(6, 6) < 0.5
        mask.fill_diagonal_(True)
        places = content + positions
        seen, _ = expected(places, places, content, attn_mask=~mask, need_weights=False)
        found = module(content, positions, mask.expand(2, 1, 6, 6))
    torch.testing.assert_close(found, module.norm(content + seen))


def sees(model, queries, tokens, memory, changed) -> torch.Tensor:
    """(Q,) bool: whose outputs change with the content and box of query ``changed``."""
    before = model.transformer.decode(queries, memory, tokens)
    content, boxes = queries.content.clone(), queries.boxes.clone()
    content[:, changed] += 1
    boxes[:, changed] = boxes[:, changed] * 0.5 + 0.1
    other = Queries(content, boxes, queries.groups, queries.valid)
    after = model.transformer.decode(other, memory, tokens)
    return (
        sum(
            ((new - old).abs() > 1e-6).any(dim=(0, 1, 3)).int()
            for old, new in zip(before, after, strict=True)
        )
        > 0
    )


def test_no_query_sees_another_group():
    """Each query changed in turn: matched ones are seen by all, those of a group by it alone, those
    that fill up by themselves."""
    model = tiny_dino(num_queries=5)
    with torch.no_grad():
        tokens, memory, queries = encoded(model, detection_inputs((64, 90)))
        groups = torch.tensor([0] * 5 + [1] * 4 + [2] * 4)
        valid = torch.ones(1, 13, dtype=torch.bool)
        valid[0, [4, 8, 12]] = False
        torch.manual_seed(1)
        noise = torch.rand(1, 8, 32), torch.rand(1, 8, 4) * 0.5 + 0.2
        content = torch.cat([queries.content, noise[0]], dim=1)
        queries = Queries(content, torch.cat([queries.boxes, noise[1]], dim=1), groups, valid)
        for changed in range(13):
            expected = (groups == groups[changed]) | (groups[changed] == 0)
            if not valid[0, changed]:
                expected = torch.arange(13) == changed
            found = sees(model, queries, tokens, memory, changed)
            assert found.tolist() == expected.tolist(), changed


def test_labels_do_not_reach_what_is_matched():
    """Other boxes and classes, and another number of them, leave the matched queries' outputs as
    they are, which are those of testing."""
    model = tiny_dino()
    inputs = detection_inputs((64, 90), (50, 64))
    with torch.no_grad():
        tokens, memory, queries = encoded(model, inputs)
        plain = model.transformer.decode(queries, memory, tokens)
        for counts in ([1, 2], [0, 3], [0, 0]):
            boxes = torch.rand(sum(counts), 4) * 0.4 + 0.2
            truth = Truth(counts, torch.randint(2, (sum(counts),)), boxes, boxes[:, 0])
            noisy = add_noise(truth, num_classes=2, **model.noise)
            with_noise = model._with_noise(queries, noisy)
            assert with_noise.content.shape[1] == 100 + len(noisy.groups)
            outputs = model.transformer.decode(with_noise, memory, tokens)
            for own, expected in zip(outputs, plain, strict=True):
                torch.testing.assert_close(own[:, :, :100], expected, rtol=1e-4, atol=1e-5)


def test_boxes_look_forward_twice():
    """The loss of a layer's boxes reaches its own box branch and that of the layer before."""
    model = tiny_dino(num_queries=5)
    tokens, memory, queries = encoded(model, detection_inputs((64, 90)))
    for index in range(3):
        _, boxes = model.transformer.decode(queries, memory.detach(), tokens)
        branches = [branch[-1].weight for branch in model.transformer.box_branches]
        grads = torch.autograd.grad(boxes[index].sum(), branches, allow_unused=True)
        reached = [grad is not None and bool(grad.any()) for grad in grads]
        assert reached == [layer in (index - 1, index) for layer in range(4)]


def without_ranks(**settings) -> DINO:
    """Every token is a query, all with the same content: so that nothing depends on the order of
    scores that are equal but for rounding."""
    model = tiny_dino(num_queries=300, **settings)
    with torch.no_grad():
        model.transformer.content.weight[1:] = model.transformer.content.weight[0]
    return model


def test_padding_takes_no_part_in_training():
    """Each image alone, or in a batch of other sizes: the losses of the batch are the sums of the
    images' own."""
    model = without_ranks(dn_queries=0).train()
    inputs = detection_inputs((64, 90), (50, 64), (33, 128))
    inputs[2]["instances"] = inputs[2]["instances"][:1]
    totals = dict.fromkeys(LOSSES, 0.0)
    for sample in inputs:
        for name, loss in step(model, [sample]).items():
            totals[name] += loss * len(sample["instances"])
    for name, loss in step(model, inputs).items():
        torch.testing.assert_close(loss, torch.as_tensor(totals[name] / 5), rtol=1e-4, atol=1e-5)


def test_padding_takes_no_part_in_detection():
    """Also where an image has fewer tokens than there are queries."""
    model = without_ranks(max_detections_per_image=1000).eval()
    inputs = detection_inputs((64, 90), (33, 48))
    with torch.no_grad():
        together = model(inputs)
        alone = [model([sample])[0] for sample in inputs]
    for ours, theirs in zip(map(rows_of, together), map(rows_of, alone), strict=True):
        assert len(ours) == len(theirs) > 50
        distances = torch.cdist(ours, theirs, p=torch.inf)
        assert distances.amin(dim=0).max() < 1e-3
        assert distances.amin(dim=1).max() < 1e-3


def rows_of(output) -> torch.Tensor:
    """(K, 6): box in pixels, score in percent, class."""
    found = output["instances"]
    columns = [100 * found.scores[:, None], found.pred_classes[:, None]]
    return torch.cat([found.pred_boxes.tensor, *columns], dim=1)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_detections_are_the_best_pairs_of_query_and_class(num_classes):
    """By falling score, in pixels of the size that is asked for."""
    model = tiny_dino(num_classes, max_detections_per_image=9).eval()
    (sample,) = detection_inputs((48, 64))
    with torch.no_grad():
        tokens, memory, queries = encoded(model, [sample])
        logits, boxes = (
            output[-1, 0] for output in model.transformer.decode(queries, memory, tokens)
        )
        instances = model([{**sample, "height": 96, "width": 192}])[0]["instances"]
    pairs = [
        (score, query, label)
        for query, row in enumerate(logits.sigmoid().tolist())
        for label, score in enumerate(row)
    ]
    pairs = [pair for pair in sorted(pairs, reverse=True) if queries.valid[0, pair[1]]][:9]
    assert instances.image_size == (96, 192)
    assert instances.pred_classes.tolist() == [label for *_, label in pairs]
    torch.testing.assert_close(instances.scores, torch.tensor([score for score, *_ in pairs]))
    for box, (_, query, _) in zip(instances.pred_boxes.tensor.tolist(), pairs, strict=True):
        x, y, width, height = boxes[query].tolist()
        expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        expected = [
            min(max(side, 0), 1) * size for side, size in zip(expected, [192, 96] * 2, strict=True)
        ]
        assert box == pytest.approx(expected, abs=1e-3)


def test_boxes_without_area_are_dropped_and_counted_once(caplog):
    model = tiny_dino().train()
    (sample,) = detection_inputs((64, 96), num_boxes=1)
    torch.manual_seed(5)
    expected = step(model, [sample])
    with_flat = with_boxes_without_area(sample)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.manual_seed(5)
            assert step(model, [with_flat]) == expected
    said = said_of_area(caplog)
    assert len(said) == 1
    assert said[0].startswith("4 boxes")


@pytest.mark.parametrize("label", [2, -1])
def test_a_class_that_the_detector_does_not_have(label):
    (sample,) = detection_inputs((64, 96))
    sample["instances"].gt_classes[1] = label
    with pytest.raises(ValueError, match=rf"class {label}, but AGSSP.DINO.NUM_CLASSES is 2"):
        step(tiny_dino().train(), [sample])


def test_scores_of_pseudo_boxes_weight_what_is_learnt():
    """Of denoising, too; the background is learnt as ever."""
    model = tiny_dino(weight_by_score=True).train()
    (sample,) = detection_inputs((64, 96), num_boxes=1)

    def losses(*scores):
        torch.manual_seed(0)
        return step(model, [with_scores(sample, *scores) if scores else sample])

    full, half, none = losses(1.0), losses(0.5), losses(0.0)
    assert losses() == full, "labels have no score"
    for name in LOSSES:
        torch.testing.assert_close(half[name], (full[name] + none[name]) / 2)
        assert (none[name] > 0) == name.endswith("cls")
        assert none[name] < full[name]
    model.weight_by_score = False
    assert losses(0.5) == full


@pytest.mark.parametrize("sizes", [[(64, 96)], [(64, 90), (50, 64)]])
@pytest.mark.parametrize(("num_boxes", "num_classes"), [(0, 2), (3, 2), (3, 1)])
def test_gradients_reach_every_parameter(sizes, num_boxes, num_classes):
    model = tiny_dino(num_classes).train()
    losses = step(model, detection_inputs(*sizes, num_boxes=num_boxes))
    assert list(losses) == LOSSES
    assert all((loss > 0) == (num_boxes > 0) for name, loss in losses.items() if "l1" in name)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if num_boxes:
            assert parameter.grad.any(), name


def test_losses_are_in_single_precision_under_autocast():
    model = tiny_dino().train()
    inputs = detection_inputs((64, 96), (50, 64))
    torch.manual_seed(0)
    exact = step(model, inputs)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = step(model, inputs)
        sum(losses.values()).backward()
        with torch.no_grad():
            outputs = model.eval()(inputs)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.1, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(output["instances"].scores.dtype == torch.float32 for output in outputs)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_model_detects_the_same_on_another_image():
    model = tiny_dino(max_detections_per_image=10).eval()
    first, second = (
        {"image": sample["image"].float()} for sample in detection_inputs((64, 96), (64, 96))
    )
    with torch.no_grad():
        adapter = TracingAdapter(model, [first])
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        (output,) = adapter.outputs_schema(traced(second["image"]))
        expected = model([second])[0]["instances"]
    instances = output["instances"]
    torch.testing.assert_close(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(instances.scores, expected.scores)


def test_the_same_seed_gives_the_same_numbers():
    inputs = detection_inputs((64, 96))
    first, second = (step(tiny_dino(seed=3).train(), inputs) for _ in range(2))
    assert first == second


def test_every_key_reaches_the_model():
    keys = {"NUM_CLASSES": 3, "NUM_QUERIES": 7, "HIDDEN_DIM": 64, "FEEDFORWARD_DIM": 12}
    keys |= {"ENCODER_LAYERS": 1, "DECODER_LAYERS": 2, "NUM_HEADS": 4, "NUM_POINTS": 3}
    keys |= {"PRIOR_PROB": 0.1, "DN_QUERIES": 11, "DN_LABEL_NOISE": 0.3, "DN_BOX_NOISE": 0.6}
    keys |= {"MATCH_WEIGHTS": (1.0, 2.0, 3.0), "LOSS_WEIGHTS": (4.0, 5.0, 6.0)}
    keys |= {"FOCAL_LOSS_ALPHA": 0.4, "FOCAL_LOSS_GAMMA": 1.0, "IN_FEATURES": ("res4", "res5")}
    settings = {f"AGSSP.DINO.{key}": value for key, value in keys.items()}
    settings["AGSSP.BOXES.WEIGHT_BY_SCORE"] = True
    model = make_model(CONFIG, SMALL_R50, settings, {"TEST.DETECTIONS_PER_IMAGE": 8})
    transformer = model.transformer
    assert transformer.content.weight.shape == (7, 64)
    assert (len(transformer.encoder), len(transformer.decoder)) == (1, 2)
    assert transformer.encoder[0].feed_forward.layers[0].out_features == 12
    assert transformer.decoder[1].attention.grid == (4, 3, 3)
    assert transformer.decoder[1].self_attention.num_heads == 4
    torch.testing.assert_close(transformer.class_branches[2].bias.sigmoid(), torch.full((3,), 0.1))
    assert model.noise == {"max_queries": 11, "label_noise": 0.3, "box_noise": 0.6}
    assert model.match_weights == (1, 2, 3)
    assert tuple(model.loss_weights.values()) == (4, 5, 6)
    assert model.focal == {"alpha": 0.4, "gamma": 1.0}
    assert (model.weight_by_score, model.max_detections_per_image) == (True, 8)
    assert (model.num_classes, model.label_embedding.num_embeddings) == (3, 3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("HIDDEN_DIM", 48, r"multiple of 32 and of NUM_HEADS \(8\), got 48"),
        ("NUM_HEADS", 5, r"of NUM_HEADS \(5\), got 256"),
        ("DECODER_LAYERS", 0, "at least 1, got 0"),
        ("NUM_QUERIES", 0, "at least 1, got 0"),
        ("PRIOR_PROB", 1.0, r"in \(0, 1\), got 1"),
        ("DN_LABEL_NOISE", 1.5, r"in \[0, 1\], got 1.5"),
        ("IN_FEATURES", ("res2", "res3"), r"IN_FEATURES asks for \['res2'\]"),
        ("IN_FEATURES", (), "IN_FEATURES asks for nothing"),
    ],
)
def test_bad_settings(key, value, message):
    with pytest.raises(ValueError, match=rf"AGSSP.DINO.*{message}"):
        make_model(CONFIG, SMALL_R50, {f"AGSSP.DINO.{key}": value})
