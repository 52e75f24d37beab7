"""DINO: a detector without anchors and NMS, whose queries are matched with boxes one to one.

Written from the papers: Deformable DETR (Zhu et al., ICLR 2021), DN-DETR (Li et al., CVPR 2022),
DINO (Zhang et al., ICLR 2023).
"""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from detectron2_agssp.modeling.backbone.pyramid import levels_of
from detectron2_agssp.modeling.detectors.deformable_attention import lengths
from detectron2_agssp.modeling.detectors.dino_denoising import NoisyBoxes, add_noise
from detectron2_agssp.modeling.detectors.dino_losses import match, set_losses
from detectron2_agssp.modeling.detectors.dino_tokens import NUM_GROUPS, Tokenizer
from detectron2_agssp.modeling.detectors.dino_transformer import Queries, Transformer
from detectron2_agssp.modeling.detectors.labels import Truth, UsableLabels


@META_ARCH_REGISTRY.register()
class DINO(DenseDetector):
    """Detectron2 meta-architecture of the detector of this module.

    Images of a batch may differ in size: padding is masked everywhere above the backbone. Losses
    are computed in float32 under autocast, too.

    Args:
        backbone: with the levels ``in_features``.
        in_features: names of the backbone's outputs, from the finest; one more level is made of the
            last.
        num_classes: of the boxes.
        dim: channels of the transformer, a multiple of 32 and of ``num_heads``.
        feedforward_dim, num_heads, num_points, num_encoder_layers, num_decoder_layers: of the
            :class:`~.dino_transformer.Transformer`.
        num_queries, prior_prob: likewise.
        dn_queries, dn_label_noise, dn_box_noise: ``max_queries``, ``label_noise`` and ``box_noise``
            of :func:`~.dino_denoising.add_noise`.
        match_weights: of class, L1 and GIoU in the matching.
        loss_weights: of the class, L1 and GIoU losses.
        focal_loss_alpha, focal_loss_gamma: of the class loss, in the matching, too.
        weight_by_score: multiplies what is learnt of a box by its ``gt_scores``, in [0, 1], where
            the instances have them.
        max_detections_per_image: pairs of query and class.
        pixel_mean, pixel_std: per channel, in the order of ``input_format``.
        input_format: "RGB" or "BGR", the channel order of ``image``.

    Raises:
        ValueError: a number out of its range.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: list[str],
        num_classes: int,
        dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        num_points: int = 4,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        num_queries: int = 900,
        prior_prob: float = 0.01,
        dn_queries: int = 300,
        dn_label_noise: float = 0.25,
        dn_box_noise: float = 1.0,
        match_weights: tuple[float, float, float] = (2.0, 5.0, 2.0),
        loss_weights: tuple[float, float, float] = (1.0, 5.0, 2.0),
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        weight_by_score: bool = False,
        max_detections_per_image: int = 100,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        input_format: str = "BGR",
    ):
        # The base class's head is not told the sizes of the images, which the transformer needs.
        super().__init__(
            backbone, nn.Identity(), in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        _check(dim, num_heads, num_decoder_layers, num_queries, prior_prob, dn_label_noise)
        input_shape = levels_of(backbone, in_features, "AGSSP.DINO.IN_FEATURES")
        self.tokenizer = Tokenizer(input_shape=input_shape, dim=dim)
        self.transformer = Transformer(
            dim=dim,
            feedforward_dim=feedforward_dim,
            num_heads=num_heads,
            num_levels=len(in_features) + 1,
            num_points=num_points,
            num_queries=num_queries,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            num_classes=num_classes,
            prior_prob=prior_prob,
        )
        self.label_embedding = nn.Embedding(num_classes, dim)
        self.num_classes = num_classes
        self.noise = {
            "max_queries": dn_queries,
            "label_noise": dn_label_noise,
            "box_noise": dn_box_noise,
        }
        self.match_weights = tuple(match_weights)
        self.loss_weights = dict(zip(("cls", "l1", "giou"), loss_weights, strict=True))
        self.focal = {"alpha": focal_loss_alpha, "gamma": focal_loss_gamma}
        self.weight_by_score = weight_by_score
        self.max_detections_per_image = max_detections_per_image
        self.input_format = input_format
        self._usable = UsableLabels(num_classes, "AGSSP.DINO.NUM_CLASSES")

    @classmethod
    def from_config(cls, cfg):
        settings = cfg.AGSSP.DINO
        return {
            "backbone": build_backbone(cfg),
            "in_features": list(settings.IN_FEATURES),
            "num_classes": settings.NUM_CLASSES,
            "dim": settings.HIDDEN_DIM,
            "feedforward_dim": settings.FEEDFORWARD_DIM,
            "num_heads": settings.NUM_HEADS,
            "num_points": settings.NUM_POINTS,
            "num_encoder_layers": settings.ENCODER_LAYERS,
            "num_decoder_layers": settings.DECODER_LAYERS,
            "num_queries": settings.NUM_QUERIES,
            "prior_prob": settings.PRIOR_PROB,
            "dn_queries": settings.DN_QUERIES,
            "dn_label_noise": settings.DN_LABEL_NOISE,
            "dn_box_noise": settings.DN_BOX_NOISE,
            "match_weights": settings.MATCH_WEIGHTS,
            "loss_weights": settings.LOSS_WEIGHTS,
            "focal_loss_alpha": settings.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": settings.FOCAL_LOSS_GAMMA,
            "weight_by_score": cfg.AGSSP.BOXES.WEIGHT_BY_SCORE,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[Tensor],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Three losses of the decoder, of the choice of queries, and of denoising, each over all
        its layers; called by Detectron2's ``DenseDetector.forward``.

        Raises:
            ValueError: a box of a class that the detector does not have.
        """
        truth = Truth.of(self._usable(gt_instances), self.weight_by_score)
        tokens = self.tokenizer(features, images.image_sizes)
        memory = self.transformer.encode(tokens)
        queries, *choice = self.transformer.choose(memory, tokens)
        noisy = add_noise(truth, num_classes=self.num_classes, **self.noise)
        decoded = self.transformer.decode(self._with_noise(queries, noisy), memory, tokens)
        number = queries.content.shape[1]
        with torch.autocast(self.device.type, enabled=False):
            losses = {}
            for part, outputs in {
                "": [output[:, :, :number] for output in decoded],
                "_choice": [output[None] for output in choice],
            }.items():
                matched = match(
                    *outputs, queries.valid, truth, weights=self.match_weights, **self.focal
                )
                losses |= self._losses(part, outputs, queries.valid, matched, truth)
            outputs = [output[:, :, number:] for output in decoded]
            matched = noisy.matched.expand(len(outputs[0]), -1, -1)
            losses |= self._losses("_dn", outputs, noisy.valid, matched, truth)
        return losses

    def _with_noise(self, queries: Queries, noisy: NoisyBoxes) -> Queries:
        return Queries(
            torch.cat([queries.content, self.label_embedding(noisy.classes)], dim=1),
            torch.cat([queries.boxes, noisy.boxes], dim=1),
            torch.cat([queries.groups, noisy.groups]),
            torch.cat([queries.valid, noisy.valid], dim=1),
        )

    def _losses(
        self, part: str, outputs: list[Tensor], valid: Tensor, matched: Tensor, truth: Truth
    ) -> dict[str, Tensor]:
        """Weighted, per box that is learnt in a layer, at least one."""
        sums = set_losses(*outputs, valid, matched, truth, **self.focal)
        number = (matched[0] >= 0).sum().clamp(min=1)
        return {
            f"loss_dino{part}_{name}": self.loss_weights[name] * loss / number
            for name, loss in sums.items()
        }

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[Tensor]
    ) -> list[Instances]:
        """Per image ``pred_boxes`` in pixels of the model's input, ``scores`` and ``pred_classes``,
        by falling score."""
        tokens = self.tokenizer(features, images.image_sizes)
        memory = self.transformer.encode(tokens)
        queries, *_ = self.transformer.choose(memory, tokens)
        logits, boxes = (output[-1] for output in self.transformer.decode(queries, memory, tokens))
        return [
            self._detections(own_logits[valid], own_boxes[valid], size)
            for own_logits, own_boxes, valid, size in zip(
                logits, boxes, queries.valid, images.image_sizes, strict=True
            )
        ]

    def _detections(self, logits: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        # Not topk, whose number a traced model would keep.
        scores, order = logits.sigmoid().flatten().sort(descending=True)
        scores = scores[: self.max_detections_per_image]
        order = order[: self.max_detections_per_image]
        height, width = image_size
        corners = box_convert(boxes[order // self.num_classes], "cxcywh", "xyxy")
        found = Boxes(corners * lengths((width, height, width, height), corners))
        found.clip(image_size)
        return Instances(
            image_size, pred_boxes=found, scores=scores, pred_classes=order % self.num_classes
        )


def _check(
    dim: int,
    num_heads: int,
    num_layers: int,
    num_queries: int,
    prior_prob: float,
    label_noise: float,
) -> None:
    if dim % NUM_GROUPS or dim % num_heads:
        raise ValueError(
            f"AGSSP.DINO.HIDDEN_DIM must be a multiple of {NUM_GROUPS} and of NUM_HEADS "
            f"({num_heads}), got {dim}."
        )
    for key, value in (("DECODER_LAYERS", num_layers), ("NUM_QUERIES", num_queries)):
        if value < 1:
            raise ValueError(f"AGSSP.DINO.{key} must be at least 1, got {value}.")
    if not 0 < prior_prob < 1:
        raise ValueError(f"AGSSP.DINO.PRIOR_PROB must be in (0, 1), got {prior_prob}.")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"AGSSP.DINO.DN_LABEL_NOISE must be in [0, 1], got {label_noise}.")
