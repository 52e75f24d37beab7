"""The registry of anomaly scorers."""

import torch
from detectron2.utils.registry import Registry

from detectron2_agssp.scoring.base import FIT_SAMPLES, AnomalyScorer, resolve_device
from detectron2_agssp.scoring.per_source import PerSourceScorer, can_fit_per_source
from detectron2_agssp.utils.registry import get_registered

ANOMALY_SCORER_REGISTRY = Registry("ANOMALY_SCORER")
ANOMALY_SCORER_REGISTRY.__doc__ = """
Anomaly scorers, by the name in ``AGSSP.SCORER.NAME``. A registered callable takes a config and
returns an :class:`AnomalyScorer`, whose docstring says how to write one.
"""


def build_anomaly_scorer(cfg) -> AnomalyScorer:
    """Builds ``cfg.AGSSP.SCORER.NAME`` on ``cfg.AGSSP.SCORER.DEVICE``, in evaluation mode; fitted
    per source if ``cfg.AGSSP.SCORER.PER_SOURCE`` says so and it learns anything of a folder.

    Raises:
        ValueError: the name is not registered (the message lists what is), what is registered is
            no complete scorer, or the device is not there.
    """
    name = cfg.AGSSP.SCORER.NAME
    scorer_class = get_registered(ANOMALY_SCORER_REGISTRY, name, key="AGSSP.SCORER.NAME")
    device = resolve_device(cfg.AGSSP.SCORER.DEVICE)
    # Random weights (AGSSP.SCORER.WEIGHTS "") are the same each time, or no run could be resumed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.AGSSP.SCORER.SEED)
        scorer = scorer_class(cfg)
    _check_scorer(name, scorer)
    scorer = scorer.to(device)
    if cfg.AGSSP.SCORER.PER_SOURCE and can_fit_per_source(scorer):
        scorer = PerSourceScorer(scorer=scorer)
    return scorer.eval()


def _check_scorer(name: str, scorer: AnomalyScorer) -> None:
    """Raises ValueError unless a registered scorer says what map folders ask of it."""
    if not isinstance(scorer, AnomalyScorer):
        raise ValueError(
            f"The scorer {name!r} is a {type(scorer).__name__}: what is registered in "
            "ANOMALY_SCORER_REGISTRY must return an AnomalyScorer."
        )
    if scorer.fit_sample not in FIT_SAMPLES:
        raise ValueError(
            f"The scorer {name!r} has fit_sample {scorer.fit_sample!r}. Choices: "
            f"{', '.join(FIT_SAMPLES)}."
        )
    if scorer.fit_sample == "per_source" and scorer.images_per_source < 1:
        raise ValueError(
            f"The scorer {name!r} fits per source and must say of how many images at most: "
            f"images_per_source is {scorer.images_per_source}."
        )
    if getattr(scorer, "image_size", 0) < 1:
        raise ValueError(
            f"The scorer {name!r} has no image_size: set it to the side, in pixels, of the square "
            "that images are resized to."
        )
