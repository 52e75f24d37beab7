"""Detectors as graphs of tensors: images in, a padded table of detections out.

What Detectron2 does in Python per image (normalising, padding, decoding, NMS, clipping) is written
here for a whole batch, so that a trace holds for any number and size of images.
"""

from collections.abc import Callable

import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.meta_arch import fcos
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import nms

from detectron2_agssp.modeling.detectors.dino import DINO
from detectron2_agssp.modeling.detectors.yolo import YOLO
from detectron2_agssp.modeling.detectors.yolo_head import decode_boxes, level_points, on_image

OUTPUTS = ("boxes", "scores", "classes", "counts")
SUPPORTED = "YOLO, RetinaNet, FCOS, DINO, Faster R-CNN and Cascade R-CNN"
Detections = tuple[Tensor, Tensor, Tensor, Tensor]


def exportable(model: nn.Module) -> nn.Module:
    """The graph of a Detectron2 detector.

    It takes ``images`` (N, 3, H, W), RGB in [0, 255], uint8 or float32, resized already; all of a
    batch have one size. It returns ``boxes`` (N, K, 4) in pixels of these images, ``scores`` (N, K)
    by falling score, ``classes`` (N, K) and ``counts`` (N,), both int64. K is at most the
    detector's number of detections per image; rows from an image's count on are 0, of class -1.

    Raises:
        ValueError: there is none for this detector.
    """
    if isinstance(model, YOLO):
        graph: nn.Module = YOLOGraph(model)
    elif isinstance(model, RetinaNet):
        graph = RetinaNetGraph(model)
    elif isinstance(model, fcos.FCOS):
        graph = FCOSGraph(model)
    elif isinstance(model, DINO):
        graph = OneImageGraph(model, _one_image_of_dino)
    elif isinstance(model, GeneralizedRCNN) and not model.roi_heads.mask_on:
        graph = OneImageGraph(model, _one_image)
    else:
        masks = " with masks" if isinstance(model, GeneralizedRCNN) else ""
        raise ValueError(
            f"There is no export of {type(model).__name__}{masks}, only of {SUPPORTED}."
        )
    return graph.eval()


class OneImageGraph(nn.Module):
    """A detector as Detectron2 traces it: of one image, N = 1.

    Args:
        model: the detector.
        detect: called with the model and its inputs, one image; returns its ``Instances``.
    """

    def __init__(
        self, model: nn.Module, detect: Callable[[nn.Module, list[dict[str, Tensor]]], Instances]
    ):
        super().__init__()
        self.model = model
        self.detect = detect

    def forward(self, images: Tensor) -> Detections:
        """See :func:`exportable`."""
        image = images[0].float()
        inputs = [{"image": image.flip(0) if self.model.input_format == "BGR" else image}]
        traced = TracingAdapter(self.model, inputs, self.detect)
        boxes, classes, scores, size = traced(*traced.flattened_inputs)
        boxes = _clip(boxes, size[0], size[1])
        there = _has_area(boxes)
        boxes, classes, scores = boxes[there], classes[there], scores[there]
        return boxes[None], scores[None], classes[None], there.sum()[None]


def _one_image(model: GeneralizedRCNN, inputs: list[dict[str, Tensor]]):
    return model.inference(inputs, do_postprocess=False)[0]


def _one_image_of_dino(model: DINO, inputs: list[dict[str, Tensor]]):
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    return model.forward_inference(images, [features[n] for n in model.head_in_features], [])[0]


