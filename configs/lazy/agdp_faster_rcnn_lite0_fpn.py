# AGDP: Faster R-CNN learns boxes cut from the anomaly maps, one class, backbone frozen: the
# LazyConfig of ../agdp/faster_rcnn_lite0_fpn.yaml. train.init_checkpoint is the AGBP run's
# checkpoint.
from detectron2.config import LazyCall as L

from detectron2_agssp.data.mappers import PseudoBoxMapper, box_rules

from .faster_rcnn_lite0_fpn import (  # noqa: F401
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

dataset_names = {"train": "agssp_neu_det_boxes"}

model.backbone.bottom_up.freeze_at = 5  # the whole backbone
model.roi_heads.num_classes = 1  # anomaly

# Images without pseudo-boxes train as negatives.
dataloader.train.dataset.filter_empty = False
dataloader.train.mapper = L(PseudoBoxMapper)(
    augmentations=dataloader.train.mapper.augmentations,
    # "mean_max": mean over the data set of each map's maximum, minus the margin.
    rules=L(box_rules)(
        names="${dataset_names.train}", mode="mean_max", margin=0.1, max_boxes=10, nms_iou=0.8
    ),
    image_format="${model.input_format}",
)
# There are no labels to test on.
del dataloader.test, dataloader.evaluator

train.init_checkpoint = "output/lazy/agbp_lite0/model_final.pth"
train.output_dir = "output/lazy/agdp_faster_rcnn_lite0_fpn"
