"""Settings of a benchmark of seconds: a tiny network, a few iterations."""

SMALL = {
    "AGSSP.TIMM.MODEL": "mobilenetv3_small_050",
    "AGSSP.TIMM.WEIGHTS": "",
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "INPUT.MIN_SIZE_TRAIN": [64, 80],
    "SEED": 1,
}
DETECTOR = {
    **SMALL,
    "INPUT.MIN_SIZE_TEST": 64,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.CONV_DIMS": [16],
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "SOLVER.MAX_ITER": 4,
}
SCORER = {
    f"AGSSP.SCORER.{key}": value
    for key, value in {"WEIGHTS": "", "IMAGE_SIZE": 64, "STRIDES": [8], "NUM_WORKERS": 0}.items()
}
DATA = {
    "root": "sample",
    "images": "images/train",
    "test_images": "images/test",
    "validation_images": 6,
}
CONTENT = {
    "data": DATA,
    "stages": {
        "maps": {"config": "maps/mahalanobis.yaml", "options": SCORER},
        "agbp": {
            "config": "agbp/lite0.yaml",
            "options": {**SMALL, "INPUT.CROP.SIZE": [48, 48], "SOLVER.MAX_ITER": 3},
        },
        "agdp": {"config": "agdp/faster_rcnn_lite0_fpn.yaml", "options": DETECTOR},
        "finetune": {"config": "finetune/faster_rcnn_lite0_fpn.yaml", "options": DETECTOR},
    },
    "arms": ["imagenet", "agssp"],
    "fractions": [50],
    "draws": [0, 1],
    "seeds": [1],
    "learning_rates": [0.001, 0.002],
    "random_options": {"MODEL.BACKBONE.FREEZE_AT": 0},
    "extra_iterations": 5,
    "validations": 2,
}
