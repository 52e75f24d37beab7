"""A scorer without a network, by the name "quick": for tests of everything around scorers."""

from detectron2_agssp.scoring import ANOMALY_SCORER_REGISTRY
from tests.scoring.third_party import Brightness


# Imported by child processes too, so not by a fixture.
@ANOMALY_SCORER_REGISTRY.register()
def quick(cfg) -> Brightness:
    return Brightness()
