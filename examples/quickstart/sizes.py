"""Sizes of the quickstart: minutes on two CPU cores, in which both starts learn something."""

from dataclasses import asdict, dataclass, field
from typing import Any

DETECTOR = "faster_rcnn_lite0_fpn"
# Small images, small heads: an iteration of 8 takes half a second on a core.
COMMON = {
    "INPUT.MIN_SIZE_TRAIN": (128, 144, 160),
    "INPUT.MAX_SIZE_TRAIN": 256,
    "INPUT.MIN_SIZE_TEST": 144,
    "INPUT.MAX_SIZE_TEST": 256,
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.RPN.CONV_DIMS": [64],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 300,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 100,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 256,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.WARMUP_ITERS": 20,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.CHECKPOINT_PERIOD": 40,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 1,
}
PRETRAINING = {
    **COMMON,
    "MAPS.AGSSP.SCORER.IMAGE_SIZE": 256,
    "AGBP.INPUT.MIN_SIZE_TRAIN": (144, 256),
    "AGBP.INPUT.CROP.SIZE": [128, 128],
    # So few iterations show nothing at the config's rate.
    "AGBP.SOLVER.BASE_LR": 0.01,
    "AGBP.SOLVER.MAX_ITER": 80,
    "AGDP.SOLVER.MAX_ITER": 120,
    # As in the variants that gained most, where the boxes are good.
    "AGDP.MODEL.BACKBONE.FREEZE_AT": 2,
}


@dataclass(frozen=True)
class Sizes:
    """Of the synthetic sample and of what is trained on it.

    Attributes:
        num_train, num_test: images.
        num_labeled: of ``train``, whose labels fine-tuning sees.
        num_validation: of ``train``, others, by which the pictures' score threshold is chosen.
        classes, surfaces, image_sizes: of the sample; sizes are (height, width), pixels.
        rounds: of AGBP.
        pretraining: options of :func:`~detectron2_agssp.pretrain`.
        fine_tuning: keys of both starts.
    """

    num_train: int = 200
    num_test: int = 60
    num_labeled: int = 40
    num_validation: int = 30
    classes: tuple[str, ...] = ("scratch", "pit", "patch")
    surfaces: tuple[str, ...] = ("rolled", "brushed")
    image_sizes: tuple[tuple[int, int], ...] = ((128, 160), (144, 144))
    rounds: int = 1
    pretraining: dict[str, Any] = field(default_factory=lambda: PRETRAINING)
    fine_tuning: dict[str, Any] = field(default_factory=lambda: {**COMMON, "SOLVER.MAX_ITER": 140})

    def record(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)
