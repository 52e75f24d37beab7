"""The registry of anomaly scorers."""

import torch
from detectron2.utils.registry import Registry

from detectron2_agssp.scoring.base import AnomalyScorer, resolve_device
from detectron2_agssp.utils.registry import get_registered

ANOMALY_SCORER_REGISTRY = Registry("ANOMALY_SCORER")
ANOMALY_SCORER_REGISTRY.__doc__ = """
Anomaly scorers, by the name in ``AGSSP.SCORER.NAME``. A registered callable takes a config and
returns an :class:`AnomalyScorer`.
"""


def build_anomaly_scorer(cfg) -> AnomalyScorer:
    """Builds ``cfg.AGSSP.SCORER.NAME`` on ``cfg.AGSSP.SCORER.DEVICE``, in evaluation mode.

    Raises:
        ValueError: the name is not registered (the message lists what is), or the device is not
            there.
    """
    name = cfg.AGSSP.SCORER.NAME
    scorer_class = get_registered(ANOMALY_SCORER_REGISTRY, name, key="AGSSP.SCORER.NAME")
    device = resolve_device(cfg.AGSSP.SCORER.DEVICE)
    # Random weights (AGSSP.SCORER.WEIGHTS "") are the same each time, or no run could be resumed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.AGSSP.SCORER.SEED)
        scorer = scorer_class(cfg)
    return scorer.to(device).eval()
