"""Deformable attention against loops in float64, a number at a time."""

import math

import numpy as np
import pytest
import torch

from detectron2_agssp.modeling.detectors.deformable_attention import (
    DeformableAttention,
    sample_levels,
)

SHAPES = [(5, 7), (3, 4), (1, 2), (1, 1)]
NUM_TOKENS = sum(height * width for height, width in SHAPES)


def bilinear(level: np.ndarray, x: float, y: float) -> np.ndarray:
    """Of a level (h, w, D) at x, y in cells, whose middles are at halves; zero beyond."""
    height, width, channels = level.shape
    total = np.zeros(channels)
    for row in range(height):
        for column in range(width):
            share = max(0, 1 - abs(x - column - 0.5)) * max(0, 1 - abs(y - row - 0.5))
            total += share * level[row, column]
    return total


def sampled(values, locations, weights) -> np.ndarray:
    """``sample_levels`` of one image."""
    num_queries, num_heads, num_levels, num_points = weights.shape
    sums = np.zeros((num_queries, num_heads, values.shape[2]))
    ends = np.cumsum([height * width for height, width in SHAPES])
    for q, h, level, p in np.ndindex(num_queries, num_heads, num_levels, num_points):
        height, width = SHAPES[level]
        own = values[ends[level] - height * width : ends[level], h].reshape(height, width, -1)
        x, y = locations[q, h, level, p] * (width, height)
        sums[q, h] += weights[q, h, level, p] * bilinear(own, x, y)
    return sums.reshape(num_queries, -1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sampling_against_a_loop(dtype):
    """Some points lie on borders, and some beyond."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, NUM_TOKENS, 3, 4))
    locations = rng.uniform(-0.2, 1.2, (2, 6, 3, 4, 2, 2))
    locations[0, 0], locations[0, 1] = 0.0, 1.0
    weights = rng.uniform(size=(2, 6, 3, 4, 2))
    arguments = [torch.from_numpy(array).to(dtype) for array in (values, locations, weights)]
    found = sample_levels(arguments[0], SHAPES, *arguments[1:])
    expected = [sampled(*case) for case in zip(values, locations, weights, strict=True)]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found, np.array(expected), rtol=0, atol=tolerance)


def test_gradients_of_sampling():
    """Of values, locations (between cells, where they exist) and weights, by differences."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, NUM_TOKENS, 2, 2, generator=generator, dtype=torch.float64)
    locations = torch.rand(1, 2, 2, 4, 2, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 2, 2, 4, 2, generator=generator, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (values, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: sample_levels(v, SHAPES, x, w), inputs)


def attention(num_heads=2, num_points=3) -> DeformableAttention:
    """With numbers of its own in every parameter."""
    torch.manual_seed(0)
    module = DeformableAttention(
        dim=8, num_heads=num_heads, num_levels=len(SHAPES), num_points=num_points
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


@pytest.mark.parametrize("coordinates", [2, 4])
def test_attention_against_a_loop(coordinates):
    """Equation 2 of Deformable DETR, with its section 3 and appendix A.4 for boxes."""
    module, (num_heads, num_levels, num_points) = attention(), (2, 4, 3)
    rng = np.random.default_rng(1)
    queries, tokens = rng.normal(size=(1, 5, 8)), rng.normal(size=(1, NUM_TOKENS, 8))
    valid = rng.uniform(size=(1, NUM_TOKENS)) < 0.8
    references = rng.uniform(0.1, 0.9, (1, 5, coordinates))
    scales = rng.uniform(0.5, 1, (1, num_levels, 2))
    arrays = (queries, tokens, scales, references)
    query, token, scale, reference = (torch.from_numpy(array).float() for array in arrays)
    with torch.no_grad():
        found = module(query, token, torch.from_numpy(valid), SHAPES, scale, reference)[0]

    def linear(layer, vector):
        return layer.weight.detach().numpy() @ vector + layer.bias.detach().numpy()

    values = np.array([linear(module.value, token) for token in tokens[0]])
    values[~valid[0]] = 0
    values = values.reshape(NUM_TOKENS, num_heads, -1)
    locations = np.zeros((5, num_heads, num_levels, num_points, 2))
    weights = np.zeros(locations.shape[:-1])
    for q in range(5):
        offsets = linear(module.sampling_offsets, queries[0, q]).reshape(locations.shape[1:])
        logits = linear(module.attention_weights, queries[0, q]).reshape(num_heads, -1)
        for h, level, p in np.ndindex(*weights.shape[1:]):
            total = np.exp(logits[h]).sum()
            weights[q, h, level, p] = math.exp(logits[h][level * num_points + p]) / total
            for axis in (0, 1):
                extent, place = SHAPES[level][1 - axis], references[0, q, axis]
                if coordinates == 2:
                    location = place * scales[0, level, axis] + offsets[h, level, p, axis] / extent
                else:
                    half = references[0, q, 2 + axis] / 2
                    shift = offsets[h, level, p, axis] / num_points * half
                    location = (place + shift) * scales[0, level, axis]
                locations[q, h, level, p, axis] = location
    sums = sampled(values, locations, weights)
    expected = [linear(module.output, vector) for vector in sums]
    np.testing.assert_allclose(found, np.array(expected), rtol=0, atol=1e-5)


def test_heads_start_in_directions_of_their_own():
    """Steps of one cell, from the middle outwards, all with the same weight."""
    module = DeformableAttention(dim=8, num_heads=8, num_levels=2, num_points=3)
    offsets = module.sampling_offsets(torch.zeros(8)).view(8, 2, 3, 2)
    lengths = offsets.abs().amax(dim=-1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 2, 3]).expand(8, 2, 3))
    directions = (offsets / lengths[..., None])[:, :, 0].round(decimals=3)
    assert len({tuple(direction) for direction in directions[:, 0].tolist()}) == 8
    assert not module.attention_weights(torch.rand(8)).any()


def test_tokens_that_are_not_valid_are_not_seen():
    module = attention()
    torch.manual_seed(2)
    query, token = torch.rand(1, 5, 8), torch.rand(1, NUM_TOKENS, 8)
    valid = torch.ones(1, NUM_TOKENS, dtype=torch.bool)
    valid[0, 3:20] = False
    rest = (valid, SHAPES, torch.ones(1, 4, 2), torch.rand(1, 5, 4))
    expected = module(query, token, *rest)
    token[0, 3:20] = torch.nan
    torch.testing.assert_close(module(query, token, *rest), expected, rtol=0, atol=0)
