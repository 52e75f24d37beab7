"""Weight files of half the size, to be handed on: a training checkpoint without optimiser, its
matrices and kernels in float16. Detectron2 loads them into its float32 models as they are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detectron2_agssp.checkpoint.coverage import bare_backbone
from detectron2_agssp.checkpoint.record import AUTHOR, KEY
from detectron2_agssp.io.files import atomic_write, user_path
from detectron2_agssp.io.weight_files import read_weight_file, state_dict_of
from detectron2_agssp.modeling.teacher import detector_weights


@dataclass(frozen=True)
class HalfWeights:
    """What :func:`write_half` wrote.

    Attributes:
        path: of the file.
        size: bytes.
        halved, kept: how many tensors are in float16, and how many are as they were.
    """

    path: Path
    size: int
    halved: int
    kept: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.size / 1e6:.1f} MB, {self.halved} tensors in float16, "
            f"{self.kept} as they were"
        )


def write_half(
    checkpoint: str | os.PathLike, path: str | os.PathLike, *, backbone: bool = False
) -> HalfWeights:
    """Writes the weights of a checkpoint, and the record of what they were trained with, alone.

    Norms, biases and statistics (all that has one dimension), integers, and tensors with numbers
    that float16 cannot hold stay as they are.

    Args:
        checkpoint: of AGDP, fine-tuning or teacher rounds (the detector's own weights), or a file
            that ``export_backbone`` wrote.
        path: ends in ``.pth``.
        backbone: the backbone alone, under the bare names of ``export_backbone``.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: a file that cannot be read; weights that are not finite; another suffix; a
            checkpoint that does not record which of its weights are the backbone's.
    """
    path = user_path(os.fspath(path))
    if path.suffix != ".pth":
        raise ValueError(f"The file must end in .pth, as Detectron2 expects it; got {path}.")
    content = read_weight_file(user_path(os.fspath(checkpoint)))
    weights = detector_weights(state_dict_of(content, checkpoint))
    beside = content if isinstance(content, Mapping) and "model" in content else {}
    record = beside.get(KEY) if isinstance(beside.get(KEY), dict) else {}
    is_backbone = bool(beside.get("matching_heuristics"))
    if backbone and not is_backbone:
        weights, is_backbone = _of_backbone(weights, record, checkpoint), True
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ValueError(
            f"{checkpoint} has NaN or infinity in {len(broken)} tensors, such as {broken[0]}: its "
            "training has diverged. Take an earlier checkpoint."
        )
    halved = {name: _halved(tensor) for name, tensor in weights.items()}
    written = {"model": halved, "matching_heuristics": is_backbone, "__author__": AUTHOR}
    if record:
        written[KEY] = record
    with atomic_write(path, "wb") as file:
        torch.save(written, file)
    count = sum(tensor.dtype == torch.float16 for tensor in halved.values())
    return HalfWeights(path, path.stat().st_size, count, len(halved) - count)


def _of_backbone(weights: Mapping[str, Tensor], record: Mapping, source) -> dict[str, Tensor]:
    prefix = record.get("prefix", "")
    bare = bare_backbone(weights, prefix)
    if not prefix or not bare:
        raise ValueError(
            f"{source} does not record which of its weights are the backbone's. Write these by "
            "agssp backbone, and give that file."
        )
    return bare


def _halved(tensor: Tensor) -> Tensor:
    """In float16 where that is a matrix or more and holds it; never a view of a larger storage."""
    if tensor.dtype != torch.float32 or tensor.dim() < 2:
        return tensor.clone()
    half = tensor.half()
    return half if bool(torch.isfinite(half).all()) else tensor.clone()
