"""A verdict on pseudo-boxes before anything is trained on them: with a few labels, or without."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectron2_agssp.evaluation.box_statistics import BoxStatistics
from detectron2_agssp.evaluation.label_free import LabelFreeFigures
from detectron2_agssp.evaluation.pseudo_boxes import (
    FolderEvaluation,
    evaluate_pseudo_boxes,
    evaluate_scored_boxes,
)
from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer, recorded_config
from detectron2_agssp.maps.score import image_loader, score_batch

logger = logging.getLogger(__name__)

# Boxes are better than random ones where as many hits would be chance once in twenty times.
SIGNIFICANCE = 0.05
# Of what is between chance and all boxes on a label: below it, boxes are hardly better. NEU-DET's
# first maps reach 0.14 and brought AGDP next to nothing, the second round's 0.49.
USEFUL_LIFT = 0.2
# Times chance from which on they are more than hardly better, where defects are so small that the
# lift is out of reach: Magnetic-Tile's first maps reach 3.4, and its second round's are worse.
OFTEN = 2.0
# Shares of the images without a box, and of their area inside boxes, from which on to ask.
MANY_WITHOUT_BOXES = 0.3
MUCH_COVERED = 0.5


@dataclass(frozen=True)
class BoxVerdict:
    """What a few labels say of a map folder's boxes.

    Attributes:
        better: boxes lie on labels more often than chance would put them there, and enough are
            labelled to say so.
        sentence: that in words, with what to do.
        precision, recall: at the IoU that was asked for; None of no box, or no label.
        hit_precision: share of the boxes whose centre lies in a label; None without boxes.
        chance: the same of boxes at random.
        evaluation: all figures.
    """

    better: bool
    sentence: str
    precision: float | None
    recall: float | None
    hit_precision: float | None
    chance: float
    evaluation: FolderEvaluation


def judge_boxes(
    cfg,
    boxes: str | Path,
    labels: str | Path,
    *,
    image_root: str | Path | None = None,
    thresholds: Sequence[float] = (),
    min_iou: float = 0.5,
    progress: bool = True,
) -> BoxVerdict:
    """Whether the boxes that AGDP would learn are better than boxes at random, by a few labels.

    Args:
        cfg: a Detectron2 config: ``AGSSP.BOXES``. What the scorer was built with is read from the
            folder, but the ``MODEL.WEIGHTS`` of a Detectron2 backbone.
        boxes: the map folder of the images to pretrain on; its threshold counts. Or a COCO json of
            boxes, such as a detector's, all of which count.
        labels: a COCO json.
        image_root: folder of the labelled images, where the map folder does not have them: they
            are scored with its fitted scorer and calibration. None: they are in ``boxes``.
        thresholds, min_iou: further thresholds to judge, and the IoU of a match; as
            :func:`~detectron2_agssp.evaluation.pseudo_boxes.evaluate_pseudo_boxes`.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no such folder or file, or the map folder has no scorer.
        ValueError: none of the images is labelled, or no label is there to find; or there is an
            ``image_root`` for boxes that no maps give.
    """
    asked = {"thresholds": thresholds, "min_iou": min_iou, "progress": progress}
    if Path(boxes).suffix == ".json":
        if image_root is not None:
            raise ValueError(
                f"{boxes} holds boxes of its own images; others ({image_root}) can be scored for a "
                "map folder only."
            )
        evaluation = evaluate_scored_boxes(boxes, labels, **asked)
    else:
        maps = None if image_root is None else score_labelled(cfg, boxes, labels, image_root)
        evaluation = evaluate_pseudo_boxes(cfg, boxes, labels, maps=maps, **asked)
    images, found = evaluation.configured.all_images, evaluation.configured.all_labels
    if found.labels == 0:
        raise ValueError(
            f"The images that {labels} and {boxes} have in common have no label: without a defect "
            "to find, boxes cannot be judged."
        )
    better, sentence = _in_words(evaluation)
    return BoxVerdict(
        better=better,
        sentence=sentence,
        precision=images.precision,
        recall=found.recall,
        hit_precision=images.hit_precision,
        chance=evaluation.labelled_area,
        evaluation=evaluation,
    )


def _in_words(evaluation: FolderEvaluation) -> tuple[bool, str]:
    from scipy.stats import binomtest  # slow to import

    judged, chance = evaluation.configured, evaluation.labelled_area
    images, recall = judged.all_images, judged.all_labels.recall
    count = images.boxes - images.ignored
    advice = "run the second round first, or do not train on this"
    if count == 0:
        return False, (
            f"none of the {images.images} labelled images has a box at the threshold of "
            f"{judged.threshold:.3f}: lower it (a larger AGSSP.BOXES.MARGIN), or {advice}"
        )
    share = images.hit_precision
    figures = f"({share:.3f} against {chance:.3f})"
    by_chance = binomtest(images.hitting, count, min(chance, 1.0), alternative="greater").pvalue
    is_useful = share - chance >= USEFUL_LIFT * (1 - chance)
    if by_chance > SIGNIFICANCE and is_useful:
        return False, (
            f"{count} boxes in {images.images} labelled images are too few to tell from random "
            f"ones {figures}: label more"
        )
    if by_chance > SIGNIFICANCE:
        return False, f"boxes no better than random {figures}: {advice}"
    if not is_useful and share >= OFTEN * chance:
        return True, (
            f"boxes on a label {share / chance:.1f} times as often as random ones {figures}, and "
            "still mostly beside any, as with small defects: look at them (agssp report), and at "
            "a second round's, before you train on either"
        )
    if not is_useful:
        return True, f"boxes hardly better than random {figures}: run the second round first"
    return True, (
        f"boxes better than random {figures}; at an IoU of {evaluation.min_iou:g} "
        f"{images.precision:.3f} of them match a label, and {recall:.3f} of the labels have a box"
    )


def score_labelled(
    cfg, map_root: str | Path, labels: str | Path, image_root: str | Path
) -> Iterator[tuple[dict, np.ndarray]]:
    """The images below a folder that a COCO json may mean, with their maps (h, w) float16 by a map
    folder's fitted scorer: ``image``, ``height``, ``width`` and ``source`` of each, as in a
    manifest. Images that cannot be read are logged and left out.

    Raises:
        FileNotFoundError, ValueError: no such folder, no scorer, or none of the images is there.
    """
    names = {os.path.basename(image["file_name"]) for image in read_coco(labels)["images"]}
    paths = [path for path in list_images(image_root) if os.path.basename(path) in names]
    if not paths:
        raise ValueError(f"{image_root} has none of the {len(names)} images of {labels}.")
    cfg = recorded_config(cfg, map_root)
    scorer, calibration = load_fitted_scorer(cfg, map_root)
    loader = image_loader(cfg, scorer, image_root)
    for batch in loader(paths):
        for failure in batch.failures:
            logger.warning("Left out %s: %s", failure["image"], failure["reason"])
        scored = score_batch(scorer, batch, loader.batch_size)
        for info, result in zip(batch.infos, scored, strict=True):
            own = calibration.of(info["source"])
            yield info, own(result.map).astype(np.float16)


def verdict(boxes: BoxStatistics | LabelFreeFigures) -> list[str]:
    """What to doubt about a map folder's boxes without any label, a sentence each, with what to do;
    empty where nothing is.

    Raises:
        ValueError: there are no images.
    """
    if boxes.images == 0:
        raise ValueError("There are no images whose boxes could be judged.")
    without, covered = 1 - boxes.share_with_boxes, boxes.box_coverage
    doubts = []
    if without == 1:
        doubts.append(
            "No image has a box, so there is nothing that AGDP could learn: lower the threshold (a "
            "larger AGSSP.BOXES.MARGIN)."
        )
    elif without >= MANY_WITHOUT_BOXES:
        doubts.append(
            f"{100 * without:.0f} % of the images have no box, and AGDP learns each of them as "
            "free of defects. If more of them have defects, lower the threshold (a larger "
            "AGSSP.BOXES.MARGIN) or run the second round first."
        )
    if covered >= MUCH_COVERED:
        doubts.append(
            f"Boxes cover {100 * covered:.0f} % of an image on average, so they hardly say where "
            "anything is: raise the threshold (a smaller AGSSP.BOXES.MARGIN)."
        )
    return doubts
