"""Looking names up, with an error that lists what there is."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from detectron2.utils.registry import Registry

T = TypeVar("T")


def get_registered(registry: Registry, name: str, *, key: str) -> Callable:
    """``registry[name]``, or a ValueError that names ``key`` (a config key) and the choices."""
    if name not in registry:
        choices = ", ".join(sorted(repr(choice) for choice, _ in registry))
        raise ValueError(f"{key} is {name!r}, which is not registered. Choices: {choices}.")
    return registry.get(name)


def get_preset(presets: Mapping[str, T], name: str, *, key: str) -> T:
    """``presets[name]``, or a ValueError that names ``key`` (a config key) and the choices."""
    if name not in presets:
        raise ValueError(f"{key} is {name!r}. Choices: {', '.join(presets)}.")
    return presets[name]
