"""The figures of pseudo-boxes as text and as JSON."""

from dataclasses import asdict

from detectron2_agssp.evaluation.pseudo_boxes import ClassRecall, FolderEvaluation, SourcePrecision
from detectron2_agssp.evaluation.tables import format_rows


def as_json(evaluation: FolderEvaluation) -> dict:
    """All counts and shares, for a file; a share of nothing is None."""

    def with_shares(counts: ClassRecall | SourcePrecision) -> dict:
        shares = ("recall", "precision", "hit_recall", "hit_precision")
        known = {name: getattr(counts, name) for name in shares if hasattr(counts, name)}
        return {**asdict(counts), **known}

    thresholds = [
        {
            "threshold": judged.threshold,
            "configured": judged.configured,
            "all_labels": with_shares(judged.all_labels),
            "all_images": with_shares(judged.all_images),
            "classes": {name: with_shares(counts) for name, counts in judged.classes.items()},
            "sources": {name: with_shares(counts) for name, counts in judged.sources.items()},
        }
        for judged in evaluation.thresholds
    ]
    return {**asdict(evaluation), "thresholds": thresholds}


def format_evaluation(evaluation: FolderEvaluation) -> str:
    """Tables as aligned text: by threshold, then recall by class and precision by source."""
    by_threshold = evaluation.thresholds
    names = [f"{judged.threshold:.3g}{'*' * judged.configured}" for judged in by_threshold]
    iou = f"IoU {evaluation.min_iou:g}"
    headers = ["threshold", f"precision, {iou}", f"recall, {iou}", "precision, hit", "recall, hit"]
    overview = []
    for name, judged in zip(names, by_threshold, strict=True):
        images, labels = judged.all_images, judged.all_labels
        shares = [images.precision, labels.recall, images.hit_precision, labels.hit_recall]
        per_image = [images.boxes / images.images, images.without_boxes / images.images]
        overview.append([name, *shares, *per_image])

    def details(group: str, count: str, figure: str) -> list[list]:
        first = getattr(by_threshold[0], group)
        return [
            [
                name,
                getattr(first[name], count),
                *(getattr(getattr(judged, group)[name], figure) for judged in by_threshold),
            ]
            for name in sorted(first)
        ]

    tables = [
        ([*headers, "boxes/image", "without box"], overview),
        ([f"recall, {iou}, at", "labels", *names], details("classes", "labels", "recall")),
        (["recall, hit, at", "labels", *names], details("classes", "labels", "hit_recall")),
        ([f"precision, {iou}, at", "images", *names], details("sources", "images", "precision")),
    ]
    texts = [format_rows(columns, rows) for columns, rows in tables if rows]
    notes = [
        "Hit: a box's centre lies in a label. Boxes placed at random would have a precision of "
        f"{evaluation.labelled_area:.3f} there.",
        "* the threshold by AGSSP.BOXES, at which AGDP cuts its boxes; of a json, all boxes.",
    ]
    for what, count in (
        ("Images that are not in the labels' json", evaluation.unknown_images),
        ("Images of the labels' json whose boxes are not known", evaluation.unseen_images),
    ):
        if count:
            notes.append(f"{what}, left out: {count}.")
    return "\n\n".join([*texts, "\n".join(notes)])
