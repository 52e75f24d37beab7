"""``AGSSP.BOXES.WEIGHT_BY_SCORE`` for Detectron2's own detectors.

Each of their losses is a sum over predictions, a term of which depends on that prediction alone. So
a weight on the term is a weight on the prediction's gradient, and that is what is multiplied,
between the predictions and Detectron2's losses, none of which is written again. The losses that are
logged remain those without weights.
"""

import functools
import math
import sys
from collections.abc import Sequence

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch import fcos
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import (
    BaseMaskRCNNHead,
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Instances
from torch import Tensor, nn


def with_weighted_gradient(predictions: Tensor, weights: Tensor) -> Tensor:
    """The same numbers; on its way back, their gradient is multiplied.

    Args:
        predictions: of any shape.
        weights: of its first axes.
    """
    # A product by one would have another layout in memory, and sums of it other bits.
    if not predictions.requires_grad or (weights == 1).all():
        return predictions
    same = predictions.view_as(predictions)
    factors = weights.reshape(*weights.shape, *[1] * (same.dim() - weights.dim()))
    same.register_hook(lambda gradient: gradient * factors.to(gradient.dtype))
    return same


def scores_of(boxes: Tensor, instances: Instances) -> Tensor:
    """(R,) ``gt_scores`` of the instances that boxes (R, 4) are copies of; of equal ones the
    highest."""
    same = (boxes[:, None] == instances.gt_boxes.tensor).all(dim=2)
    return torch.where(same, instances.gt_scores, 0).amax(dim=1)


class _WeightedAnchors:
    """Of detectors by anchors or points, whose losses take lists of predictions by level."""

    def _keep_weights(
        self, positive: list[Tensor], boxes: list[Tensor], gt_instances: list[Instances]
    ) -> None:
        """By image, whether each of R anchors learns a box, and which (R, 4)."""
        rows = []
        for chosen, own, instances in zip(positive, boxes, gt_instances, strict=True):
            weights = torch.ones(len(chosen), device=chosen.device)
            if instances.has("gt_scores") and len(instances):
                weights[chosen] = scores_of(own[chosen], instances).to(weights)
            rows.append(weights)
        self.anchor_weights = torch.stack(rows)

    def losses(self, anchors, logits, gt_labels, deltas, gt_boxes, *more):
        by_level = self.anchor_weights.split([len(level) for level in anchors], dim=1)

        def weighted(levels: list[Tensor]) -> list[Tensor]:
            return list(map(with_weighted_gradient, levels, by_level))

        more = map(weighted, more)
        return super().losses(
            anchors, weighted(logits), gt_labels, weighted(deltas), gt_boxes, *more
        )


class _WeightedRPN(_WeightedAnchors):
    def label_and_sample_anchors(self, anchors, gt_instances):
        labels, boxes = super().label_and_sample_anchors(anchors, gt_instances)
        self._keep_weights([own == 1 for own in labels], boxes, gt_instances)
        return labels, boxes


class _WeightedDense(_WeightedAnchors):
    """RetinaNet and FCOS."""

    def label_anchors(self, anchors, gt_instances):
        labels, boxes = super().label_anchors(anchors, gt_instances)
        positive = [(own >= 0) & (own < self.num_classes) for own in labels]
        self._keep_weights(positive, boxes, gt_instances)
        return labels, boxes


def _proposal_weights(proposals: Sequence[Instances], num_classes: float = math.inf) -> Tensor:
    """Of all proposals of a batch; those of the background have the class ``num_classes``."""
    rows = []
    for own in proposals:
        weights = torch.ones(len(own), device=own.gt_classes.device)
        if own.has("gt_scores"):
            positive = (own.gt_classes >= 0) & (own.gt_classes < num_classes)
            weights[positive] = own.gt_scores[positive].to(weights)
        rows.append(weights)
    return torch.cat(rows)


class _WeightedBoxPredictor:
    def losses(self, predictions, proposals):
        weights = _proposal_weights(proposals, self.num_classes)
        weighted = tuple(with_weighted_gradient(own, weights) for own in predictions)
        return super().losses(weighted, proposals)


class _WeightedMaskHead:
    def forward(self, x, instances):
        if self.training:
            self.mask_weights = _proposal_weights(instances)
        return super().forward(x, instances)

    def layers(self, x):
        logits = super().layers(x)
        return with_weighted_gradient(logits, self.mask_weights) if self.training else logits


class _WeightedCascade:
    """Its first stage has the scores as all of a box; each later one matches boxes anew."""

    def _match_and_label_boxes(self, proposals, stage, targets):
        labelled = super()._match_and_label_boxes(proposals, stage, targets)
        for own, instances in zip(labelled, targets, strict=True):
            if instances.has("gt_scores") and len(instances):
                own.gt_scores = scores_of(own.gt_boxes.tensor, instances)
        return labelled


_MIXINS = {
    RPN: _WeightedRPN,
    modeling.RetinaNet: _WeightedDense,
    fcos.FCOS: _WeightedDense,
    CascadeROIHeads: _WeightedCascade,
    FastRCNNOutputLayers: _WeightedBoxPredictor,
    BaseMaskRCNNHead: _WeightedMaskHead,
}


def weight_by_score(model: nn.Module) -> nn.Module:
    """The model itself, which from now on weights what it learns of each box by its ``gt_scores``,
    in [0, 1]; boxes without have the weight 1, and so has the background.

    Its parts get subclasses of their own classes, under the same names. A model with the attribute
    ``weight_by_score`` sees to it itself and is left as it is.

    Raises:
        ValueError: a part with losses that are none of Detectron2's for boxes and masks.
    """
    if hasattr(model, "weight_by_score"):
        return model
    for part in _parts_with_losses(model):
        kind = type(part)
        mixin = next((mixin for base, mixin in _MIXINS.items() if isinstance(part, base)), None)
        if mixin is None:
            raise ValueError(
                f"AGSSP.BOXES.WEIGHT_BY_SCORE does not know the losses of {kind.__name__}, which "
                "would learn without weights: set it to False, or leave this part out."
            )
        part.__class__ = type(kind.__name__, (mixin, kind), {"__module__": kind.__module__})
    return model


def _parts_with_losses(model: nn.Module) -> list[nn.Module]:
    """Those of an R-CNN whose losses are of boxes, or the model itself."""
    if not isinstance(model, modeling.GeneralizedRCNN | modeling.ProposalNetwork):
        return [model]
    parts = [model.proposal_generator]
    heads = getattr(model, "roi_heads", None)
    if heads is not None:
        predictors = getattr(heads, "box_predictor", None)
        parts += predictors if isinstance(predictors, nn.ModuleList) else [predictors]
        parts += [getattr(heads, name, None) for name in ("mask_head", "keypoint_head")]
        # The others have no losses beside those of their parts.
        plain = isinstance(heads, StandardROIHeads | Res5ROIHeads)
        parts += [heads] if isinstance(heads, CascadeROIHeads) or not plain else []
    return [part for part in parts if part is not None]


def install_score_weights() -> None:
    """Makes ``build_model`` weight by score where ``AGSSP.BOXES.WEIGHT_BY_SCORE`` says so, wherever
    it has been imported to; does nothing the second time."""
    original = modeling.build_model
    if getattr(original, "weights_by_score", False):
        return

    @functools.wraps(original)
    def build_model(cfg: CfgNode) -> nn.Module:
        model = original(cfg)
        wanted = "AGSSP" in cfg and cfg.AGSSP.BOXES.WEIGHT_BY_SCORE
        return weight_by_score(model) if wanted else model

    build_model.weights_by_score = True
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("build_model") is original:
            module.build_model = build_model
