"""A run's detector on images: equally large ones in a batch, others in tiles."""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.inference.run import Run
from detectron2_agssp.inference.tiles import Frame, cut_tiles, merge_tiles, tile_frames
from detectron2_agssp.io.masks import encode_mask
from detectron2_agssp.utils.precision import autocast, check_precision, cpu_has_bfloat16

logger = logging.getLogger(__name__)

# Of an image: "boxes" (K, 4) float32 XYXY in its pixels, "scores" (K,) float32 and "classes" (K,)
# int64, by falling score; of a model with masks, on an image that is not tiled, "masks", K run
# lengths as COCO's.
Detections = dict[str, Tensor | list[dict]]


class Detector:
    """The detections of images (H, W, 3) uint8, RGB, with a score of at least ``threshold``.

    Args:
        run: whose model is built; AGSSP.PREDICT of its config has the overlap of neighbouring
            tiles, how many images or tiles a batch has at most, and the precision.
        threshold: in [0, 1]; the model's own, such as MODEL.ROI_HEADS.SCORE_THRESH_TEST, holds too.
        tile: side of tiles in pixels of the image; 0: images are taken whole, and so are those that
            one tile covers.

    Raises:
        ValueError: an argument is out of its range, or as of :meth:`Run.build_model`.
    """

    def __init__(self, run: Run, *, threshold: float, tile: int = 0):
        settings = run.cfg.AGSSP.PREDICT
        tile_overlap, batch_size = settings.TILE_OVERLAP, settings.BATCH_SIZE
        if not 0 <= threshold <= 1:
            raise ValueError(f"A threshold is in [0, 1], got {threshold}.")
        if batch_size < 1:
            raise ValueError(f"AGSSP.PREDICT.BATCH_SIZE must be positive, got {batch_size}.")
        if not 0 < tile_overlap <= 0.5:
            raise ValueError(
                f"AGSSP.PREDICT.TILE_OVERLAP must be in (0, 0.5], got {tile_overlap}: what lies "
                "across a seam is put together by what both tiles see of it."
            )
        self.cfg = run.cfg
        self.threshold = threshold
        self.tile = tile
        self.tile_overlap = tile_overlap
        self.batch_size = batch_size
        self.device = torch.device(run.cfg.MODEL.DEVICE).type
        self.dtype = _dtype(settings.PRECISION, self.device)
        self.model = run.build_model()
        stride = max(shape.stride for shape in self.model.backbone.output_shape().values())
        if tile and tile < stride:
            raise ValueError(
                f"A tile of {tile} pixels is smaller than {stride}, the largest stride of the "
                "detector. Tiles are best as large as the images that it was trained on."
            )
        # Before NMS, where what goes anyway takes time; `>` there is `>=` here.
        lowest = float(np.nextafter(np.float32(threshold), np.float32(-1)))
        self.nms_iou = 0.5
        for module in self.model.modules():
            if hasattr(module, "test_score_thresh"):
                module.test_score_thresh = max(module.test_score_thresh, lowest)
                self.nms_iou = module.test_nms_thresh

    def frames(self, height: int, width: int) -> list[Frame]:
        """XYXY of the tiles of an image; one of the whole image where they are not needed."""
        return tile_frames(height, width, self.tile or max(height, width), self.tile_overlap)

    def __call__(self, images: list[np.ndarray]) -> list[Detections]:
        """Detects in images of one shape."""
        frames = self.frames(*images[0].shape[:2])
        if len(frames) == 1:
            return list(self._detect(images))
        tiles = (list(self._detect(cut_tiles(image, frames))) for image in images)
        return [merge_tiles(found, frames, nms_iou=self.nms_iou) for found in tiles]

    def _detect(self, images: list[np.ndarray]) -> Iterator[Detections]:
        for start in range(0, len(images), self.batch_size):
            batch = [model_input(self.cfg, im) for im in images[start : start + self.batch_size]]
            with torch.inference_mode(), autocast(self.device, self.dtype):
                outputs = [output["instances"].to("cpu") for output in self.model(batch)]
            yield from map(self._plain, outputs)

    def _plain(self, instances: Instances) -> Detections:
        kept = instances[instances.scores >= self.threshold]
        # Outside inference mode tensors can be changed in place, and be pickled, again.
        found: Detections = {
            "boxes": kept.pred_boxes.tensor.float().clone(),
            "scores": kept.scores.float().clone(),
            "classes": kept.pred_classes.clone(),
        }
        if kept.has("pred_masks"):
            found["masks"] = [encode_mask(mask.numpy()) for mask in kept.pred_masks]
        return found


def _dtype(precision: str, device: str) -> torch.dtype:
    """Of AGSSP.PREDICT.PRECISION on a type of device."""
    dtype = check_precision(precision, "AGSSP.PREDICT.PRECISION")
    if device != "cpu":
        return dtype
    if dtype == torch.float16:
        raise ValueError("AGSSP.PREDICT.PRECISION fp16 is for GPUs; on a CPU take bf16.")
    if dtype == torch.bfloat16 and not cpu_has_bfloat16():
        logger.warning(
            "AGSSP.PREDICT.PRECISION: this CPU has no instructions for bf16; predicting in fp32."
        )
        return torch.float32
    return dtype
