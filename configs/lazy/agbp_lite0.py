# AGBP of EfficientNet-Lite0, sized for two CPU cores: the LazyConfig of ../agbp/lite0.yaml. Run by
# Detectron2's lazyconfig_train_net.py with `import detectron2_agssp` in front; for another data
# set, add dataset_names.train=agssp_mine to the command.
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from omegaconf import OmegaConf

from detectron2_agssp.data import AnomalyMapMapper
from detectron2_agssp.modeling import AnomalyDistiller

from .common_lite0 import backbone, lr_multiplier, optimizer, pixels, train  # noqa: F401

dataset_names = {"train": "agssp_neu_det"}

optimizer.lr = 0.002  # at 0.01 features span half as many directions (benchmarks/notebook.md)
backbone.freeze_at = 3
model = L(AnomalyDistiller)(
    backbone=backbone,
    in_features=["res4", "res5"],
    loss_weights=[1.0, 1.0],
    target_resize="area",
    pixel_mean=pixels.mean,
    pixel_std=pixels.std,
    input_format="RGB",
    vis_period=100,
)

dataloader = OmegaConf.create()
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="${dataset_names.train}", filter_empty=False),
    mapper=L(AnomalyMapMapper)(
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=(224, 512), sample_style="range", max_size=4096
            ),
            # After the resize, so that a batch has one size.
            L(T.RandomCrop)(crop_type="absolute", crop_size=[224, 224]),
            L(T.RandomFlip)(horizontal=True),
            L(T.RandomBrightness)(intensity_min=0.6, intensity_max=1.4),
            L(T.RandomContrast)(intensity_min=0.6, intensity_max=1.4),
            L(T.RandomSaturation)(intensity_min=0.6, intensity_max=1.4),
        ],
        image_format="${model.input_format}",
    ),
    total_batch_size=16,
    aspect_ratio_grouping=False,  # all crops have one size
    num_workers=2,
)

train.max_iter = 300
train.output_dir = "output/lazy/agbp_lite0"
