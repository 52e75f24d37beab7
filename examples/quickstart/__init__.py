"""``make quickstart``: the whole method on a synthetic sample, or on the user's own images."""

from examples.quickstart.pipeline import run_on_images, run_on_sample

__all__ = ["run_on_images", "run_on_sample"]
