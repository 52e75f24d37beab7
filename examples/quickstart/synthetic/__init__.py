"""Procedural images of metal surfaces with defects, for demonstrations and tests.

The images are synthetic. They show that a pipeline runs; they say nothing about its accuracy on
real metal.
"""

from detectron2_agssp.scoring.synthetic.defects import CLASSES
from examples.quickstart.synthetic.generate import generate_sample_dataset
from examples.quickstart.synthetic.surfaces import SURFACES

__all__ = ["CLASSES", "SURFACES", "generate_sample_dataset"]
