"""Stages of a backbone that stay as they are, by Detectron2's ``MODEL.BACKBONE.FREEZE_AT``."""

from collections.abc import Sequence

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

# The stem and res2 ... res5.
NUM_STAGES = 5


def check_freeze_at(freeze_at: int) -> None:
    """ValueError where ``freeze_at`` is no number of stages."""
    if not 0 <= freeze_at <= NUM_STAGES:
        raise ValueError(f"MODEL.BACKBONE.FREEZE_AT must be 0 to {NUM_STAGES}, got {freeze_at}.")


class FrozenStages(nn.Module):
    """A backbone whose first stages neither learn nor change in training mode.

    ``FREEZE_AT``: 0 freezes nothing, 1 the stem, 2 also res2, ... 5 all. A frozen module gets no
    gradient, stays in evaluation mode whatever :meth:`train` is told (dropout and stochastic depth
    are off), and its batch norms keep their statistics. Mixed in before
    :class:`~detectron2.modeling.Backbone`.
    """

    _frozen_modules: tuple[nn.Module, ...] = ()

    def freeze_stages(self, stages: Sequence[Sequence[nn.Module]], freeze_at: int) -> None:
        """Freezes the first ``freeze_at`` of ``stages``, each the modules of one, the stem's first.

        Raises:
            ValueError: there are fewer stages, or ``freeze_at`` is negative.
        """
        check_freeze_at(freeze_at)
        modules = [module for stage in stages[:freeze_at] for module in stage]
        for module in modules:
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            # In place: what is no batch norm itself is returned as it is.
            FrozenBatchNorm2d.convert_frozen_batchnorm(module)
        self._frozen_modules = tuple(modules)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self._frozen_modules:
            module.eval()
        return self
