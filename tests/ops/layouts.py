"""The same numbers in other layouts, and a cosine by hand."""

import math

import torch


def cosine(a, b):
    product = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / product if product else 0.0


def contiguous(tensor):
    return tensor.contiguous()


def strided(tensor):
    return torch.stack([tensor, tensor + 1], dim=-1).flatten(-2)[..., ::2]


def transposed(tensor):
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)
