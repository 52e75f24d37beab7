"""What AGBP on a pretraining set is worth: directions that features span, energies against masks,
and boxes of the energies against labels."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.evaluation.energies import energy_metrics, load_distiller
from detectron2_agssp.evaluation.pseudo_boxes import evaluate_pseudo_boxes
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.maps.generate import generate_anomaly_maps


@torch.no_grad()
def effective_ranks(cfg, model, images: Sequence[Path]) -> dict[str, float]:
    """Feature -> participation ratio of the covariance's eigenvalues of one image's cells, the mean
    over the images."""
    reader, ratios = ImageReader(cfg), {name: [] for name in model.in_features}
    for path in images:
        batch = model.preprocess_image([model_input(cfg, reader(path))])
        for name, feature in model.backbone(batch.tensor).items():
            if name in ratios:
                cells = feature[0].flatten(1).double()
                cells = cells - cells.mean(dim=1, keepdim=True)
                # Of the eigenvalues e: (sum e)^2 / sum e^2, from traces, as C is symmetric.
                covariance = cells @ cells.T
                ratios[name].append((covariance.trace() ** 2 / covariance.square().sum()).item())
    return {name: sum(values) / len(values) for name, values in ratios.items()}


def judge(cfg, weights: str, sets: dict[str, tuple[Path, Path]], scratch: Path) -> dict:
    """Figures of one backbone.

    Args:
        cfg: of AGBP.
        weights: a checkpoint, or "imagenet".
        sets: name -> folder of held-out images, COCO json.
        scratch: folder for the energies' maps.

    Returns:
        "rank" (feature -> number) and "sets": name -> "auroc" of each feature, mean over the
        classes, "precision" and "recall" of the energies' boxes, extent 0.5, at IoU 0.5.
    """
    model = load_distiller(cfg, weights)
    figures: dict = {"sets": {}, "rank": {}}
    samples = []
    for name, (images, labels) in sets.items():
        samples += sorted(images.iterdir())[:20]
        tables = energy_metrics(cfg, model, images, labels, size=128, progress=False)
        maps_cfg = cfg.clone()
        maps_cfg.defrost()
        scorer = maps_cfg.AGSSP.SCORER
        scorer.NAME, scorer.FEATURES, scorer.IN_FEATURES = "energy", "detectron2", ("res4", "res5")
        scorer.IMAGE_SIZE, scorer.DEVICE, scorer.NUM_WORKERS = 192, "cpu", 0
        maps_cfg.AGSSP.BOXES.EXTENT = 0.5
        maps_cfg.MODEL.WEIGHTS = "" if weights == "imagenet" else weights
        generate_anomaly_maps(maps_cfg, images, scratch / name, progress=False)
        boxes = evaluate_pseudo_boxes(
            maps_cfg, scratch / name, labels, thresholds=(), progress=False
        ).configured
        figures["sets"][name] = {
            "auroc": {level: table["mean"]["auroc"] for level, table in tables.items()},
            "precision": boxes.all_images.precision or 0.0,
            "recall": boxes.all_labels.recall or 0.0,
        }
    figures["rank"] = effective_ranks(cfg, model, samples)
    return figures


def spread(values: list[float], decimals: int) -> str:
    """Mean ± standard deviation over draws, as text; of one draw its value."""
    text = f"{statistics.mean(values):.{decimals}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{decimals}f}"
    return text
