# AGDP for two CPU cores: YOLO learns boxes cut from the anomaly maps, one class: the LazyConfig of
# ../agdp/yolo_cspdarknet_n.yaml. train.init_checkpoint is the AGBP run's checkpoint.
from .agdp_faster_rcnn_lite0_fpn import dataloader, dataset_names  # noqa: F401
from .yolo_cspdarknet_n import lr_multiplier, model, optimizer, train  # noqa: F401

model.head.num_classes = 1  # anomaly

dataloader.train.mapper.augmentations[0].update(short_edge_length=(160, 192, 224), max_size=384)

train.init_checkpoint = "output/agbp/cspdarknet_n/model_final.pth"
train.output_dir = "output/lazy/agdp_yolo_cspdarknet_n"
