# AGBP of Swin-B from ImageNet labels with the paper's settings: the LazyConfig of
# ../agbp/swin_b.yaml, for NEU-DET's 1,241 training images (train.max_iter is 200 epochs of them).
# Gradients are not clipped, as Detectron2's lazyconfig_train_net.py has no key for it.
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from detectron2_agssp.engine.optimizer import POSITION_TABLES
from detectron2_agssp.modeling import AnomalyDistiller, SwinBackbone
from detectron2_agssp.modeling.backbone.swin import SwinSize

from .agbp_lite0 import dataloader, dataset_names  # noqa: F401

model = L(AnomalyDistiller)(
    backbone=L(SwinBackbone)(
        size=L(SwinSize)(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32]),
        window_size=7,
        drop_path_rate=0.5,
        out_features=["res5"],
        freeze_at=3,  # patch embedding, res2 and res3
    ),
    in_features=["res5"],
    loss_weights=[2.0],
    target_resize="area",
    # ImageNet's statistics in RGB, as the published Swin weights want them.
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    vis_period=100,
)

dataloader.train.mapper.augmentations[0].short_edge_length = (256, 1024)
dataloader.train.update(total_batch_size=64, num_workers=4)

# No decay on norms, biases and position tables.
optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.update(lr=0.0000625, weight_decay=0.05)
optimizer.params.update(
    weight_decay_bias=0.0, overrides={name: {"weight_decay": 0.0} for name in POSITION_TABLES}
)

train = model_zoo.get_config("common/train.py").train
train.max_iter = 3880
train.eval_period = 0
train.checkpointer.period = 388
train.init_checkpoint = (
    "detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pkl"
    "?matching_heuristics=True"
)
train.output_dir = "output/lazy/agbp_swin_b"

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.016),
    warmup_length=0.1,
    warmup_factor=0.001,
)
