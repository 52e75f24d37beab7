"""From images to detections: chunks of images in lanes, each of which reads, detects and draws."""

import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from detectron2_agssp.inference.detector import Detections, Detector
from detectron2_agssp.inference.inputs import ImageFiles, Reading, Video
from detectron2_agssp.maps.image_stream import ASPECT_CHUNK, chunks
from detectron2_agssp.utils.lanes import in_lanes

logger = logging.getLogger(__name__)

MAX_LANES = 4
# Pixels of an image that is a batch of its own.
_LARGE = 16_000_000


@dataclass
class Predicted:
    """An image with its detections; ``state`` is by what a later run tells whether it changed."""

    name: str
    height: int
    width: int
    found: Detections
    state: dict


@dataclass
class Chunk:
    """Of consecutive images: all names; those predicted now; and, as (image, reason), those that
    could not be read."""

    names: list[str]
    predicted: list[Predicted] = field(default_factory=list)
    failures: list[dict] = field(default_factory=list)


class Pipeline:
    """The detections of all inputs, chunk by chunk, in their order.

    A chunk with anything missing is predicted as a whole, always in the same batches, and only
    equally large images share one: the last bits of a result may depend on its batch, and a run
    that goes on has to end with the same bytes as an undisturbed one.

    Args:
        detector: of the images.
        inputs: the images.
        num_workers: lanes; -1: up to ``MAX_LANES``.
        draw: called with each image (H, W, 3) RGB and what was predicted, in any thread.
    """

    def __init__(
        self,
        detector: Detector,
        inputs: ImageFiles | Video,
        *,
        num_workers: int = -1,
        draw: Callable[[np.ndarray, Predicted], None] | None = None,
    ):
        self.detector = detector
        self.inputs = inputs
        self.draw = draw
        self.chunk_size = ASPECT_CHUNK * detector.batch_size
        is_cpu = torch.device(detector.cfg.MODEL.DEVICE).type == "cpu"
        if num_workers < 0:
            num_workers = min(MAX_LANES, torch.get_num_threads()) if is_cpu else MAX_LANES
        if len(inputs) > 0:
            # Of all chunks, also where few are left: threads change the last bits, too.
            num_workers = min(num_workers, -(-len(inputs) // self.chunk_size))
        self.lanes = num_workers
        # A GPU takes one batch at a time, while other lanes read.
        self.turn = contextlib.nullcontext() if is_cpu else threading.Lock()

    def run(self, done: Collection[str] = (), *, progress: bool = True) -> Iterator[Chunk]:
        """Yields the chunks; of those whose images are all ``done``, only the names."""
        total = len(self.inputs) or None
        with tqdm(total=total, desc="predict", unit="img", disable=not progress) as bar:
            pieces = chunks(self.inputs.readings(), self.chunk_size)
            for chunk in in_lanes(lambda jobs: self._work(jobs, done), pieces, self.lanes):
                for failure in chunk.failures:
                    logger.warning("Skipped %s: %s", failure["image"], failure["reason"])
                bar.update(len(chunk.names))
                yield chunk

    def _work(self, jobs: list[tuple[str, Callable[[], Reading]]], done: Collection[str]) -> Chunk:
        chunk = Chunk([name for name, _ in jobs])
        if all(name in done for name in chunk.names):
            return chunk
        predicted: dict[str, Predicted] = {}
        waiting: dict[tuple, list] = defaultdict(list)
        for name, read in jobs:
            try:
                image, state = read()
            except (ValueError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
                chunk.failures.append({"image": name, "reason": reason})
                continue
            group = waiting[image.shape]
            group.append((name, image, state))
            if len(group) == self.detector.batch_size or image[:, :, 0].size > _LARGE:
                predicted |= self._detect(waiting.pop(image.shape))
        for group in waiting.values():
            predicted |= self._detect(group)
        chunk.predicted = [
            predicted[name] for name in chunk.names if name in predicted and name not in done
        ]
        return chunk

    def _detect(self, group: list[tuple[str, np.ndarray, dict]]) -> dict[str, Predicted]:
        names, images, states = zip(*group, strict=True)
        with self.turn:
            detections = self.detector(images)
        predicted = {}
        for name, image, found, state in zip(names, images, detections, states, strict=True):
            height, width = image.shape[:2]
            predicted[name] = Predicted(name, height, width, found, state)
            if self.draw is not None:
                self.draw(image, predicted[name])
        return predicted
