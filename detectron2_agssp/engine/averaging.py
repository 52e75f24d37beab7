"""An exponential moving average of a model's weights (EMA), to be evaluated and saved at the end.

It reaches back over the last ninth or so of the iterations so far, until that is as long as the
decay allows, so that it suits short runs, too.
"""

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from detectron2_agssp.utils.moving_average import decay_of


class WeightAverage:
    """Moving averages of a model's floating-point tensors, statistics of batch norms included.

    Args:
        model: not wrapped for distributed training.
        decay: at most, per update, in (0, 1); less in the first updates.

    Raises:
        ValueError: ``decay`` out of its range.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"AGSSP.SOLVER.EMA_DECAY must be in [0, 1), got {decay}.")
        self.model = model
        self.decay = decay
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self.is_exchanged = False

    def _tensors(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's tensors in; the first time they are the average."""
        own = self._tensors()
        if not self.average:
            self.average = {name: tensor.clone() for name, tensor in own.items()}
        decay = decay_of(self.updates, self.decay)
        for name, tensor in own.items():
            self.average[name].lerp_(tensor, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def exchange(self) -> None:
        """The model gets the average, and what it had is kept until the next call."""
        for name, tensor in self._tensors().items():
            kept = tensor.clone()
            tensor.copy_(self.average[name])
            self.average[name].copy_(kept)
        self.is_exchanged = not self.is_exchanged

    def state_dict(self) -> dict:
        """Nothing while the model has the average: what goes on from there starts a new one."""
        if self.is_exchanged:
            return {"updates": 0, "average": {}}
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        own = self._tensors()
        self.average = {name: t.to(own[name].device) for name, t in state["average"].items()}


class AverageWeights(HookBase):
    """Updates the average after each iteration; after the last one the model gets it for good.

    It has to come before the hook that writes ``model_final.pth``.
    """

    def __init__(self, average: WeightAverage):
        self.average = average

    def after_step(self) -> None:
        self.average.update()
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self.average.exchange()


class ExchangeWeights(HookBase):
    """Stands before and after the hooks that evaluate and keep the best model, within training, so
    that they see the average.

    Args:
        period: iterations between evaluations.
    """

    def __init__(self, average: WeightAverage, period: int):
        self.average = average
        self.period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self.average.exchange()
