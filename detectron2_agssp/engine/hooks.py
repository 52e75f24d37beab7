"""Hooks beside Detectron2's own."""

import logging
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from detectron2_agssp.checkpoint.export import export_backbone

logger = logging.getLogger(__name__)


class ExportBackbone(HookBase):
    """Writes ``backbone_final.pth`` after the last iteration, for any detector's ``MODEL.WEIGHTS``.

    It has to come before the hook that writes ``model_final.pth``, which says that all is done.

    Args:
        output_dir: folder of the file.
    """

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir) / "backbone_final.pth"

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter or not comm.is_main_process():
            return
        export_backbone(self.trainer.model, self.path)
        logger.info("Exported the backbone. Use it with MODEL.WEIGHTS %s", self.path)
