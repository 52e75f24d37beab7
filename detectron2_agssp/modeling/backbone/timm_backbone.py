"""timm models as Detectron2 backbones.

Feature names follow Detectron2's ResNet, by stride in pixels: ``stem`` 2, ``res2`` 4, ``res3`` 8,
``res4`` 16, ``res5`` 32; so detector configs need no other change. Plain Vision Transformers have
one level, ``last_feat``, as Detectron2's ViT calls it.
"""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from detectron2_agssp.modeling.backbone.freezing import NUM_STAGES, check_freeze_at
from detectron2_agssp.modeling.backbone.pyramid import build_pyramid, check_channels
from detectron2_agssp.modeling.backbone.timm_models import (
    LAST_FEATURE,
    create_feature_extractor,
    feature_maps,
    is_plain,
)

STRIDE_OF_FEATURE = {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
NORMS = ("", "FrozenBN", "SyncBN")


class TimmBackbone(Backbone):
    """A timm feature extractor with named outputs, frozen stages and a choice of norm.

    Args:
        model: a timm model name that supports ``features_only``.
        weights: see :func:`~detectron2_agssp.modeling.backbone.timm_models.load_timm_weights`.
        out_features: names in ``STRIDE_OF_FEATURE``, or ``last_feat`` alone, the deepest.
        norm: "" keeps the model's, "FrozenBN" fixes statistics and affine of every batch norm,
            "SyncBN" shares statistics across processes.
        freeze_at: 0 freezes nothing, 1 the stem (all layers up to stride 2), 2 also res2, ... 5
            all; in a plain Vision Transformer each stage after the stem is a quarter of the blocks.
            Frozen layers get no gradient, and their batch norms no new statistics.

    Raises:
        ValueError: unknown model, feature or norm, a norm that the model has none of, or
            ``freeze_at`` out of range.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str = "",
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        norm: str = "FrozenBN",
        freeze_at: int = 0,
    ):
        super().__init__()
        last_alone = tuple(out_features) == (LAST_FEATURE,)
        unknown = [name for name in out_features if name not in STRIDE_OF_FEATURE]
        if not last_alone and (unknown or not out_features):
            raise ValueError(
                f"AGSSP.TIMM.OUT_FEATURES has {unknown or 'nothing'}; choices: "
                f"{', '.join(STRIDE_OF_FEATURE)}, or {LAST_FEATURE} alone."
            )
        strides = () if last_alone else sorted(STRIDE_OF_FEATURE[name] for name in out_features)
        extractor = create_feature_extractor(model, weights=weights, strides=tuple(strides))
        name_of_stride = {stride: name for name, stride in STRIDE_OF_FEATURE.items()}
        if last_alone:
            name_of_stride = dict.fromkeys(extractor.strides, LAST_FEATURE)
        self.model_name = model
        self.weights = weights
        self.net = extractor.net
        self._names = [name_of_stride[stride] for stride in extractor.strides]
        self._out_features = [name for name in self._names if name in out_features]
        self._out_feature_strides = dict(zip(self._names, extractor.strides, strict=True))
        self._out_feature_channels = dict(zip(self._names, extractor.channels, strict=True))
        self._freeze_stages(freeze_at)
        self._set_norm(norm)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of the largest stride: some models need whole cells."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W), normalised -> {feature name: (N, C, H / stride, W / stride)}."""
        return dict(zip(self._names, feature_maps(self.net, images), strict=True))

    def _freeze_stages(self, freeze_at: int) -> None:
        check_freeze_at(freeze_at)
        if freeze_at == 0:
            return
        # timm registers modules in the order of the forward pass.
        parameters = list(self.net.parameters())
        if freeze_at < NUM_STAGES:
            parameters = parameters[: _num_frozen_parameters(self.net, freeze_at)]
        for parameter in parameters:
            parameter.requires_grad_(False)
        for name, module in _batch_norms(self.net):
            if not any(parameter.requires_grad for parameter in module.parameters()):
                _replace(self.net, name, _frozen(module))

    def _set_norm(self, norm: str) -> None:
        if norm not in NORMS:
            choices = ", ".join(map(repr, NORMS))
            raise ValueError(f"AGSSP.TIMM.NORM is {norm!r}. Choices: {choices}.")
        if not norm:
            return
        batch_norms = _batch_norms(self.net)
        if not batch_norms and not _has_frozen_batch_norm(self.net):
            raise ValueError(
                f"AGSSP.TIMM.NORM is {norm!r}, but timm's {self.model_name!r} has no batch norm; "
                "set it to '' to keep the model's own norm."
            )
        if norm == "SyncBN":
            from timm.layers import convert_sync_batchnorm

            self.net = convert_sync_batchnorm(self.net)
            return
        for name, module in batch_norms:
            _replace(self.net, name, _frozen(module))


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape: ShapeSpec) -> TimmBackbone:
    """``AGSSP.TIMM`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    check_channels(input_shape, "A timm backbone")
    return TimmBackbone(
        model=cfg.AGSSP.TIMM.MODEL,
        weights=cfg.AGSSP.TIMM.WEIGHTS,
        out_features=cfg.AGSSP.TIMM.OUT_FEATURES,
        norm=cfg.AGSSP.TIMM.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid on :func:`build_timm_backbone`, by ``MODEL.FPN``."""
    return build_pyramid(cfg, build_timm_backbone(cfg, input_shape), "AGSSP.TIMM.OUT_FEATURES")


def _num_frozen_parameters(net: nn.Module, freeze_at: int) -> int:
    """How many of the net's parameters belong to the layers up to stride 2 ** ``freeze_at``; where
    the model has no feature at a stride that small (Swin, ConvNeXt), those before its first
    stage."""
    info = net.feature_info.info
    reaching = [feature["module"] for feature in info if feature["reduction"] <= 2**freeze_at]
    if is_plain(net):
        blocks = len(info) * (freeze_at - 1) // (NUM_STAGES - 1)
        reaching = [feature["module"] for feature in info[:blocks]]
    if not reaching:
        return _span(net, info[0]["module"])[0]
    return max(_span(net, module)[1] for module in reaching)


def _span(net: nn.Module, module: str) -> tuple[int, int]:
    """How many of the net's parameters are registered before ``module``, and up to its end: it may
    have none itself (ResNet's stem ends with an activation). (0, 0) if the net lacks it."""
    # timm's feature lists flatten "stages.0" to "stages_0", or nest all under "model".
    prefixes = tuple(f"{alias}." for alias in (module, module.replace(".", "_"), f"model.{module}"))
    count, start, end = 0, None, 0
    for name, child in net.named_modules():
        inside = f"{name}.".startswith(prefixes)
        if inside and start is None:
            start = count
        count += sum(1 for _ in child.parameters(recurse=False))
        if inside:
            end = count
    return start or 0, end


def _batch_norms(net: nn.Module) -> list[tuple[str, nn.Module]]:
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return [(name, module) for name, module in net.named_modules() if isinstance(module, kinds)]


def _has_frozen_batch_norm(net: nn.Module) -> bool:
    return any("FrozenBatchNorm" in type(module).__name__ for module in net.modules())


def _frozen(batch_norm: nn.Module) -> nn.Module:
    # timm's own conversion: its batch norms may hold an activation, which Detectron2's would drop.
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(batch_norm)


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(net.get_submodule(parent), attribute, module)
