"""Each detector beside Faster R-CNN and RetinaNet: a training step, and from AGDP's one class to
several."""

import logging
import re

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.events import EventStorage

from detectron2_agssp.checkpoint.coverage import bottom_up_of
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from tests.tiny_models import SMALL_R50, copy_of, detection_inputs, make_model, randomize

SMALL_YOLO = {
    **SMALL_R50,
    "AGSSP.PAFPN.OUT_CHANNELS": (8, 8, 16),
    "AGSSP.YOLO.HEAD_CHANNELS": 8,
    "AGSSP.CSPDARKNET.SIZE": "nano",
    "AGSSP.SWIN.EMBED_DIM": 8,
    "AGSSP.SWIN.DEPTHS": (1, 1, 2, 1),
    "AGSSP.SWIN.NUM_HEADS": (1, 2, 2, 4),
}
SMALL_DINO = {
    **SMALL_YOLO,
    "AGSSP.DINO.HIDDEN_DIM": 32,
    "AGSSP.DINO.FEEDFORWARD_DIM": 16,
    "AGSSP.DINO.ENCODER_LAYERS": 1,
    "AGSSP.DINO.NUM_POINTS": 2,
    "AGSSP.DINO.DN_QUERIES": 8,
}
YOLO_PREDICTORS = [f"head.cls_score.{level}" for level in range(3)]
# One per decoder layer, one that chooses queries.
DINO_PREDICTORS = [f"transformer.class_branches.{branch}" for branch in range(7)]
DINO_PREDICTORS.append("label_embedding")
SETTINGS = {
    "fcos_R50_fpn": {**SMALL_R50, "AGSSP.FCOS.NORM": "", "AGSSP.FCOS.NUM_CONVS": 1},
    "cascade_rcnn_R50_fpn": SMALL_R50,
    "mask_rcnn_R50_fpn": {**SMALL_R50, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1},
    "yolo_R50": SMALL_YOLO,
    "yolo_swin_b": SMALL_YOLO,
    "yolo_cspdarknet_s": SMALL_YOLO,
    "yolo_cspdarknet_n": SMALL_YOLO,
    "dino_R50": SMALL_DINO,
    "dino_swin_b": SMALL_DINO,
}
CLASS_PREDICTORS = {
    "fcos_R50_fpn": ["head.cls_score"],
    "cascade_rcnn_R50_fpn": [f"roi_heads.box_predictor.{stage}.cls_score" for stage in range(3)],
    "mask_rcnn_R50_fpn": [
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    ],
    "yolo_R50": YOLO_PREDICTORS,
    "yolo_swin_b": YOLO_PREDICTORS,
    "yolo_cspdarknet_s": YOLO_PREDICTORS,
    "yolo_cspdarknet_n": YOLO_PREDICTORS,
    "dino_R50": DINO_PREDICTORS,
    "dino_swin_b": DINO_PREDICTORS,
}
STAGES = [(stage, name) for stage in ("agdp", "finetune") for name in SETTINGS]


@pytest.mark.parametrize(("stage", "name"), STAGES)
def test_a_training_step(stage, name):
    """On images of different sizes, one of them without boxes."""
    model = make_model(f"{stage}/{name}.yaml", SETTINGS[name]).train()
    inputs = detection_inputs((64, 90), (50, 64), masks="mask" in name)
    inputs[1]["instances"] = inputs[1]["instances"][:0]
    with EventStorage():
        losses = model(inputs)
    assert ("loss_mask" in losses) == ("mask" in name)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    reached = {path for path, p in model.named_parameters() if p.grad is not None}
    assert reached == {path for path, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        outputs = model.eval()(inputs)
    assert [output["instances"].image_size for output in outputs] == [(64, 90), (50, 64)]


@pytest.mark.parametrize("name", SETTINGS)
def test_images_without_boxes_alone(name):
    """Teach what is background, with finite losses and gradients everywhere."""
    model = make_model(f"agdp/{name}.yaml", SETTINGS[name]).train()
    with EventStorage():
        losses = model(detection_inputs((64, 90), (50, 64), num_boxes=0, masks="mask" in name))
    sum(losses.values()).backward()
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), path


@pytest.mark.parametrize("name", SETTINGS)
def test_agdp_weights_take_another_number_of_classes(name, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    agdp = make_model(f"agdp/{name}.yaml", SETTINGS[name])
    randomize(agdp)
    CheckedCheckpointer(agdp, str(tmp_path)).save("model_final")
    model = make_model(f"finetune/{name}.yaml", SETTINGS[name], seed=1)
    fresh = copy_of(model)
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    expected, loaded = agdp.state_dict(), model.state_dict()
    afresh = {path for path in loaded if path.startswith(tuple(CLASS_PREDICTORS[name]))}
    assert afresh
    for path, tensor in loaded.items():
        assert torch.equal(tensor, fresh[path] if path in afresh else expected[path]), path
    said = [record.getMessage() for record in caplog.records if "afresh" in record.getMessage()]
    layers = ", ".join(CLASS_PREDICTORS[name])
    assert len(said) == 1
    classes = 5 if "mask" in name else 6
    assert said[0].endswith(f"as expected with {classes} classes instead of 1: {layers}.")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("agbp", "name"),
    [
        *((name, f"yolo_{name}") for name in ("R50", "swin_b", "cspdarknet_s", "cspdarknet_n")),
        *((name, f"dino_{name}") for name in ("R50", "swin_b")),
    ],
)
def test_agbp_weights_start_a_detector(agbp, name, tmp_path, caplog):
    distiller = make_model(f"agbp/{agbp}.yaml", SETTINGS[name], {"VIS_PERIOD": 0})
    randomize(distiller.backbone)
    CheckedCheckpointer(distiller, str(tmp_path)).save("model_final")
    model = make_model(f"agdp/{name}.yaml", SETTINGS[name], seed=1)
    caplog.clear()
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    loaded = bottom_up_of(model.backbone).state_dict()
    weights = distiller.backbone.state_dict()
    expected = {path: tensor for path, tensor in weights.items() if path in loaded}
    assert len(expected) > 0.9 * len(loaded)
    for path, tensor in expected.items():
        assert path.endswith("num_batches_tracked") or torch.equal(loaded[path], tensor), path
    # What AGBP of Swin does not have: the norms of the features that it does not distil.
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    said = "\n".join(record.getMessage() for record in warnings)
    lacking = set(re.findall(r"(?:backbone|bottom_up)\.(norm\d)", said))
    assert lacking == ({"norm1", "norm2"} if "swin" in name else set())
    assert bool(said) == bool(lacking)
