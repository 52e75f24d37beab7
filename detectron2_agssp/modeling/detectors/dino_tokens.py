"""Levels of a backbone as the tokens that a transformer reads, with what it needs to know of each:
its place, and whether it lies on the image.

Images of a batch are padded to one size. Padding is kept out of everything here, so that the
tokens of an image do not depend on the sizes of the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from detectron2_agssp.modeling.detectors.deformable_attention import lengths

NUM_GROUPS = 32


@dataclass(frozen=True)
class Tokens:
    """Of N images: S cells of L levels, row by row, the finest level first.

    Attributes:
        content: (N, S, D).
        positions: (N, S, D), to be added where attention asks for places.
        valid: (N, S) bool, whether a cell shows a part of the image.
        centers: (N, S, 2) x, y of a cell's middle, as shares of the image's width and height.
        shapes: (height, width) of each level, in cells.
        scales: (N, L, 2) width and height of the image, as shares of the level's.
    """

    content: Tensor
    positions: Tensor
    valid: Tensor
    centers: Tensor
    shapes: list[tuple[int, int]]
    scales: Tensor


def sine_embedding(shares: Tensor, channels: int, temperature: float = 10_000.0) -> Tensor:
    """Sines and cosines (..., K * channels) of K shares (..., K) in [0, 1]; wavelengths from 1 to
    ``temperature`` (Vaswani et al., NeurIPS 2017).

    Args:
        channels: of each share, even: the sine and the cosine of a wavelength, side by side.
    """
    exponents = torch.arange(channels // 2, device=shares.device) / (channels // 2)
    angles = shares[..., None] * (2 * math.pi) / temperature**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm whose statistics are those of the cells that lie on the image."""

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """(N, C, h, w) and (N, h, w) bool, with a cell of every image -> (N, C, h, w)."""
        dtype = features.dtype
        groups = features.float().unflatten(1, (self.num_groups, -1))
        weights = valid[:, None, None].to(groups.dtype)
        number = groups.shape[2] * weights.sum(dim=(2, 3, 4), keepdim=True)
        mean = (groups * weights).sum(dim=(2, 3, 4), keepdim=True) / number
        variance = ((groups - mean).square() * weights).sum(dim=(2, 3, 4), keepdim=True) / number
        normed = ((groups - mean) * (variance + self.eps).rsqrt()).flatten(1, 2)
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]).to(dtype)


class Tokenizer(nn.Module):
    """Levels of a backbone, and one made of the coarsest, as :class:`Tokens`.

    Args:
        input_shape: of the levels, from the finest; each stride is known.
        dim: D, a multiple of 32.
    """

    def __init__(self, *, input_shape: Sequence[ShapeSpec], dim: int):
        super().__init__()
        self.strides = [shape.stride for shape in input_shape]
        self.strides.append(2 * self.strides[-1])
        last = input_shape[-1].channels
        self.projections = nn.ModuleList(nn.Conv2d(s.channels, dim, 1) for s in input_shape)
        self.projections.append(nn.Conv2d(last, dim, 3, stride=2, padding=1))
        self.norms = nn.ModuleList(MaskedGroupNorm(NUM_GROUPS, dim) for _ in self.projections)
        self.level_embedding = nn.Parameter(torch.empty(len(self.projections), dim))
        nn.init.normal_(self.level_embedding)
        for projection in self.projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> Tokens:
        """Levels (N, C, h, w), and (height, width) of each image in pixels -> its tokens."""
        # Sizes are tensors where a model is traced.
        rows = [torch.as_tensor(size, device=features[0].device) for size in image_sizes]
        sizes = torch.stack(rows).flip(1).float()
        # What a convolution sees beyond the image is to be what it sees off the level.
        on_image = _on_image(features[-1].shape[-2:], self.strides[-2], sizes)
        inputs = [*features, features[-1] * on_image[:, None]]
        contents, positions, valids, centers, shapes, scales = [], [], [], [], [], []
        for level, (project, norm) in enumerate(zip(self.projections, self.norms, strict=True)):
            content, stride = project(inputs[level]), self.strides[level]
            height, width = shape = content.shape[-2:]
            valid = _on_image(shape, stride, sizes)
            center = (_corners(shape, stride, sizes) + stride / 2) / sizes[:, None, None]
            # y before x, as published weights have it.
            place = sine_embedding(center.flatten(1, 2).flip(-1), content.shape[1] // 2)
            contents.append(norm(content, valid).flatten(2).transpose(1, 2))
            positions.append(place + self.level_embedding[level])
            valids.append(valid.flatten(1))
            centers.append(center.flatten(1, 2))
            shapes.append((height, width))
            scales.append(sizes / (lengths((width, height), sizes) * stride))
        return Tokens(
            torch.cat(contents, dim=1),
            torch.cat(positions, dim=1),
            torch.cat(valids, dim=1),
            torch.cat(centers, dim=1),
            shapes,
            torch.stack(scales, dim=1),
        )


def _corners(shape: tuple[int, int], stride: int, sizes: Tensor) -> Tensor:
    """(h, w, 2) x, y in pixels of the top left corners of cells."""
    y, x = (torch.arange(length, device=sizes.device) * stride for length in shape)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def _on_image(shape: tuple[int, int], stride: int, sizes: Tensor) -> Tensor:
    """(N, h, w) bool: whether a cell shows a part of an image; ``sizes`` (N, 2) width, height."""
    return (_corners(shape, stride, sizes) < sizes[:, None, None]).all(dim=-1)