class DenseGraph(nn.Module):
    """A one-stage detector."""

    def __init__(self, model: DenseDetector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Detections:
        """See :func:`exportable`."""
        model = self.model
        height, width = images.shape[-2:]
        features = model.backbone(self._prepare(images, height, width))
        features = [features[name] for name in model.head_in_features]
        columns = []
        for boxes, scores in self._levels(features, height, width):
            # Those of too small a score are no candidates.
            pairs = (scores * (scores > model.test_score_thresh)).flatten(1)
            pairs, index = pairs.topk(_at_most(model.test_topk_candidates, pairs.shape[1]), dim=1)
            point = torch.div(index, model.num_classes, rounding_mode="floor")
            columns.append((_rows(boxes, point), pairs, index - point * model.num_classes))
        boxes, scores, classes = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
        scores = _suppressed(boxes, scores, classes, model.test_nms_thresh)
        scores, index = scores.topk(
            _at_most(model.max_detections_per_image, scores.shape[1]), dim=1
        )
        boxes = _clip(_rows(boxes, index), height, width)
        # Boxes wholly beside the image are dropped last, as Detectron2 does.
        scores, order = (scores * _has_area(boxes)).sort(dim=1, descending=True)
        found = scores > 0
        boxes = _rows(boxes, order) * found[:, :, None]
        classes = classes.gather(1, index.gather(1, order))
        return boxes, scores, torch.where(found, classes, -1), found.sum(dim=1)

    def _prepare(self, images: Tensor, height: int, width: int) -> Tensor:
        images = images.float()
        if self.model.input_format == "BGR":
            images = images.flip(1)
        images = (images - self.model.pixel_mean) / self.model.pixel_std
        divisor = max(self.model.backbone.size_divisibility, 1)
        return nn.functional.pad(images, (0, -width % divisor, 0, -height % divisor))

    def _levels(
        self, features: list[Tensor], height: int, width: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Per level ``boxes`` (N, P, 4) and ``scores`` (N, P, classes) in [0, 1]."""
        raise NotImplementedError


class YOLOGraph(DenseGraph):
    """Its candidates are the best of all levels together."""

    def _levels(self, features, height, width):
        logits, bins = self.model.head(features)
        points, strides = level_points(features, self.model.strides)
        boxes = _clip(decode_boxes(bins, points, strides), height, width)
        # Points on padding detect nothing.
        inside = on_image(points, (height, width))
        return [(boxes, logits.sigmoid() * inside[:, None])]


class RetinaNetGraph(DenseGraph):
    """Its candidates are the best of each level."""

    def _levels(self, features, height, width):
        logits, deltas = self.model.head(features)
        scores = [level.sigmoid() for level in self._transposed(logits, self.model.num_classes)]
        return self._decoded(features, scores, deltas)

    def _transposed(self, levels: list[Tensor], width: int) -> list[Tensor]:
        return self.model._transpose_dense_predictions([levels], [width])[0]

    def _decoded(self, features, scores, deltas):
        levels = []
        for anchors, level_scores, level in zip(
            self.model.anchor_generator(features), scores, self._transposed(deltas, 4), strict=True
        ):
            number = level.shape[0]
            boxes = self.model.box2box_transform.apply_deltas(
                level.reshape(-1, 4), anchors.tensor.repeat(number, 1)
            )
            levels.append((boxes.reshape(number, -1, 4), level_scores))
        return levels


class FCOSGraph(RetinaNetGraph):
    """RetinaNet's, with the scores that FCOS makes of class and centre."""

    def _levels(self, features, height, width):
        logits, deltas, centerness = self.model.head(features)
        kinds = self._transposed(logits, self.model.num_classes)
        centres = self._transposed(centerness, 1)
        scores = [
            torch.sqrt(kind.sigmoid() * centre.sigmoid())
            for kind, centre in zip(kinds, centres, strict=True)
        ]
        return self._decoded(features, scores, deltas)


def _suppressed(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float) -> Tensor:
    """``scores`` (N, M), 0 where NMS drops a box for another of its image and class."""
    flat = scores.flatten()
    there = flat.nonzero().squeeze(1)
    # Images lie beside each other, classes below: no box meets one of another image or class.
    images = torch.arange(scores.shape[0], device=scores.device)[:, None].expand_as(classes)
    shift = torch.stack([images, classes, images, classes], dim=2)
    apart = boxes + shift * (boxes.max() - boxes.min() + 1)
    kept = there[nms(apart.reshape(-1, 4)[there], flat[there], iou)]
    return torch.zeros_like(flat).scatter(0, kept, flat[kept]).view_as(scores)


def _rows(boxes: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (N, K) of ``boxes`` (N, M, 4)."""
    return boxes.gather(1, index[:, :, None].expand(-1, -1, 4))


def _clip(boxes: Tensor, height: int, width: int) -> Tensor:
    # Column by column: OpenVINO has to see that there are four.
    limits = (width, height, width, height)
    return torch.stack([boxes[..., k].clamp(0, limits[k]) for k in range(4)], dim=-1)


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def _at_most(limit: int, number: int):
    """``min``, which a trace would keep as a constant."""
    return torch.clamp(number, max=limit) if isinstance(number, Tensor) else min(limit, number)
