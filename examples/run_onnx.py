"""Detects by an exported ONNX file: python run_onnx.py model.onnx image.png [threshold]"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def resampling(source: int, target: int) -> np.ndarray:
    """(target, source) weights: a triangle as wide as a target pixel, as Pillow's BILINEAR."""
    scale = source / target
    centers = (np.arange(target)[:, None] + 0.5) * scale
    weights = np.maximum(1 - np.abs(np.arange(source) + 0.5 - centers) / max(scale, 1), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def detect(session: onnxruntime.InferenceSession, image: np.ndarray, about: dict):
    """Boxes (K, 4) XYXY in pixels, scores and classes of an image (H, W, 3) uint8 RGB."""
    height, width = image.shape[:2]
    scale = min(about["min_size"] / min(height, width), about["max_size"] / max(height, width))
    scale = scale or 1  # min_size 0: as it is
    h, w = int(height * scale + 0.5), int(width * scale + 0.5)
    rows = np.rint(np.einsum("xw,hwc->hxc", resampling(width, w), image))
    resized = np.rint(np.einsum("yh,hxc->cyx", resampling(height, h), rows)).astype(np.uint8)
    boxes, scores, classes, counts = session.run(None, {"images": resized[None]})
    found = np.arange(scores.shape[1]) < counts[0]
    boxes = boxes[0, found] * np.tile([width / w, height / h], 2)
    return boxes, scores[0, found], classes[0, found]


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["agssp"])
    threshold = float(sys.argv[3]) if len(sys.argv) > 3 else about["threshold"]
    image = cv2.imread(sys.argv[2], cv2.IMREAD_COLOR)
    for box, score, kind in zip(*detect(session, image[:, :, ::-1], about), strict=True):
        if score >= threshold:
            print(about["classes"][kind], f"{score:.3f}", *np.round(box, 1))
