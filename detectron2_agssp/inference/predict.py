"""Predictions of a trained detector on new images: the whole line, resumable."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectron2_agssp.config import settings_of
from detectron2_agssp.inference.auto_threshold import threshold_of
from detectron2_agssp.inference.detector import Detections, Detector
from detectron2_agssp.inference.inputs import open_inputs
from detectron2_agssp.inference.pictures import write_picture
from detectron2_agssp.inference.pipeline import Pipeline, Predicted
from detectron2_agssp.inference.run import Run, open_run
from detectron2_agssp.inference.store import PredictionStore, as_detections, as_entry
from detectron2_agssp.io.files import file_digest
from detectron2_agssp.io.images import ImageReader
from detectron2_agssp.reports.prediction_report import MapsBeside, write_prediction_report

logger = logging.getLogger(__name__)

# What of a config decides predictions, and what of these keys does not.
_NODES = ("MODEL", "INPUT", "TEST", "AGSSP")
_FREE = ("NUM_WORKERS", "PICTURES", "MAPS")


def predict(
    run: str | Path,
    images: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    threshold: float | str = 0.5,
    tile: int = 0,
    options: Sequence[str] = (),
) -> dict[str, Detections]:
    """Predicts boxes on images.

    Args:
        run: output folder of a training, or a weight file beside its ``config.yaml``; see
            :func:`~detectron2_agssp.inference.open_run`.
        images: a folder (searched recursively), an image, a video, a .txt file with a path per
            line, or a list of paths.
        output: folder for ``predictions.json`` (COCO), ``report.html`` and ``pictures/``; None
            writes nothing. Where a call was interrupted, the same call goes on, and ends with the
            same bytes.
        threshold: smallest score of a detection, in [0, 1]; "auto": that of the best F1 on the
            run's validation set, stored with the run.
        tile: side, in pixels of the image, of overlapping tiles that larger images are predicted
            in; 0: images are taken whole.
        options: KEY VALUE pairs that override the run's config; those of prediction are in
            ``AGSSP.PREDICT``.

    Returns:
        file name -> ``boxes`` (K, 4) float32, XYXY in pixels of the image, ``scores`` (K,) float32
        and ``classes`` (K,) int64, indices of the run's classes, by falling score; of models with
        masks, on whole images, also ``masks``, K run lengths as COCO's. Images that cannot be read
        are logged and left out.

    Raises:
        FileNotFoundError, ValueError: as :func:`~detectron2_agssp.inference.open_run`; there are no
            images, or none that can be read; an argument is out of its range; ``output`` holds
            predictions of another run or with other settings.
        OSError: another process is writing to ``output``.
    """
    opened = open_run(run, options)
    settings = opened.cfg.AGSSP.PREDICT
    inputs = open_inputs(images, ImageReader(opened.cfg))
    score = _threshold(opened, threshold)
    detector = Detector(opened, threshold=score, tile=tile)
    if output is None:
        pipeline = Pipeline(detector, inputs, num_workers=settings.NUM_WORKERS)
        results: dict[str, Detections] = {}
        failures: list[dict] = []
        for chunk in pipeline.run(progress=False):
            results |= {done.name: done.found for done in chunk.predicted}
            failures += chunk.failures
        _check_any(results, failures)
        return results

    store = PredictionStore(output)
    maps = MapsBeside(settings.MAPS) if settings.MAPS else None

    def draw(image: np.ndarray, done: Predicted) -> None:
        write_picture(store.picture(done.name), image, done.found, opened.classes, store.root)

    pipeline = Pipeline(
        detector,
        inputs,
        num_workers=settings.NUM_WORKERS,
        draw=draw if settings.PICTURES else None,
    )
    of_what = {"images": inputs.place, "threshold": score, "tile": tile, **what_decides(opened)}
    with store.opened(of_what):
        done = {
            name
            for name, entry in store.recorded().items()
            if inputs.is_unchanged(name, entry)
            and (not settings.PICTURES or store.picture(name).exists())
        }
        store.begin()
        names, failures = [], []
        for chunk in pipeline.run(done):
            store.append([_entry(predicted) for predicted in chunk.predicted])
            names += chunk.names
            failures += chunk.failures
        entries = store.finish(names, failures)
        _check_any(entries, failures)
        write_prediction_report(
            store.root / "report.html",
            entries,
            opened.classes,
            values={"run": str(opened.weights), "looked at": inputs.place, "threshold": score},
            picture_of=store.picture,
            skipped=failures,
            maps=maps,
        )
        # Last: it says that all is there.
        store.write_result(entries, opened.classes)
    return {entry["image"]: as_detections(entry) for entry in entries}


def _threshold(run: Run, threshold: float | str) -> float:
    if threshold == "auto":
        return threshold_of(run)
    try:
        return float(threshold)
    except ValueError as error:
        raise ValueError(
            f"A threshold is a number in [0, 1] or auto, got {threshold!r}."
        ) from error


def _entry(predicted: Predicted) -> dict:
    size = predicted.height, predicted.width
    return as_entry(predicted.name, size, predicted.found, predicted.state)


def what_decides(run: Run) -> dict[str, Any]:
    """What a run's predictions depend on, beside images, tiles and the threshold; as JSON."""
    plain = settings_of(run.cfg)
    config = {node: plain[node] for node in _NODES}
    del config["MODEL"]["DEVICE"]
    for key in _FREE:
        del config["AGSSP"]["PREDICT"][key]
    return {
        "weights": file_digest(run.weights),
        "classes": list(run.classes),
        "config": config,
    }


def _check_any(results: Sequence | dict, failures: Sequence[dict]) -> None:
    if not results and failures:
        first = failures[0]
        raise ValueError(
            f"None of the {len(failures)} images could be read; the first, {first['image']}: "
            f"{first['reason']}"
        )
