"""Patch features that a test can compute by hand, and images for them."""

import torch
import torch.nn.functional as F

from detectron2_agssp.scoring.patch_features import PatchFeatures


class CellFeatures(PatchFeatures):
    """Two levels: colours' means over 4 x 4 and 8 x 8 pixels, mixed into 5 and 3 channels."""

    def __init__(self, **settings):
        super().__init__(level_channels=(5, 3), strides=(4, 8), size_divisor=8, **settings)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("fine", torch.randn(5, 3, generator=generator))
        self.register_buffer("coarse", torch.randn(3, 3, generator=generator))

    def levels(self, images):
        centred = images / 128 - 1
        return [
            torch.einsum("dc,nchw->ndhw", mix, F.avg_pool2d(centred, size))
            for mix, size in ((self.fine, 4), (self.coarse, 8))
        ]


def make_images(count, height=16, width=24, seed=0):
    """Noise of whole numbers (N, 3, H, W) in [0, 255]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).float()


def make_surfaces(count, height=32, width=48, seed=0):
    """The same stripes with some noise: each patch has one like it in every other image."""
    stripes = torch.zeros(3, height, width)
    stripes[0, :, 0::8], stripes[1, 0::8], stripes[2] = 200, 90, 120
    blocks = F.avg_pool2d(stripes[None], 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (blocks + make_images(count, height, width, seed) / 64).floor()
