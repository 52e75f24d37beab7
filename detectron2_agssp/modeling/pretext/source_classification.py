"""Which source an image is of: the paper's task beside AGBP of ResNet-50 and CSPDarknet."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import Backbone
from torch import Tensor, nn

from detectron2_agssp.modeling.pretext.base import PRETEXT_REGISTRY, PretextTask, last_feature


@PRETEXT_REGISTRY.register()
class SourceClassification(PretextTask):
    """Cross entropy over the sources, from the mean of the last feature.

    Args:
        channels: of the feature.
        in_feature: its name.
        sources: names as in the ``source`` of the inputs.

    Raises:
        ValueError: fewer than two sources.
    """

    def __init__(self, *, channels: int, in_feature: str, sources: Sequence[str]):
        super().__init__()
        self.sources = {name: index for index, name in enumerate(sorted(set(sources)))}
        if len(self.sources) < 2:
            raise ValueError(
                f"SourceClassification needs images of two sources or more, got "
                f"{list(self.sources)}. A source is an image's first folder: map a folder of "
                "folders, train on several data sets (DATASETS.TRAIN), or set AGSSP.PRETEXT.NAME "
                "to ''."
            )
        self.in_feature = in_feature
        self.classifier = nn.Linear(channels, len(self.sources))

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: Backbone) -> "SourceClassification":
        """The sources are those of ``DATASETS.TRAIN``."""
        name = last_feature(backbone)
        return cls(
            channels=backbone.output_shape()[name].channels,
            in_feature=name,
            sources=[
                image["source"] for data in cfg.DATASETS.TRAIN for image in DatasetCatalog.get(data)
            ],
        )

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
        logits = self.classifier(feature.mean(dim=(2, 3)))
        return {"loss_source": F.cross_entropy(logits, torch.tensor(labels, device=logits.device))}
