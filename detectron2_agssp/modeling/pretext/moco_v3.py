"""MoCo v3 (Chen et al., ICCV 2021): two views of an image are alike, those of others are not.

N images of a batch on one process; there is no queue, so a batch is all there is to differ from.
"""

import copy
import math

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from detectron2_agssp.modeling.pretext.base import PRETEXT_REGISTRY, PretextTask, last_feature

# The mapper's second view of an image; the first is ``image``.
SECOND_VIEW = "second_image"


@PRETEXT_REGISTRY.register()
class MoCoV3(PretextTask):
    """Symmetric contrastive loss between the two views, against a slowly following copy.

    The mean of the last feature goes through a projector (hidden - output, batch norm after both,
    the last without affine) and, on the side that learns, a predictor of the same kind. The copy
    of backbone and projector is their moving average; its momentum rises from ``momentum`` to 1 by
    a cosine over ``num_iterations``.

    Args:
        backbone: its copy starts from the weights that it has at the first training step.
        hidden_channels, out_channels: of projector and predictor.
        momentum: of the copy at the start, in [0, 1].
        temperature: of the softmax over similarities.
        num_iterations: of the training.

    Raises:
        ValueError: a momentum or temperature out of range.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        hidden_channels: int = 4096,
        out_channels: int = 256,
        momentum: float = 0.99,
        temperature: float = 1.0,
        num_iterations: int,
    ):
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"AGSSP.PRETEXT.MOCO.MOMENTUM must be in [0, 1], got {momentum}.")
        if temperature <= 0:
            raise ValueError(f"AGSSP.PRETEXT.MOCO.TEMPERATURE must be positive, got {temperature}.")
        self.in_feature = last_feature(backbone)
        channels = backbone.output_shape()[self.in_feature].channels
        self.projector = _mlp(channels, hidden_channels, out_channels)
        self.predictor = _mlp(out_channels, hidden_channels, out_channels)
        self.slow = SlowCopy(backbone, self.projector)
        self.momentum, self.temperature = momentum, temperature
        self.num_iterations = num_iterations
        # In the state dict, so that a resumed run goes on with its copy and momentum.
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: Backbone) -> "MoCoV3":
        settings = cfg.AGSSP.PRETEXT.MOCO
        return cls(
            backbone=backbone,
            hidden_channels=settings.HIDDEN_CHANNELS,
            out_channels=settings.OUT_CHANNELS,
            momentum=settings.MOMENTUM,
            temperature=settings.TEMPERATURE,
            num_iterations=cfg.SOLVER.MAX_ITER,
        )

    def losses(
        self, *, backbone, images, features, batched_inputs, preprocess
    ) -> dict[str, Tensor]:
        """``loss_moco``.

        Raises:
            ValueError: inputs without a second view, or a batch of one image.
        """
        if any(SECOND_VIEW not in inputs for inputs in batched_inputs):
            raise ValueError(
                "MoCoV3 needs two views of each image: set AGSSP.MAPPER to 'TwoViewMapper'."
            )
        if len(batched_inputs) < 2:
            raise ValueError(
                "MoCoV3 tells the images of a batch apart and needs two or more on each GPU: set "
                "SOLVER.IMS_PER_BATCH higher."
            )
        second = preprocess([{"image": inputs[SECOND_VIEW]} for inputs in batched_inputs]).tensor
        with torch.no_grad():
            self.slow.follow(
                backbone, self.projector, self.current_momentum() if self.step > 0 else 0.0
            )
            self.step += 1
            keys = [
                self.slow.projector(self._pool(self.slow.backbone(view)))
                for view in (images.tensor, second)
            ]
        queries = [
            self.predictor(self.projector(self._pool(outputs)))
            for outputs in (features, backbone(second))
        ]
        loss = self.contrast(queries[0], keys[1]) + self.contrast(queries[1], keys[0])
        return {"loss_moco": loss}

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Cross entropy of finding each query's own among the keys of all processes, times twice
        the temperature.

        Args:
            queries, keys: (N, D), in the same order.
        """
        queries, keys = (F.normalize(x.float(), dim=1) for x in (queries, keys))
        first = 0
        if comm.get_world_size() > 1:
            first = len(keys) * comm.get_rank()
            keys = torch.cat(all_gather(keys))
        logits = queries @ keys.T / self.temperature
        labels = first + torch.arange(len(queries), device=queries.device)
        return 2 * self.temperature * F.cross_entropy(logits, labels)

    def current_momentum(self) -> float:
        """Of the copy at the present step."""
        progress = min(self.step.item() / max(self.num_iterations, 1), 1.0)
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    def _pool(self, outputs: dict[str, Tensor]) -> Tensor:
        return outputs[self.in_feature].mean(dim=(2, 3))


class SlowCopy(nn.Module):
    """A backbone and a projector that follow others, without gradients.

    Its names in a state dict have no dots but the first: Detectron2 matches exported weights to all
    names that end in theirs, and would find this backbone beside the one that is trained.
    """

    def __init__(self, backbone: Backbone, projector: nn.Module):
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.projector = copy.deepcopy(projector)
        self.requires_grad_(False)
        self.register_state_dict_post_hook(_join_names)
        self.register_load_state_dict_pre_hook(_part_names)

    @torch.no_grad()
    def follow(self, backbone: Backbone, projector: nn.Module, momentum: float) -> None:
        """Moves the parameters by 1 - ``momentum`` of the way; with 0, onto what they follow,
        statistics of batch norms included."""
        for slow, fast in ((self.backbone, backbone), (self.projector, projector)):
            if momentum == 0:
                slow.load_state_dict(fast.state_dict())
                continue
            for followed, parameter in zip(slow.parameters(), fast.parameters(), strict=True):
                followed.lerp_(parameter, 1 - momentum)


def _join_names(_module, state: dict, prefix: str, _metadata) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + name[len(prefix) :].replace(".", "/")] = state.pop(name)


def _part_names(_module, state: dict, prefix: str, *_) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + name[len(prefix) :].replace("/", ".")] = state.pop(name)


def _mlp(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_channels, hidden_channels, bias=False),
        nn.BatchNorm1d(hidden_channels),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_channels, out_channels, bias=False),
        nn.BatchNorm1d(out_channels, affine=False),
    )
