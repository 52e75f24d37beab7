"""Which source an image is of: the paper's task beside AGBP of ResNet-50 and CSPDarknet."""

import contextlib
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import Backbone
from torch import Tensor, nn

from detectron2_agssp.modeling.pretext.base import PRETEXT_REGISTRY, PretextTask, last_feature

logger = logging.getLogger(__name__)


@PRETEXT_REGISTRY.register()
class SourceClassification(PretextTask):
    """Cross entropy over the sources, from the mean of the last feature.

    Args:
        channels: of the feature.
        in_feature: its name.
        sources: names as in the ``source`` of the inputs. With fewer than two there is nothing to
            tell apart: the loss is 0, and a warning says so.
    """

    def __init__(self, *, channels: int, in_feature: str, sources: Sequence[str]):
        super().__init__()
        self.sources = {name: index for index, name in enumerate(sorted(set(sources)))}
        if len(self.sources) < 2:
            logger.warning(
                "SourceClassification has nothing to learn: the images are of %s. A source is an "
                "image's first folder: map a folder of folders, train on several data sets "
                "(DATASETS.TRAIN), or set AGSSP.PRETEXT.NAME to ''.",
                f"one source, {next(iter(self.sources))!r}" if self.sources else "no source",
            )
        self.in_feature = in_feature
        self.classifier = nn.Linear(channels, max(len(self.sources), 1))

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: Backbone) -> "SourceClassification":
        """The sources are those of ``DATASETS.TRAIN``, as far as these data sets are there: a
        model can be built without its data."""
        name = last_feature(backbone)
        sources = []
        for data in cfg.DATASETS.TRAIN:
            with contextlib.suppress(KeyError, FileNotFoundError):
                sources += [image["source"] for image in DatasetCatalog.get(data)]
        channels = backbone.output_shape()[name].channels
        return cls(channels=channels, in_feature=name, sources=sources)

    def losses(
        self, *, backbone, images, features, batched_inputs, preprocess
    ) -> dict[str, Tensor]:
        """``loss_source``, the mean over the images.

        Raises:
            ValueError: an input of another source.
        """
        unknown = {inputs.get("source") for inputs in batched_inputs} - set(self.sources)
        if unknown:
            raise ValueError(
                f"Images of the sources {sorted(map(str, unknown))} are not among those that "
                f"SourceClassification was built for: {', '.join(self.sources)}."
            )
        feature = features[self.in_feature]
        labels = [self.sources[inputs["source"]] for inputs in batched_inputs]
        # Under autocast they have half the digits.
        logits = self.classifier(feature.mean(dim=(2, 3))).float()
        return {"loss_source": F.cross_entropy(logits, torch.tensor(labels, device=logits.device))}
