"""AGBP: a backbone whose features' energy learns to look like the anomaly map.

Shapes: N images; 3 x H x W an image; C x h x w a feature map.
"""

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from detectron2_agssp.modeling.losses import TARGET_RESIZES, distillation_loss
from detectron2_agssp.modeling.pretext import PretextTask, build_pretext
from detectron2_agssp.ops import channel_energy
from detectron2_agssp.visualization import anomaly_panel


@META_ARCH_REGISTRY.register()
class AnomalyDistiller(nn.Module):
    """Detectron2 meta-architecture for backbone pretraining by anomaly distillation.

    Args:
        backbone: any Detectron2 backbone.
        in_features: names of its outputs that are distilled.
        loss_weights: one per feature; a feature with 0 is not distilled.
        target_resize: "area" or "bilinear"; see
            :func:`~detectron2_agssp.modeling.losses.resize_target`.
        pixel_mean, pixel_std: a channel, in the order of ``input_format``.
        input_format: "RGB" or "BGR", the channel order of ``image``.
        vis_period: iterations between pictures in the event storage; 0 for none.
        backbone_name: recorded in exports.
        pretext: a task that the backbone learns beside the distillation, or None.
        pretext_weight: of its losses.

    Raises:
        ValueError: a feature that the backbone lacks (those it has are listed), or weights that do
            not match the features.
    """

    # In the state dict, so that a checkpoint tells what it is and how its pixels were ordered.
    MARKER = "agssp_input_is_bgr"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: tuple[str, ...],
        loss_weights: tuple[float, ...],
        target_resize: str = "area",
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        input_format: str = "BGR",
        vis_period: int = 0,
        backbone_name: str = "",
        pretext: PretextTask | None = None,
        pretext_weight: float = 1.0,
    ):
        super().__init__()
        in_features = tuple(in_features)
        available = backbone.output_shape()
        lacking = [name for name in in_features if name not in available]
        if not in_features or lacking:
            raise ValueError(
                f"AGSSP.DISTILL.IN_FEATURES asks for {list(in_features)}, but the backbone has "
                f"{list(available)}. Its outputs are set by MODEL.RESNETS.OUT_FEATURES, "
                "AGSSP.TIMM.OUT_FEATURES or the backbone's own key."
            )
        if len(loss_weights) != len(in_features):
            raise ValueError(
                f"AGSSP.DISTILL.LOSS_WEIGHTS has {len(loss_weights)} values for "
                f"{len(in_features)} features."
            )
        if target_resize not in TARGET_RESIZES:
            raise ValueError(
                f"AGSSP.DISTILL.TARGET_RESIZE is {target_resize!r}. "
                f"Choices: {', '.join(TARGET_RESIZES)}."
            )
        self.backbone = backbone
        self.in_features = in_features
        self.loss_weights = tuple(loss_weights)
        self.target_resize = target_resize
        self.strides = {name: available[name].stride for name in in_features}
        self.input_format = input_format
        self.vis_period = vis_period
        self.backbone_name = backbone_name or type(backbone).__name__
        self.pretext = pretext
        self.pretext_weight = pretext_weight
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1))
        self.register_buffer(self.MARKER, torch.tensor(input_format == "BGR"))

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "in_features": cfg.AGSSP.DISTILL.IN_FEATURES,
            "loss_weights": cfg.AGSSP.DISTILL.LOSS_WEIGHTS,
            "target_resize": cfg.AGSSP.DISTILL.TARGET_RESIZE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "backbone_name": cfg.MODEL.BACKBONE.NAME,
            "pretext": build_pretext(cfg, backbone),
            "pretext_weight": cfg.AGSSP.PRETEXT.WEIGHT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]):
        """In training, a dict of losses, per feature and of the pretext task; else see
        :meth:`inference`.

        Args:
            batched_inputs: dicts with ``image`` (3, H, W), in [0, 255], in the order of
                ``input_format``, and in training ``anomaly_map`` (1, H, W) float32 in [0, 1].

        Raises:
            ValueError: training inputs without ``anomaly_map``.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if not self.training:
            return self.inference(batched_inputs, features, images.image_sizes)
        if any("anomaly_map" not in inputs for inputs in batched_inputs):
            raise ValueError(
                "AnomalyDistiller trains on images with anomaly maps: set AGSSP.MAPPER to "
                "'AnomalyMapMapper' (in a LazyConfig, the train loader's mapper)."
            )
        maps = [inputs["anomaly_map"].to(self.device) for inputs in batched_inputs]
        losses = {
            f"loss_distill_{name}": weight * self._level_loss(name, features[name], maps)
            for name, weight in zip(self.in_features, self.loss_weights, strict=True)
            if weight
        }
        if self.pretext is not None:
            pretext_losses = self.pretext.losses(
                backbone=self.backbone,
                images=images,
                features=features,
                batched_inputs=batched_inputs,
                preprocess=self.preprocess_image,
            )
            for name, loss in pretext_losses.items():
                losses[name] = self.pretext_weight * loss
        if self.vis_period > 0:
            storage = get_event_storage()
            if storage.iter % self.vis_period == 0:
                picture = self._picture(batched_inputs[0], maps[0], features)
                storage.put_image("image, anomaly map, energies", picture)
        return losses

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalises, and pads to one size that the backbone can divide."""
        images = [
            (inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for inputs in batched_inputs
        ]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def inference(self, batched_inputs, features, image_sizes) -> list[dict]:
        """One dict an image: ``energies``, a feature's name -> (h, w) energy of its valid cells."""
        return [
            {
                "energies": {
                    name: channel_energy(self._valid(name, features[name][index], size)[None])[0, 0]
                    for name in self.in_features
                }
            }
            for index, size in enumerate(image_sizes)
        ]

    def _level_loss(self, name: str, features: Tensor, maps: list[Tensor]) -> Tensor:
        sizes = {tuple(anomaly_map.shape[-2:]) for anomaly_map in maps}
        if len(sizes) == 1:
            valid = self._valid(name, features, sizes.pop())
            return distillation_loss(valid, torch.stack(maps), self.target_resize)
        # Images of different sizes were padded to the largest: each is compared without padding.
        losses = [
            distillation_loss(
                self._valid(name, feature, anomaly_map.shape[-2:])[None],
                anomaly_map[None],
                self.target_resize,
            )
            for feature, anomaly_map in zip(features, maps, strict=True)
        ]
        return torch.stack(losses).mean()

    def _valid(self, name: str, feature: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The cells of a feature map (..., h, w) that lie on the image, not on padding."""
        height, width = (-(-side // self.strides[name]) for side in image_size)
        return feature[..., :height, :width]

    @torch.no_grad()
    def _picture(self, inputs: dict, anomaly_map: Tensor, features: dict[str, Tensor]):
        """Image, map and energies side by side: (3, rows, columns) uint8."""
        image = inputs["image"].clamp(0, 255).byte().cpu().numpy().transpose(1, 2, 0)
        if self.input_format == "BGR":
            image = image[:, :, ::-1]
        energies = {}
        for name in self.in_features:
            valid = self._valid(name, features[name][:1], anomaly_map.shape[-2:])
            energies[name] = channel_energy(valid)[0, 0].cpu().numpy()
        panel = anomaly_panel(
            np.ascontiguousarray(image), anomaly_map[0].cpu().numpy(), energies=energies
        )
        return panel.transpose(2, 0, 1)
