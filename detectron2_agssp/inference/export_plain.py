"""A trained detector for Detectron2 alone: a weight file, and its config without AGSSP's node."""

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from detectron2_agssp.checkpoint.record import AUTHOR
from detectron2_agssp.inference.run import open_run
from detectron2_agssp.io.files import atomic_write


def export_plain(run: str | Path, path: str | Path, options: Sequence[str] = ()) -> Path:
    """Writes a ``.pth`` of all weights, and beside it a ``.yaml`` of the same name that plain
    Detectron2 reads; its MODEL.WEIGHTS is the ``.pth``.

    Args:
        run: output folder of a training, or a weight file beside its ``config.yaml``.
        path: of the ``.pth``.
        options: KEY VALUE pairs that override the run's config.

    Returns:
        The config's path.

    Raises:
        FileNotFoundError, ValueError: no such run; or Detectron2 alone cannot build its detector
            or backbone.
    """
    opened = open_run(run, options)
    cfg = opened.cfg
    weights, config = Path(path), Path(path).with_suffix(".yaml")
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        if not registry.get(name).__module__.startswith("detectron2."):
            raise ValueError(
                f"{key} {name} is of detectron2_agssp, and Detectron2 alone cannot build it. "
                "Import the package where the run is used, or export it as .onnx or .ts."
            )
    plain = cfg.clone()
    plain.defrost()
    del plain["AGSSP"]
    plain.MODEL.WEIGHTS = str(weights)
    content = {"model": opened.build_model().state_dict(), "__author__": AUTHOR}
    with atomic_write(weights, "wb") as file:
        torch.save(content, file)
    with atomic_write(config) as file:
        file.write(plain.dump())
    return config
