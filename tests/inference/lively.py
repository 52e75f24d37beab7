"""Random detectors that detect: their predictions are spread as those of trained ones are."""

import torch
from torch import nn

from tests.conftest import make_surface

# Layer -> mean and spread of what it shall say on the images below. A layer that others look at
# comes before them.
PREDICTORS = {
    "objectness_logits": (-1.0, 2.0),
    "anchor_deltas": (0.0, 0.3),
    "cls_score": (-3.5, 1.5),
    "bbox_pred": (0.0, 0.3),
    "ctrness": (0.0, 1.0),
    "box_bins": (0.0, 1.5),
}
# An R-CNN's logits have a background's to beat.
LINEAR = {"cls_score": (0.0, 1.0)}


@torch.no_grad()
def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Scales and shifts the layers that predict, channel by channel; in evaluation mode."""
    model.eval()
    surfaces = [make_surface(96, 128, seed + k) for k in range(4)]
    inputs = [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in surfaces]
    for kind, target in PREDICTORS.items():
        for name, layer in model.named_modules():
            if kind not in name.split(".") or not isinstance(layer, (nn.Conv2d, nn.Linear)):
                continue
            said: list[torch.Tensor] = []
            # Detectron2 turns logits into scores in place.
            hook = layer.register_forward_hook(
                lambda *call, said=said: said.append(call[2].clone())
            )
            model(inputs)
            hook.remove()
            linear = isinstance(layer, nn.Linear)
            mean, spread = LINEAR.get(kind, target) if linear else target
            columns = torch.cat([o if linear else o.transpose(1, -1).flatten(0, -2) for o in said])
            scale = spread / columns.std(dim=0).clamp(min=1e-6)
            layer.weight *= scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
            layer.bias.copy_(mean + scale * (layer.bias - columns.mean(dim=0)))
    return model
