"""Image -> anomaly map: scorers, their registry and patch features."""

from detectron2_agssp.scoring.base import AnomalyScorer, AnomalyScores
from detectron2_agssp.scoring.build import ANOMALY_SCORER_REGISTRY, build_anomaly_scorer
from detectron2_agssp.scoring.energy import EnergyScorer
from detectron2_agssp.scoring.ensemble import EnsembleScorer
from detectron2_agssp.scoring.kead.scorer import KeadScorer
from detectron2_agssp.scoring.mahalanobis import MahalanobisScorer
from detectron2_agssp.scoring.memory import MemoryScorer
from detectron2_agssp.scoring.mutual import MutualScorer
from detectron2_agssp.scoring.patch_features import TimmPatchFeatures
from detectron2_agssp.scoring.per_source import PerSourceScorer
from detectron2_agssp.scoring.synthetic.scorer import SyntheticScorer

__all__ = [
    "ANOMALY_SCORER_REGISTRY",
    "AnomalyScorer",
    "AnomalyScores",
    "EnergyScorer",
    "EnsembleScorer",
    "KeadScorer",
    "MahalanobisScorer",
    "MemoryScorer",
    "MutualScorer",
    "PerSourceScorer",
    "SyntheticScorer",
    "TimmPatchFeatures",
    "build_anomaly_scorer",
]
