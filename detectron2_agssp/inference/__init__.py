"""A trained detector in use: predictions on new images, exports."""

from detectron2_agssp.inference.export import export_detector
from detectron2_agssp.inference.run import Run, open_run

__all__ = ["Run", "export_detector", "open_run"]
