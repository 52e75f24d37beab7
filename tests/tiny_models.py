"""Small configs and models for tests: random weights, CPU, tiny images."""

from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import Backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

import detectron2_agssp  # noqa: F401  (adds the AGSSP node)

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"

# Few channels wherever a config names their number. Keys that a model does not use do no harm.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "AGSSP.PRETEXT.NAME": "",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.CONV_DIMS": [16],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.RETINANET.NUM_CONVS": 1,
}
# A ResNet-50 in depth; a tenth of it in width.
SMALL_R50 = {
    **SMALL,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
}
R18 = {**SMALL, "MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
# Any timm model, with random weights unless the config says otherwise.
SMALL_TIMM = {**SMALL, "AGSSP.TIMM.MODEL": "resnet18", "AGSSP.TIMM.WEIGHTS": ""}


def make_cfg(path: str | Path, *settings: dict) -> CfgNode:
    """A shipped config (its path below ``configs/``) or another file, with overrides in order."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / path))
    for overrides in settings:
        for key, value in overrides.items():
            cfg.merge_from_list([key, value])
    return cfg


def make_model(path: str | Path, *settings: dict, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(make_cfg(path, *settings))


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> None:
    """Gives every tensor of the state dict numbers of its own, statistics of norms included."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.05)


class AverageBackbone(Backbone):
    """Cell means through 1x1 convolutions: a cell sees its own pixels only, so that padding and
    neighbours cannot leak into it."""

    def __init__(self, strides: dict[str, int], channels: int = 4):
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(3, channels, 1) for name in strides})
        self._out_features = list(strides)
        self._out_feature_strides = dict(strides)
        self._out_feature_channels = dict.fromkeys(strides, channels)

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def forward(self, images):
        return {
            name: conv(nn.functional.avg_pool2d(images, self._out_feature_strides[name]))
            for name, conv in self.convs.items()
        }


def map_inputs(*sizes: tuple[int, int], seed: int = 0) -> list[dict]:
    """Inputs of an AnomalyDistiller of the given (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "anomaly_map": torch.rand(1, *size, generator=generator),
        }
        for size in sizes
    ]


def detection_inputs(
    *sizes: tuple[int, int], num_boxes: int = 2, masks: bool = False
) -> list[dict]:
    """Inputs of a detector of the given (height, width), every box of class 0; with ``masks``, the
    boxes without their last rows."""
    inputs = []
    for sample in map_inputs(*sizes):
        height, width = sample["image"].shape[-2:]
        instances = Instances((height, width))
        box = torch.tensor([4.0, 4.0, width / 2, height / 2])
        instances.gt_boxes = Boxes(box + torch.arange(num_boxes)[:, None])
        instances.gt_classes = torch.zeros(num_boxes, dtype=torch.int64)
        if masks:
            filled = torch.zeros(num_boxes, height, width, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(filled, instances.gt_boxes.tensor.int(), strict=True):
                mask[y0 : y1 - 4, x0:x1] = True
            instances.gt_masks = BitMasks(filled)
        inputs.append(
            {"image": sample["image"], "instances": instances, "height": height, "width": width}
        )
    return inputs


def copy_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
