"""The pool of images and the loss of the scorer `synthetic`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detectron2_agssp.scoring.synthetic.training import ImagePool, drawn_defect_loss
from tests.scoring.tiny_features import make_images


def numbered(count, height=8, width=12):
    """The i-th image is i everywhere."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, height, width)


def test_pool_is_a_seeded_sample_however_the_stream_is_cut():
    images = numbered(50)
    pools = [ImagePool(part, size=9, seed=3) for part in (images, images.split(7))]
    kept = [[int(image[0, 0, 0]) for image in pool.images] for pool in pools]
    assert kept[0] == kept[1] == sorted(set(kept[0]))
    assert len(kept[0]) == 9
    assert kept[0] != [int(i[0, 0, 0]) for i in ImagePool(images, size=9, seed=4).images]
    assert len(ImagePool(images, size=99, seed=3).images) == 50
    assert pools[0].images[0].dtype == np.uint8


def test_draws():
    pool = ImagePool(make_images(3, 64, 96), size=10, seed=0)
    images, masks = pool.draw(np.random.default_rng(0), 4)
    assert (images.shape, masks.shape) == ((4, 3, 64, 96), (4, 64, 96))
    assert images.dtype == masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0, 1}
    assert images.max() > 1
    again, _ = pool.draw(np.random.default_rng(0), 4)
    assert torch.equal(images, again)


def test_draws_are_of_one_size():
    pool = ImagePool([make_images(2, 64, 96), make_images(2, 96, 64)], size=10, seed=0)
    rng = np.random.default_rng(0)
    shapes = {tuple(pool.draw(rng, 2)[0].shape[2:]) for _ in range(12)}
    assert shapes == {(64, 96), (96, 64)}


def test_pool_refuses_what_is_no_number():
    with pytest.raises(ValueError, match="Images to fit on are not finite"):
        ImagePool(numbered(2) * torch.nan, size=2, seed=0)


class TestLoss:
    def test_against_its_definition(self):
        logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
        masks = torch.zeros(2, 12, 20)
        masks[0, :4, :8] = 1  # cells (0, 0) and (0, 1)
        masks[1, 4, 0] = 1  # a sixteenth of cell (1, 0): neither
        drawn = F.softplus(-logits[0, 0, :2]).mean()
        background = [
            F.softplus(torch.cat([logits[0, 0, 2:], logits[0, 1:].flatten()])),
            F.softplus(torch.cat([logits[1, 0], logits[1, 1, 1:], logits[1, 2]])),
        ]
        # 13 and 14 cells of background: 2 of each are left out at 0.2.
        easy = torch.cat([loss.sort().values[:-2] for loss in background]).mean()
        torch.testing.assert_close(drawn_defect_loss(logits, masks, 0.2), drawn + easy)
        every = torch.cat(background).mean()
        torch.testing.assert_close(drawn_defect_loss(logits, masks, 0.0), drawn + every)

    def test_of_the_worst_background_no_gradient(self):
        logits = torch.zeros(1, 2, 5)
        logits[0, 1, 3] = 7
        logits.requires_grad_()
        drawn_defect_loss(logits, torch.zeros(1, 8, 20), 0.1).backward()
        assert logits.grad[0, 1, 3] == 0
        assert (logits.grad != 0).sum() == 9

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_of_all_defect_and_none(self, value):
        logits = torch.zeros(2, 3, 4)
        loss = drawn_defect_loss(logits, torch.full((2, 12, 16), value), 0.1)
        torch.testing.assert_close(loss, torch.tensor(2.0).log())
