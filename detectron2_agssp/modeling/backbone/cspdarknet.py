"""CSPDarknet: cross-stage-partial networks (Wang et al., CVPRW 2020) as YOLO detectors use them.

A stem, four stages, each a strided convolution and a block that splits its channels, refines a part
step by step and concatenates every step, and spatial pyramid pooling (He et al., ECCV 2014) at the
end. Feature names as in Detectron2's ResNet: res2 ... res5 at strides 4 ... 32.
"""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from detectron2_agssp.modeling.backbone.freezing import FrozenStages
from detectron2_agssp.modeling.backbone.pyramid import check_channels
from detectron2_agssp.utils.registry import get_preset

FEATURES = ("res2", "res3", "res4", "res5")
STRIDES = (4, 8, 16, 32)
NORMS = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "FrozenBN": FrozenBatchNorm2d}


@dataclass(frozen=True)
class CSPDarknetSize:
    """Channels of the stem and of each stage, and each stage's number of refining steps."""

    stem: int
    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


SIZES = {
    "nano": CSPDarknetSize(16, (32, 64, 128, 256), (1, 2, 2, 1)),
    "small": CSPDarknetSize(32, (64, 128, 256, 512), (1, 2, 2, 1)),
    "medium": CSPDarknetSize(48, (96, 192, 384, 576), (2, 4, 4, 2)),
    "large": CSPDarknetSize(64, (128, 256, 512, 512), (3, 6, 6, 3)),
}


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm (eps 1e-3) and SiLU; the size is kept but for the stride."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, norm="BN"
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"The NORM of convolutions is {norm!r}. Choices: {', '.join(NORMS)}.")
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.norm = NORMS[norm](out_channels, eps=1e-3)
        self.act = nn.SiLU(inplace=True)


class Refinement(nn.Module):
    """Two 3 x 3 convolutions, added to their input where ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool, norm: str):
        super().__init__()
        self.first = ConvNormAct(channels, channels, 3, norm=norm)
        self.second = ConvNormAct(channels, channels, 3, norm=norm)
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        refined = self.second(self.first(features))
        return features + refined if self.shortcut else refined


class SplitConcatBlock(nn.Module):
    """Splits the channels in two, refines one half ``depth`` times, and fuses all that came up.

    (N, ``in_channels``, H, W) -> (N, ``out_channels``, H, W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, shortcut: bool, norm: str = "BN"
    ):
        super().__init__()
        half = out_channels // 2
        self.split = ConvNormAct(in_channels, 2 * half, norm=norm)
        self.steps = nn.ModuleList(Refinement(half, shortcut, norm) for _ in range(depth))
        self.fuse = ConvNormAct((2 + depth) * half, out_channels, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        parts = list(self.split(features).chunk(2, dim=1))
        for step in self.steps:
            parts.append(step(parts[-1]))
        return self.fuse(torch.cat(parts, dim=1))


class PyramidPooling(nn.Module):
    """Maxima over windows of 5, 9 and 13 cells (three poolings of 5 in a row), beside the input."""

    def __init__(self, channels: int, norm: str = "BN"):
        super().__init__()
        self.reduce = ConvNormAct(channels, channels // 2, norm=norm)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.fuse = ConvNormAct(4 * (channels // 2), channels, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        parts = [self.reduce(features)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.fuse(torch.cat(parts, dim=1))


class CSPDarknet(FrozenStages, Backbone):
    """The network of this module.

    Args:
        size: channels and depths.
        out_features: names in ``FEATURES``; what lies behind the last of them is not built.
        norm: "BN", "SyncBN" across processes, or "FrozenBN" with fixed statistics and affine.
        freeze_at: 0 freezes nothing, 1 the stem, 2 also res2, ... 5 all.

    Raises:
        ValueError: an unknown feature or norm, or ``freeze_at`` out of range.
    """

    def __init__(
        self,
        *,
        size: CSPDarknetSize,
        out_features: tuple[str, ...] = FEATURES,
        norm: str = "BN",
        freeze_at: int = 0,
    ):
        super().__init__()
        unknown = [name for name in out_features if name not in FEATURES]
        if unknown or not out_features:
            raise ValueError(
                f"AGSSP.CSPDARKNET.OUT_FEATURES has {unknown or 'nothing'}; choices: "
                f"{', '.join(FEATURES)}."
            )
        if norm not in NORMS:
            raise ValueError(f"AGSSP.CSPDARKNET.NORM is {norm!r}. Choices: {', '.join(NORMS)}.")
        last = max(FEATURES.index(name) for name in out_features)
        self._out_features = [name for name in FEATURES if name in out_features]
        self._out_feature_strides = dict(zip(FEATURES, STRIDES, strict=True))
        self._out_feature_channels = dict(zip(FEATURES, size.channels, strict=True))
        self.stem = ConvNormAct(3, size.stem, 3, stride=2, norm=norm)
        stages = [[self.stem]]
        in_channels = size.stem
        for index, (channels, depth) in enumerate(zip(size.channels, size.depths, strict=True)):
            if index > last:
                break
            modules = [
                ConvNormAct(in_channels, channels, 3, stride=2, norm=norm),
                SplitConcatBlock(channels, channels, depth, shortcut=True, norm=norm),
            ]
            if FEATURES[index] == "res5":
                modules.append(PyramidPooling(channels, norm=norm))
            stage = nn.Sequential(*modules)
            self.add_module(FEATURES[index], stage)
            stages.append([stage])
            in_channels = channels
        initialize(self)
        self.freeze_stages(stages, freeze_at)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of the largest stride that is returned."""
        return max(self._out_feature_strides[name] for name in self._out_features)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised -> {feature name: (N, C, H / stride, W / stride)}."""
        features = self.stem(images)
        outputs = {}
        for name in FEATURES:
            if not hasattr(self, name):
                break
            features = getattr(self, name)(features)
            if name in self._out_features:
                outputs[name] = features
        return outputs


def initialize(module: nn.Module) -> None:
    """He's initialisation of every convolution below ``module`` (uniform, as for leaky ReLU)."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_uniform_(child.weight, a=5**0.5)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


@BACKBONE_REGISTRY.register()
def build_cspdarknet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CSPDarknet:
    """``AGSSP.CSPDARKNET`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: an unknown preset.
    """
    check_channels(input_shape, "CSPDarknet")
    csp = cfg.AGSSP.CSPDARKNET
    return CSPDarknet(
        size=get_preset(SIZES, csp.SIZE, key="AGSSP.CSPDARKNET.SIZE"),
        out_features=csp.OUT_FEATURES,
        norm=csp.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
