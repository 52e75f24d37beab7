"""DINO's tokens: where they lie, and that padding stays out."""

import math

import torch
from detectron2.layers import ShapeSpec
from torch import nn

from detectron2_agssp.modeling.detectors.deformable_attention import sample_levels
from detectron2_agssp.modeling.detectors.dino_tokens import (
    MaskedGroupNorm,
    Tokenizer,
    sine_embedding,
)

LEVELS = [ShapeSpec(channels=4, stride=8), ShapeSpec(channels=4, stride=16)]
SIZES = [(50, 64), (33, 70)]


def padded_tokens():
    """Of images of ``SIZES``, padded to 64 x 96 pixels."""
    torch.manual_seed(0)
    features = [torch.rand(2, 4, 8, 12), torch.rand(2, 4, 4, 6)]
    return Tokenizer(input_shape=LEVELS, dim=32)(features, SIZES)


def test_places_of_tokens():
    """A cell that shows a part of its image is valid, its middle is a share of the image."""
    tokens = padded_tokens()
    assert tokens.shapes == [(8, 12), (4, 6), (2, 3)]
    cells = [
        (stride, x, y)
        for stride, (height, width) in zip((8, 16, 32), tokens.shapes, strict=True)
        for y in range(height)
        for x in range(width)
    ]
    for image, (height, width) in enumerate(SIZES):
        valid = [x * stride < width and y * stride < height for stride, x, y in cells]
        assert tokens.valid[image].tolist() == valid
        centers = [
            ((x + 0.5) * stride / width, (y + 0.5) * stride / height) for stride, x, y in cells
        ]
        torch.testing.assert_close(tokens.centers[image], torch.tensor(centers))
        scales = torch.tensor([width / 96, height / 64]).expand(3, -1)
        torch.testing.assert_close(tokens.scales[image], scales)


def test_points_are_found_where_tokens_are():
    """A sample at the middle of a cell is that cell, on every level, whatever the padding."""
    tokens = padded_tokens()
    level = torch.repeat_interleave(torch.arange(3), torch.tensor([96, 24, 6]))
    weights = nn.functional.one_hot(level, 3).float()[None, :, None, :, None]
    locations = tokens.centers[:, :, None, None] * tokens.scales[:, None, None]
    found = sample_levels(
        tokens.content[:, :, None],
        tokens.shapes,
        locations[..., None, :],
        weights.expand(2, -1, -1, -1, -1),
    )
    torch.testing.assert_close(found, tokens.content, rtol=0, atol=1e-4)


def test_sines_against_a_loop():
    found = sine_embedding(torch.tensor([[0.3, 0.9]]), 6)[0]
    expected = []
    for share in (0.3, 0.9):
        angles = [2 * math.pi * share / 10_000 ** (k / 3) for k in range(3)]
        expected += [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_group_norm_sees_the_image_only():
    torch.manual_seed(0)
    norm = MaskedGroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = torch.rand(1, 8, 5, 7)
    valid = torch.zeros(1, 5, 7, dtype=torch.bool)
    valid[:, :3, :4] = True
    own = features[:, :, :3, :4]
    expected = nn.functional.group_norm(own, 4, norm.weight, norm.bias)
    torch.testing.assert_close(norm(features, valid)[:, :, :3, :4], expected)
