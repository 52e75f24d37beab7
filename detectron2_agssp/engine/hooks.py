"""Hooks beside Detectron2's own."""

import logging
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from detectron2_agssp.checkpoint.export import export_backbone

logger = logging.getLogger(__name__)


class ExportBackbone(HookBase):
    """Writes ``backbone_final.pth`` after training, for any detector's ``MODEL.WEIGHTS``.

    Args:
        output_dir: folder of the file.
    """

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir) / "backbone_final.pth"

    def after_train(self) -> None:
        # after_train also runs when training broke off; only a finished one counts one further.
        if self.trainer.iter < self.trainer.max_iter or not comm.is_main_process():
            return
        export_backbone(self.trainer.model, self.path)
        logger.info("Exported the backbone. Use it with MODEL.WEIGHTS %s", self.path)
