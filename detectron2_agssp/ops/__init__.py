"""Operators of anomaly scoring."""

from detectron2_agssp.ops.channel_energy import channel_energy

__all__ = ["channel_energy"]
