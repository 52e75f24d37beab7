"""``AGSSP.DATALOADER.SOURCE_POWER``: small sources are shown more often than their images say."""

import functools
from collections import Counter
from collections.abc import Sequence

import detectron2.data.build
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler

SAMPLER = "WeightedTrainingSampler"


def source_repeat_factors(sources: Sequence[str], power: float) -> torch.Tensor:
    """How often each image is shown in an epoch that is as long as without.

    An image of a source of n images weighs n^-p, so that the source has n^(1-p) parts of an epoch.

    Args:
        sources: of each image.
        power: p in [0, 1]: 0 shows all images alike, 1 all sources.

    Returns:
        (N,) float32 with the mean 1.
    """
    counts = Counter(sources)
    weights = torch.tensor([counts[source] ** -power for source in sources], dtype=torch.float64)
    return (weights / weights.mean()).float()


def check_source_power(cfg: CfgNode) -> float:
    """``cfg.AGSSP.DATALOADER.SOURCE_POWER``, 0 where there is no such key.

    Raises:
        ValueError: it is out of its range, or the sampler is not the one that it weighs.
    """
    power = cfg.AGSSP.DATALOADER.SOURCE_POWER if "DATALOADER" in cfg.get("AGSSP", {}) else 0.0
    if not 0 <= power <= 1:
        raise ValueError(f"AGSSP.DATALOADER.SOURCE_POWER must be in [0, 1], got {power}.")
    if power and cfg.DATALOADER.SAMPLER_TRAIN != SAMPLER:
        raise ValueError(
            f"AGSSP.DATALOADER.SOURCE_POWER {power} needs DATALOADER.SAMPLER_TRAIN {SAMPLER}, got "
            f"{cfg.DATALOADER.SAMPLER_TRAIN}."
        )
    return power


def install_source_sampler() -> None:
    """Makes Detectron2's weighted sampler weigh by source where the key says so; does nothing the
    second time."""
    original = getattr(detectron2.data.build, "_build_weighted_sampler", None)
    # Older releases of Detectron2 have no such sampler, and refuse its name.
    if original is None or getattr(original, "weighs_sources", False):
        return

    @functools.wraps(original)
    def build(cfg: CfgNode, *args, **kwargs):
        power = check_source_power(cfg)
        if not power:
            return original(cfg, *args, **kwargs)
        # As the loader itself lists them.
        dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        if lacking := sum("source" not in entry for entry in dicts):
            raise ValueError(
                f"AGSSP.DATALOADER.SOURCE_POWER: {lacking} of {len(dicts)} images of "
                f"{', '.join(cfg.DATASETS.TRAIN)} have no source. Map folders have; of labelled "
                "sets, weigh DATASETS.TRAIN_REPEAT_FACTOR."
            )
        factors = source_repeat_factors([entry["source"] for entry in dicts], power)
        return RepeatFactorTrainingSampler(factors, seed=cfg.SEED if cfg.SEED >= 0 else None)

    build.weighs_sources = True
    detectron2.data.build._build_weighted_sampler = build
