"""How well a backbone's energies show the defects, by masks: what AGBP changed.

AGBP is taught by anomaly maps, and
:class:`~detectron2_agssp.evaluation.map_evaluator.AnomalyMapEvaluator` says how alike energies and
maps are; this says whether the energies became better at defects.
"""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from detectron2_agssp.checkpoint import load_trained
from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.evaluation.map_folder import resize_mask, table_of
from detectron2_agssp.evaluation.metrics_stream import MapMetrics
from detectron2_agssp.evaluation.tables import format_rows
from detectron2_agssp.evaluation.truth import ground_truth
from detectron2_agssp.io.images import ImageReader, list_images
from detectron2_agssp.maps.image_stream import source_of
from detectron2_agssp.modeling.distiller import AnomalyDistiller

# Feature -> class, and "mean" -> figures.
EnergyTables = dict[str, dict[str, dict[str, float]]]
# Names, on the command line, of the weights that the config's backbone starts from.
START_NAMES = ("", "imagenet")


def load_distiller(cfg, weights: str) -> AnomalyDistiller:
    """The config's model with the weights of a file.

    Args:
        cfg: a config of AGBP.
        weights: a checkpoint of AGBP or an exported backbone; of :data:`START_NAMES`, what AGBP
            starts from: ``cfg.MODEL.WEIGHTS``, or what the backbone is built with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the config is not one of AGBP, or the weights are of another backbone.
    """
    kind = cfg.MODEL.META_ARCHITECTURE
    if kind != "AnomalyDistiller":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {kind!r}, which gives no energies. Use the config of AGBP "
            "with --config-file, e.g. one of configs/agbp."
        )
    return load_trained(cfg, cfg.MODEL.WEIGHTS if weights in START_NAMES else weights)


@torch.no_grad()
def energy_metrics(
    cfg,
    model: AnomalyDistiller,
    image_root: str | Path,
    truth_path: str | Path,
    *,
    size: int = 256,
    threshold: int = 127,
    progress: bool = True,
) -> EnergyTables:
    """Pixel-level metrics of each distilled feature's energy, by class, as
    :func:`~detectron2_agssp.evaluation.map_folder.evaluate_map_folder` has them of anomaly maps.
    Memory does not grow with the number of images.

    Images without a mask, or labels, are left out. Energies have no largest value; e / (e + s), the
    same s for all images, brings them into [0, 1) for the histograms without a change of their
    order, which is all that the metrics look at. Energies of different images are compared as they
    are, although the distillation loss sees each image's energy up to its scale.

    Args:
        cfg: of the model: ``INPUT.FORMAT``, ``MIN_SIZE_TEST``, ``MAX_SIZE_TEST``.
        model: in evaluation mode.
        image_root: folder of images, searched recursively.
        truth_path: folder of masks with the layout of the images, or a COCO ``.json``.
        size: energies and masks are compared at size x size pixels.
        threshold: mask values above it are defect, in [0, 255].
        progress: show a progress bar.

    Returns:
        Feature -> the table of
        :func:`~detectron2_agssp.evaluation.map_folder.evaluate_map_folder`.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no image has a mask, the masks of a class (named) hold no defect, an energy is
            not finite, or an argument is out of its range.
    """
    if size < 1:
        raise ValueError(f"size must be positive, got {size}.")
    truth = ground_truth(truth_path, threshold)
    reader = ImageReader(cfg)
    metrics: dict[str, dict[str, MapMetrics]] = {name: {} for name in model.in_features}
    scales: dict[str, float] = {}
    paths = tqdm(list_images(image_root), desc="energies", unit="img", disable=not progress)
    for path in paths:
        image = reader(os.path.join(image_root, path))
        height, width = image.shape[:2]
        entry = {"image": path, "height": height, "width": width}
        known = truth({**entry, "source": source_of(path, image_root)})
        if known is None:
            continue
        kind, mask = known
        mask = resize_mask(mask, size, size)
        inputs = model_input(cfg, image)
        for name, energy in model([inputs])[0]["energies"].items():
            if not energy.isfinite().all():
                raise ValueError(
                    f"The energy of {name!r} is not finite on {path!r}: the weights hold NaN or "
                    "diverged. Use an earlier checkpoint."
                )
            stride, image_size = model.strides[name], inputs["image"].shape[-2:]
            resized = resize_energy(energy, stride, image_size, size).double().cpu().numpy()
            # Any s does; near the energies themselves, the bins of the histogram are finest.
            scale = scales.setdefault(name, float(resized.mean()) or 1.0)
            class_metrics = metrics[name].setdefault(kind, MapMetrics())
            class_metrics.update(resized / (resized + scale), mask)
    truth.warn_left_out()
    if not scales:
        raise ValueError(
            f"None of the images of {image_root} has a mask in {truth_path}. {truth.hint}"
        )
    return {name: table_of(classes, threshold) for name, classes in metrics.items()}


def resize_energy(energy: Tensor, stride: int, image_size: tuple[int, int], size: int) -> Tensor:
    """An energy map (h, w) as (size, size) pixels of its image, bilinear, half-pixel centres.

    Args:
        stride: pixels per cell.
        image_size: (height, width) of the network's input; the last cells may reach beyond it,
            and that part is cut off.
    """
    # Side of the image / side of the map.
    y, x = (
        pixels / (cells * stride) for pixels, cells in zip(image_size, energy.shape, strict=True)
    )
    affine = energy.new_tensor([[x, 0, x - 1], [0, y, y - 1]])[None]
    grid = F.affine_grid(affine, [1, 1, size, size], align_corners=False)
    return F.grid_sample(energy[None, None], grid, padding_mode="border", align_corners=False)[0, 0]


def format_energies(tables: dict[str, EnergyTables]) -> str:
    """AUROC and AP as aligned text, by feature, weights and class; ``tables``: weights -> of
    :func:`energy_metrics`."""
    features = next(iter(tables.values()))
    classes = list(next(iter(features.values())))
    texts = []
    for title, figure in (("AUROC", "auroc"), ("AP", "ap")):
        rows = [
            [name, weights, *(tables[weights][name][kind][figure] for kind in classes)]
            for name in features
            for weights in tables
        ]
        texts.append(format_rows([f"{title} of energy", "weights", *classes], rows, 2))
    return "\n\n".join(texts)
