"""Large images in tiles, and the detections of tiles as those of the image."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from detectron2_agssp.maps.geometry import tile_origins

# XYXY in pixels of the image, half open.
Frame = tuple[int, int, int, int]
# IoU, within what two tiles share, from which on two of their boxes show the same object.
SAME_OBJECT = 0.5
# A box that ends so near to a seam is cut by it; as a share of the tile's side.
_CUT = 0.02


def tile_frames(height: int, width: int, tile: int, overlap: float) -> list[Frame]:
    """Tiles of ``tile`` pixels a side that cover an image, row by row; a shorter side is taken
    whole. Neighbours share at least ``overlap`` of their side, in [0, 0.5]."""
    rows, columns = (tile_origins(side, tile, overlap) for side in (height, width))
    return [
        (left, top, min(left + tile, width), min(top + tile, height))
        for top in rows
        for left in columns
    ]


def cut_tiles(image: np.ndarray, frames: Sequence[Frame]) -> list[np.ndarray]:
    """Views of an image (H, W, 3)."""
    return [image[top:bottom, left:right] for left, top, right, bottom in frames]


def merge_tiles(
    detections: Sequence[Mapping[str, Tensor]], frames: Sequence[Frame], *, nms_iou: float
) -> dict[str, Tensor]:
    """One image's detections from those of its tiles, by falling score.

    Boxes of two tiles show the same object where, within what the tiles share, they have an IoU of
    at least ``SAME_OBJECT``, and the same class. They become one: the best of those that no seam
    cuts, grown round those that one does cut. What is left goes through NMS per class.

    Args:
        detections: of each tile, ``boxes`` (K, 4) in its own pixels, ``scores`` and ``classes``
            (K,).
        frames: of :func:`tile_frames`.
        nms_iou: from which on the weaker of two boxes of a class is dropped.
    """
    boxes, scores, classes = (
        torch.cat([found[key] for found in detections]) for key in ("boxes", "scores", "classes")
    )
    if len(boxes) > 0:
        tiles = torch.tensor([i for i, found in enumerate(detections) for _ in found["scores"]])
        places = torch.tensor(frames, dtype=torch.float32)
        boxes = boxes + places[tiles, :2].repeat(1, 2)
        is_cut = _cut_by_a_seam(boxes, places[tiles], places[:, 2:].amax(0))
        objects = [
            _object(boxes[same], scores[same], is_cut[same], classes[same])
            for same in _groups(len(boxes), _same_object(boxes, classes, tiles, places))
        ]
        boxes, scores, classes = (torch.stack(column) for column in zip(*objects, strict=True))
    keep = batched_nms(boxes, scores, classes, nms_iou)
    return {"boxes": boxes[keep], "scores": scores[keep], "classes": classes[keep]}


def _cut_by_a_seam(boxes: Tensor, places: Tensor, size: Tensor) -> Tensor:
    """(K,) bool: whether a box ends at a side of its tile that is not the image's.

    Args:
        boxes, places: of boxes and of their tiles (K, 4), XYXY in pixels of the image.
        size: (2,) width and height of the image.
    """
    inside = torch.cat([places[:, :2] > 0, places[:, 2:] < size], 1)
    near = _CUT * (places[:, 2:] - places[:, :2]).repeat(1, 2)
    return (inside & ((boxes - places).abs() <= near)).any(1)


def _same_object(boxes: Tensor, classes: Tensor, tiles: Tensor, places: Tensor) -> Tensor:
    """(L, 2) pairs of boxes, of two tiles each, that show the same object."""
    used = tiles.unique()
    corner = torch.maximum(places[used, None, :2], places[used, :2])
    opposite = torch.minimum(places[used, None, 2:], places[used, 2:])
    first, second = (corner < opposite).all(-1).triu(1).nonzero(as_tuple=True)
    pairs = [tiles.new_zeros(0, 2)]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        shared = torch.cat([corner[a, b], opposite[a, b]])
        sides = [_inside(boxes, shared, tiles == used[side]) for side in (a, b)]
        (rows, left), (columns, right) = sides
        same = box_iou(left, right) >= SAME_OBJECT
        same &= classes[rows, None] == classes[columns]
        row, column = same.nonzero(as_tuple=True)
        pairs.append(torch.stack([rows[row], columns[column]], 1))
    return torch.cat(pairs)


def _inside(boxes: Tensor, frame: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the ``chosen`` boxes reach into a frame (M,), and the part of each there (M, 4)."""
    low, high = frame[:2].repeat(2), frame[2:].repeat(2)
    parts = torch.minimum(torch.maximum(boxes, low), high)
    rows = (chosen & (parts[:, 2:] > parts[:, :2]).all(1)).nonzero().flatten()
    return rows, parts[rows]


def _groups(count: int, pairs: Tensor) -> list[Tensor]:
    """The members of each set of things that pairs connect."""
    ones = np.ones(len(pairs), bool)
    graph = csr_array((ones, tuple(pairs.T.numpy())), shape=(count, count))
    number, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(1, number))
    return [torch.from_numpy(members) for members in np.split(order, bounds)]


def _object(
    boxes: Tensor, scores: Tensor, is_cut: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Box (4,), score and class of what several boxes show."""
    parts = is_cut.clone()
    if not is_cut.all():
        parts[scores.masked_fill(is_cut, -1).argmax()] = True
    seen = boxes[parts]
    return torch.cat([seen[:, :2].amin(0), seen[:, 2:].amax(0)]), scores.max(), classes[0]
