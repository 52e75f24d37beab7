"""The decoder of the scorer `synthetic`."""

import torch

from detectron2_agssp.scoring.synthetic.decoder import DefectDecoder


def make_levels(count=2):
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 6, 10), (3, 3, 5))
    return [10 + 4 * torch.randn(count, *shape, generator=generator) for shape in shapes]


def test_shape_and_gradients():
    decoder, levels = DefectDecoder((5, 3), 4), make_levels()
    logits = decoder(levels)
    assert logits.shape == (2, 6, 10)
    logits.square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in decoder.parameters())


def test_every_level_counts():
    decoder, levels = DefectDecoder((5, 3), 4), make_levels()
    for level in range(2):
        changed = list(levels)
        changed[level] = levels[level] + 1
        assert not torch.allclose(decoder(changed), decoder(levels))


def test_standardises_by_the_given_batches():
    decoder, batches = DefectDecoder((5, 3), 4), [make_levels(2), make_levels(3)]
    for levels in batches:
        levels[0][:, 2] = 7
    decoder.standardise(batches)
    cells = torch.cat([levels[1].transpose(0, 1).flatten(1) for levels in batches], dim=1)
    torch.testing.assert_close(decoder.mean1, cells.mean(dim=1))
    torch.testing.assert_close(decoder.scale1, 1 / cells.std(dim=1, unbiased=False))
    assert (decoder.mean0[2], decoder.scale0[2]) == (7, 1)
