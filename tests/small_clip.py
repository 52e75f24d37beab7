"""A small CLIP with random weights, known to open_clip by a name."""

import json
from pathlib import Path

import torch

NAME = "agssp-small"
CONFIG = {
    "embed_dim": 48,
    "vision_cfg": {
        "image_size": 96,
        "patch_size": 16,
        "width": 64,
        "layers": 12,
        "head_width": 16,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
# Two kinds of defects, one of them typed as the whole phrase; few prompts, which take a while.
DESCRIPTIONS = """
steel strip:
  normal: [an even face]
  defects:
    - {name: deep_pit, appearance: a dark hole}
    - {name: scale, appearance: "old {} with crust"}
"""


def register_clip(folder: Path, name: str = NAME, **changes) -> None:
    """Makes ``name`` a model of open_clip; ``changes`` replace keys of ``CONFIG``."""
    import open_clip

    path = folder / f"{name}.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    open_clip.add_model_config(path)


def make_small_clip(folder: Path, seed: int = 0) -> Path:
    """Registers the small CLIP and saves weights of it; returns their file."""
    import open_clip

    register_clip(folder)
    path = folder / f"clip_{seed}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(open_clip.create_model(NAME, pretrained=None).state_dict(), path)
    return path


def clip_settings(folder: Path) -> list:
    """Of KeAD on the small CLIP, for ``cfg.merge_from_list``; its files are put into ``folder``."""
    descriptions = folder / "descriptions.yaml"
    descriptions.write_text(DESCRIPTIONS)
    settings = {
        "IMAGE_SIZE": 96,
        "KEAD.MODEL": NAME,
        "KEAD.PRETRAINED": str(make_small_clip(folder)),
        "KEAD.DESCRIPTIONS": str(descriptions),
    }
    pairs = [(f"AGSSP.SCORER.{key}", value) for key, value in settings.items()]
    return [part for pair in pairs for part in pair]
