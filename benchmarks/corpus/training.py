"""Maps, AGBP and AGDP of a pretraining set, as short as a core needs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode

from benchmarks.corpus.arms import ARMS, LABELLED, chosen_images, link_images
from detectron2_agssp.engine.runs import run_config
from detectron2_agssp.engine.stages import make_maps, maps_finished, training_config
from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.files import datasets_root

AGBP = "agssp://agbp/lite0.yaml"
AGDP = "agssp://agdp/faster_rcnn_lite0_fpn.yaml"


def arm_maps(
    output: Path, name: str, draw: int, root: Path, corpus: Mapping[str, Sequence[str]]
) -> tuple[Path, Path]:
    """Folder of an arm's images and that of their `mahalanobis` maps, made where they are missing.

    Args:
        output: folder; of the images are links below it.
        name: of :data:`ARMS`.
        draw: of the images; arms that take all images share those of draw 0.
        root: folder of the corpus, NEU-DET being read from $DETECTRON2_DATASETS.
        corpus: source -> images that may be used.
    """
    arm = ARMS[name]
    key = f"{name.split('_p')[0]}_{draw if arm.equal else 0}"
    images, maps = output / "images" / key, output / "maps" / key
    if not maps_finished(maps):
        labelled = datasets_root() / "neu_det/images"
        train = read_coco(labelled.parent / "annotations/train.json")["images"]
        chosen = chosen_images(arm, corpus, [image["file_name"] for image in train], draw)
        link_images(images, {"corpus": root, LABELLED: labelled}, chosen)
        options = {
            "AGSSP.SCORER.IMAGE_SIZE": 192,
            "AGSSP.SCORER.DEVICE": "cpu",
            "AGSSP.SCORER.NUM_WORKERS": 0,
        }
        cfg = run_config("agssp://maps/mahalanobis.yaml", output, options)
        make_maps(cfg, images, maps, progress=False)
    return images, maps


def agbp_config(output: Path, dataset: str, seed: int, power: float, iterations: int) -> CfgNode:
    """Config of AGBP; ``power`` is ``SOURCE_POWER``."""
    options = {
        "INPUT.MIN_SIZE_TRAIN": (128, 256),
        "INPUT.CROP.SIZE": [128, 128],
        "INPUT.MIN_SIZE_TEST": 256,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": iterations // 10,
        "SOLVER.CHECKPOINT_PERIOD": iterations,
        "DATALOADER.NUM_WORKERS": 0,
        "VIS_PERIOD": 0,
        "SEED": seed,
        **_sampling(power),
    }
    return training_config(AGBP, output, dataset, common=options)


def agdp_config(
    output: Path, dataset: str, weights: Path, seed: int, power: float, iterations: int
) -> CfgNode:
    """Config of AGDP from the weights of AGBP, on boxes around the peaks of maps; the backbone
    learns, too, from res3 on."""
    options = {
        "INPUT.MIN_SIZE_TRAIN": (160, 176, 192),
        "INPUT.MAX_SIZE_TRAIN": 256,
        "INPUT.MIN_SIZE_TEST": 192,
        "INPUT.MAX_SIZE_TEST": 256,
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.FPN.OUT_CHANNELS": 64,
        "MODEL.RPN.CONV_DIMS": [64],
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": iterations // 10,
        "SOLVER.CHECKPOINT_PERIOD": iterations,
        "DATALOADER.NUM_WORKERS": 0,
        "AGSSP.BOXES.EXTENT": 0.5,
        "VIS_PERIOD": 0,
        "SEED": seed,
        **_sampling(power),
    }
    return training_config(AGDP, output, f"{dataset}_boxes", weights=weights, common=options)


def _sampling(power: float) -> dict[str, object]:
    """Keys of a training that shows small sources more often, by ``SOURCE_POWER``."""
    if not power:
        return {}
    return {
        "DATALOADER.SAMPLER_TRAIN": "WeightedTrainingSampler",
        "AGSSP.DATALOADER.SOURCE_POWER": power,
    }
