"""An object, and a small random CLIP, for the tests of KeAD's texts."""

import torch

from detectron2_agssp.scoring.kead.descriptions import Defect, ObjectDescription

PIT = Defect("deep_pit", "a dark hole")
SCALE = Defect("scale", "old {} with crust")
STRIP = ObjectDescription("steel_strip", ("an even face", "new {}"), (PIT, SCALE))


def small_clip(open_clip, seed=0):
    torch.manual_seed(seed)
    vision = {"image_size": 96, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return open_clip.model.CLIP(embed_dim=48, vision_cfg=vision, text_cfg=text).eval()
