"""A zoo of small weights, in a folder of the test's own."""

from contextlib import contextmanager
from pathlib import Path

from detectron2_agssp.checkpoint.half import write_half
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.io.zoo_files import install_zoo_handler
from tests.tiny_models import SMALL_TIMM, make_model, randomize

SMALL_MOBILE = {**SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}


@contextmanager
def small_zoo(root: Path, *settings: dict, config: str = "agdp/faster_rcnn_lite0_fpn.yaml"):
    """While it is open, ``agssp://zoo/detector.pth`` and ``.../backbone.pth`` are a detector of
    AGDP (one class), with numbers of its own in every tensor, and its backbone."""
    model = make_model(config, SMALL_MOBILE, *settings)
    randomize(model)
    CheckedCheckpointer(model, str(root)).save("model_final")
    for name in ("detector", "backbone"):
        made = write_half(
            root / "model_final.pth", root / "zoo" / f"{name}.pth", backbone=name == "backbone"
        )
    install_zoo_handler(made.path.parent)
    try:
        yield made.path.parent
    finally:
        install_zoo_handler()
