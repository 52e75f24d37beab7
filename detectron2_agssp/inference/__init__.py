"""A trained detector in use: predictions on new images."""

from detectron2_agssp.inference.run import Run, open_run

__all__ = ["Run", "open_run"]
