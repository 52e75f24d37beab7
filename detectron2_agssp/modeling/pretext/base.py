"""What a pretext task is, and which there are."""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from detectron2_agssp.utils.registry import get_registered

PRETEXT_REGISTRY = Registry("AGSSP_PRETEXT")
PRETEXT_REGISTRY.__doc__ = """
Pretext tasks, by the name in ``AGSSP.PRETEXT.NAME``. A registered class has
``from_config(cfg, backbone)``, which returns a :class:`PretextTask`.
"""


class PretextTask(nn.Module):
    """A task that the backbone learns beside the distillation; its heads stay out of exports."""

    def losses(
        self,
        *,
        backbone: Backbone,
        images: ImageList,
        features: dict[str, Tensor],
        batched_inputs: list[dict],
        preprocess: Callable[[list[dict]], ImageList],
    ) -> dict[str, Tensor]:
        """The losses of a batch, by name, without their weight.

        Args:
            backbone: that is trained.
            images: N normalised, padded images.
            features: what ``backbone`` makes of them, name -> (N, C, h, w).
            batched_inputs: N dicts of the mapper.
            preprocess: makes normalised images of dicts with ``image`` (3, H, W) in [0, 255].
        """
        raise NotImplementedError


def build_pretext(cfg: CfgNode, backbone: Backbone) -> PretextTask | None:
    """The task that ``AGSSP.PRETEXT.NAME`` names, for ``backbone``; None for "".

    Raises:
        ValueError: the name is not registered (the message lists what is), or the task cannot be
            done with this backbone.
    """
    name = cfg.AGSSP.PRETEXT.NAME
    if not name:
        return None
    task = get_registered(PRETEXT_REGISTRY, name, key="AGSSP.PRETEXT.NAME")
    return task.from_config(cfg, backbone)


def last_feature(backbone: Backbone) -> str:
    """The name of the output with the largest stride, which tasks on whole images read."""
    shapes = backbone.output_shape()
    return max(shapes, key=lambda name: shapes[name].stride)
