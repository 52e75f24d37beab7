"""Training samples that both of this package's own detectors are tried on."""

import torch
from detectron2.structures import Boxes, Instances


def with_boxes_without_area(sample: dict) -> dict:
    """The sample with four more boxes, that nothing can be learnt of."""
    flat = Instances(sample["instances"].image_size)
    nan = [float("nan")] * 4
    flat.gt_boxes = Boxes(torch.tensor([[4.0, 4, 4, 30], [9, 9, 20, 9], [30, 30, 20, 20], nan]))
    flat.gt_classes = torch.zeros(4, dtype=torch.int64)
    return {**sample, "instances": Instances.cat([sample["instances"], flat])}


def said_of_area(caplog) -> list[str]:
    """What the log says of boxes without area."""
    messages = (record.getMessage() for record in caplog.records)
    return [message for message in messages if "no area" in message]


def with_scores(sample: dict, *scores: float) -> dict:
    """The sample with ``gt_scores`` of its boxes."""
    instances = sample["instances"]
    scored = Instances(instances.image_size, **instances.get_fields())
    scored.gt_scores = torch.tensor(scores)
    return {**sample, "instances": scored}
