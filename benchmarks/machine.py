"""The machine that a figure was measured on."""

import platform
from datetime import date
from pathlib import Path

import torch


def describe_machine(device: str = "cpu") -> str:
    """One line: date, processor or GPU, threads, versions."""
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_processor()}, {torch.get_num_threads()} threads"
    return (
        f"{date.today().isoformat()}, {where}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
