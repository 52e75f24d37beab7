"""YOLO: a one-stage detector without anchors, by published parts.

A decoupled head on p3, p4 and p5 of any pyramid, sides as distributions (Generalized Focal Loss),
task-aligned assignment (TOOD), CIoU. Written from these papers.
"""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torchvision.ops import batched_nms

from detectron2_agssp.modeling.backbone.pyramid import levels_of
from detectron2_agssp.modeling.detectors.assignment import task_aligned_assignment
from detectron2_agssp.modeling.detectors.labels import UsableLabels
from detectron2_agssp.modeling.detectors.yolo_head import (
    YOLOHead,
    decode_boxes,
    level_points,
    on_image,
)
from detectron2_agssp.modeling.detectors.yolo_losses import yolo_losses


@META_ARCH_REGISTRY.register()
class YOLO(DenseDetector):
    """Detectron2 meta-architecture of the detector of this module.

    Images of a batch may differ in size: points on padding neither learn nor detect. Losses are
    computed in float32 under autocast, too.

    Args:
        backbone: with the levels ``head_in_features``.
        head: on these levels.
        head_in_features: names of the backbone's outputs, from the finest.
        assign_topk, assign_alpha, assign_beta: see
            :func:`~detectron2_agssp.modeling.detectors.assignment.task_aligned_assignment`.
        cls_weight, box_weight, dfl_weight: of the losses.
        weight_by_score: multiplies the losses of a point that learns a box by the box's
            ``gt_scores``, in [0, 1], where the instances have them.
        test_score_thresh: a detection has a higher score, in [0, 1].
        test_topk_candidates: pairs of point and class that go into NMS per image.
        test_nms_thresh: IoU from which the weaker of two boxes of a class is dropped.
        max_detections_per_image: after NMS.
        pixel_mean, pixel_std: per channel, in the order of ``input_format``.
        input_format: "RGB" or "BGR", the channel order of ``image``.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: YOLOHead,
        head_in_features: list[str],
        assign_topk: int = 10,
        assign_alpha: float = 0.5,
        assign_beta: float = 6.0,
        cls_weight: float = 0.5,
        box_weight: float = 7.5,
        dfl_weight: float = 1.5,
        weight_by_score: bool = False,
        test_score_thresh: float = 0.001,
        test_topk_candidates: int = 3000,
        test_nms_thresh: float = 0.7,
        max_detections_per_image: int = 100,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        input_format: str = "BGR",
    ):
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in head_in_features]
        self.num_classes = head.num_classes
        self.assign_topk = assign_topk
        self.assign_alpha = assign_alpha
        self.assign_beta = assign_beta
        self.loss_weights = {
            "loss_yolo_cls": cls_weight,
            "loss_yolo_box": box_weight,
            "loss_yolo_dfl": dfl_weight,
        }
        self.weight_by_score = weight_by_score
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.input_format = input_format
        self._usable = UsableLabels(head.num_classes, "AGSSP.YOLO.NUM_CLASSES")

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        settings = cfg.AGSSP.YOLO
        head = YOLOHead(
            input_shape=levels_of(backbone, settings.IN_FEATURES, "AGSSP.YOLO.IN_FEATURES"),
            num_classes=settings.NUM_CLASSES,
            num_bins=settings.NUM_BINS,
            channels=settings.HEAD_CHANNELS,
            box_channels=settings.BOX_CHANNELS,
            norm=settings.NORM,
            prior_prob=settings.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": list(settings.IN_FEATURES),
            "assign_topk": settings.ASSIGN_TOPK,
            "assign_alpha": settings.ASSIGN_ALPHA,
            "assign_beta": settings.ASSIGN_BETA,
            "cls_weight": settings.CLS_WEIGHT,
            "box_weight": settings.BOX_WEIGHT,
            "dfl_weight": settings.DFL_WEIGHT,
            "weight_by_score": cfg.AGSSP.BOXES.WEIGHT_BY_SCORE,
            "test_score_thresh": settings.SCORE_THRESH_TEST,
            "test_topk_candidates": settings.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": settings.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[Tensor, Tensor],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """The three losses; called by Detectron2's ``DenseDetector.forward``.

        Raises:
            ValueError: a box of a class that the head does not have.
        """
        with torch.autocast(self.device.type, enabled=False):
            logits, bins = (prediction.float() for prediction in predictions)
            points, strides = level_points(features, self.strides)
            boxes = decode_boxes(bins, points, strides)
            rows = []
            for index, (size, instances) in enumerate(
                zip(images.image_sizes, self._usable(gt_instances), strict=True)
            ):
                inside = on_image(points, size)
                own = logits[index][inside], bins[index][inside], boxes[index][inside]
                learnt = self._learnt(own[0], own[2], points[inside], instances)
                rows.append((*own, *learnt, points[inside], strides[inside]))
            logits, bins, boxes, targets, classes, gt_boxes, weights, points, strides = (
                torch.cat(column) for column in zip(*rows, strict=True)
            )
            losses = yolo_losses(
                logits=logits,
                bins=bins,
                boxes=boxes,
                targets=targets,
                classes=classes,
                gt_boxes=gt_boxes,
                points=points,
                strides=strides,
                weights=weights,
            )
        return {name: self.loss_weights[name] * loss for name, loss in losses.items()}

    def _learnt(
        self, logits: Tensor, boxes: Tensor, points: Tensor, instances: Instances
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``targets``, ``classes``, ``gt_boxes`` and ``weights`` of ``yolo_losses``, for the P
        points of an image."""
        gt_boxes, gt_classes = instances.gt_boxes.tensor, instances.gt_classes
        assignment = task_aligned_assignment(
            logits.detach().sigmoid(),
            boxes.detach(),
            points,
            gt_boxes,
            gt_classes,
            topk=self.assign_topk,
            alpha=self.assign_alpha,
            beta=self.assign_beta,
        )
        positive, matched = assignment.matched >= 0, assignment.matched
        classes, of_points = torch.full_like(matched, -1), boxes.new_zeros(len(points), 4)
        classes[positive] = gt_classes[matched[positive]]
        of_points[positive] = gt_boxes[matched[positive]]
        weights = torch.ones_like(assignment.targets)
        if self.weight_by_score and instances.has("gt_scores"):
            weights[positive] = instances.gt_scores[matched[positive]].to(weights)
        return assignment.targets, classes, of_points, weights

    def forward_inference(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[Tensor, Tensor],
    ) -> list[Instances]:
        """Per image ``pred_boxes`` in pixels of the model's input, ``scores`` and ``pred_classes``,
        by falling score."""
        logits, bins = (prediction.float() for prediction in predictions)
        points, strides = level_points(features, self.strides)
        boxes = decode_boxes(bins, points, strides)
        results = []
        for image_logits, image_boxes, size in zip(logits, boxes, images.image_sizes, strict=True):
            inside = on_image(points, size)
            results.append(self._detections(image_logits[inside], image_boxes[inside], size))
        return results

    def _detections(self, logits: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        scores = logits.sigmoid()
        rows, classes = (scores > self.test_score_thresh).nonzero(as_tuple=True)
        # Not topk, whose number of candidates a traced model would keep.
        scores, order = scores[rows, classes].sort(descending=True)
        scores, order = scores[: self.test_topk_candidates], order[: self.test_topk_candidates]
        kept = Boxes(boxes[rows[order]])
        kept.clip(image_size)
        classes = classes[order]
        keep = batched_nms(kept.tensor, scores, classes, self.test_nms_thresh)
        keep = keep[: self.max_detections_per_image]
        return Instances(
            image_size, pred_boxes=kept[keep], scores=scores[keep], pred_classes=classes[keep]
        )
