"""Number formats of a network by name, and whether a CPU is made for them."""

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(name: str, key: str) -> torch.dtype:
    """The number format of a config value.

    Args:
        name: "fp32", "bf16" or "fp16".
        key: of the config, for the error.

    Raises:
        ValueError: another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"{key} is {name!r}. Choices: {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Context in which a network's matrix products are in ``dtype`` on a type of device; of
    float32, none."""
    return torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without them it is slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
