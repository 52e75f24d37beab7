"""The patch features that a config asks for."""

from detectron2_agssp.scoring.patch_features import PatchFeatures, TimmPatchFeatures

FEATURE_SOURCES = ("timm", "detectron2", "clip")


def build_patch_features(cfg, *, center: bool | None = None) -> PatchFeatures:
    """Builds ``cfg.AGSSP.SCORER.FEATURES``.

    Args:
        cfg: see ``AGSSP.SCORER``.
        center: by default ``AGSSP.SCORER.CENTER``.

    Raises:
        ValueError: unknown source, model, level or precision (the choices are listed).
    """
    scorer = cfg.AGSSP.SCORER
    settings = {
        "pool_size": scorer.POOL_SIZE,
        "center": scorer.CENTER if center is None else center,
        "precision": scorer.PRECISION,
    }
    if scorer.FEATURES == "timm":
        return TimmPatchFeatures(
            model=scorer.MODEL,
            weights=scorer.WEIGHTS,
            strides=scorer.STRIDES,
            blocks=scorer.BLOCKS,
            **settings,
        )
    if scorer.FEATURES == "detectron2":
        from detectron2_agssp.scoring.backbone_features import (
            BackbonePatchFeatures,
            load_backbone,
        )

        return BackbonePatchFeatures(
            backbone=load_backbone(cfg),
            in_features=scorer.IN_FEATURES,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            pixel_format=cfg.INPUT.FORMAT,
            **settings,
        )
    if scorer.FEATURES == "clip":
        from detectron2_agssp.scoring.kead.clip_features import ClipPatchFeatures
        from detectron2_agssp.scoring.kead.clip_model import load_clip

        clip = load_clip(
            scorer.KEAD.MODEL, scorer.KEAD.PRETRAINED, allow_download=scorer.KEAD.ALLOW_DOWNLOAD
        )
        return ClipPatchFeatures(clip=clip, feature_layers=scorer.KEAD.FEATURE_LAYERS, **settings)
    raise ValueError(
        f"AGSSP.SCORER.FEATURES is {scorer.FEATURES!r}. Choices: {', '.join(FEATURE_SOURCES)}."
    )
