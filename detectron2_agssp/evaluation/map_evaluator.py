"""How much the backbone's energies look like the anomaly maps."""

import numpy as np
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from detectron2_agssp.modeling.losses import resize_target


class AnomalyMapEvaluator(DatasetEvaluator):
    """Mean cosine between energy and anomaly map, a feature level; the loss is 2 - 2 cosine.

    Images whose map is all zeros have no direction and are left out.

    Args:
        target_resize: as in training; "area" or "bilinear".
    """

    def __init__(self, target_resize: str = "area"):
        self.target_resize = target_resize
        self.reset()

    def reset(self) -> None:
        self._cosines: dict[str, list[float]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """``inputs`` with ``anomaly_map`` (1, H, W), ``outputs`` with ``energies``."""
        for sample, output in zip(inputs, outputs, strict=True):
            if not sample["anomaly_map"].any():
                continue
            for name, energy in output["energies"].items():
                target = resize_target(
                    sample["anomaly_map"][None].to(energy), *energy.shape, self.target_resize
                )
                cosine = F.cosine_similarity(energy.flatten(), target.flatten(), dim=0)
                self._cosines.setdefault(name, []).append(float(cosine))

    def evaluate(self) -> dict:
        """``{"anomaly_map": {"cosine_<feature>": ...}}``; empty on all but the main process."""
        gathered = comm.gather(self._cosines)
        if not comm.is_main_process():
            return {}
        cosines: dict[str, list[float]] = {}
        for part in gathered:
            for name, values in part.items():
                cosines.setdefault(name, []).extend(values)
        means = {f"cosine_{name}": float(np.mean(values)) for name, values in cosines.items()}
        return {"anomaly_map": means}
