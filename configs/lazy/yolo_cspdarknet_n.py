# YOLO on CSPDarknet-n, sized for two CPU cores: the LazyConfig of
# ../finetune/yolo_cspdarknet_n.yaml. For AGSSP, set train.init_checkpoint to an AGDP checkpoint.
# Gradients are not clipped and weights not averaged, as Detectron2's lazyconfig_train_net.py has no
# keys for it.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from detectron2_agssp.modeling import PAFPN, YOLO, CSPDarknet
from detectron2_agssp.modeling.backbone.cspdarknet import CSPDarknetSize
from detectron2_agssp.modeling.detectors.yolo_head import YOLOHead

from .common_lite0 import optimizer
from .faster_rcnn_lite0_fpn import dataloader, dataset_names, train  # noqa: F401

model = L(YOLO)(
    backbone=L(PAFPN)(
        bottom_up=L(CSPDarknet)(
            size=L(CSPDarknetSize)(stem=16, channels=[32, 64, 128, 256], depths=[1, 2, 2, 1]),
            freeze_at=0,
        ),
        out_channels=[64, 128, 256],
        depth=1,
    ),
    head=L(YOLOHead)(
        input_shape=[ShapeSpec(channels=width) for width in (64, 128, 256)], num_classes=6
    ),
    head_in_features=["p3", "p4", "p5"],
    # Pixels in [0, 1].
    pixel_mean=[0.0, 0.0, 0.0],
    pixel_std=[255.0, 255.0, 255.0],
    input_format="RGB",
)

dataloader.train.mapper.augmentations[0].update(short_edge_length=(160, 192, 224), max_size=384)
dataloader.test.mapper.augmentations[0].update(short_edge_length=192, max_size=384)
# Images without a defect are kept as negatives.
dataloader.train.dataset.filter_empty = False

optimizer.update(lr=0.01, momentum=0.937, nesterov=True, weight_decay=0.0005)
train.max_iter = 1000
train.checkpointer.period = 250
train.output_dir = "output/lazy/yolo_cspdarknet_n"
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_length=0.1,
    warmup_factor=0.001,
)
