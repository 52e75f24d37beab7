"""A folder of anomaly maps on disk, and how it is made."""

from detectron2_agssp.maps.calibration import Calibration
from detectron2_agssp.maps.generate import generate_anomaly_maps
from detectron2_agssp.maps.store import MapStore, load_map

__all__ = ["Calibration", "MapStore", "generate_anomaly_maps", "load_map"]
