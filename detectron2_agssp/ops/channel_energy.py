"""The energy of a feature map (AGSSP, section on AGBP)."""

import torch
from torch import Tensor

from detectron2_agssp.ops import native


def channel_energy(features: Tensor) -> Tensor:
    """Sum of squares over the channels: (N, C, H, W) -> (N, 1, H, W), in float32 at least;
    differentiable twice.

    Raises:
        ValueError: ``features`` is not 4-D or not floating point.
    """
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(
            "channel_energy needs floating-point features (N, C, H, W), got "
            f"{tuple(features.shape)}, {features.dtype}."
        )
    if native.use_native(NATIVE_DEVICES, features.device):
        return torch.ops.detectron2_agssp.channel_energy(features)
    return reference(features)


def reference(features: Tensor) -> Tensor:
    """The same in PyTorch's own operators."""
    # Squares of float16 features overflow from 256 on.
    return _wide(features).square().sum(dim=1, keepdim=True)


def _wide(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _register() -> None:
    """Fake kernels and gradients of the compiled operator."""
    ops = torch.ops.detectron2_agssp

    @torch.library.register_fake("detectron2_agssp::channel_energy")
    def _(features):
        dtype = torch.promote_types(features.dtype, torch.float32)
        num_images, _, height, width = features.shape
        return features.new_empty((num_images, 1, height, width), dtype=dtype)

    @torch.library.register_fake("detectron2_agssp::channel_energy_backward")
    def _(grad, features):
        return torch.empty_like(features)

    def keep_features(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def backward(ctx, grad):
        (features,) = ctx.saved_tensors
        return ops.channel_energy_backward(grad, features)

    def double_backward(ctx, grad_of_gradient):
        grad, features = ctx.saved_tensors
        product = 2 * _wide(grad_of_gradient)
        to_grad = (product * _wide(features)).sum(dim=1, keepdim=True).to(grad.dtype)
        return to_grad, (product * grad).to(features.dtype)

    torch.library.register_autograd(
        "detectron2_agssp::channel_energy", backward, setup_context=keep_features
    )
    torch.library.register_autograd(
        "detectron2_agssp::channel_energy_backward", double_backward, setup_context=keep_features
    )


NATIVE_DEVICES = native.register_native("channel_energy", _register)
