"""Looking names up in Detectron2's registries, with an error that lists what there is."""

from collections.abc import Callable

from detectron2.utils.registry import Registry


def get_registered(registry: Registry, name: str, *, key: str) -> Callable:
    """``registry[name]``, or a ValueError that names ``key`` (a config key) and the choices."""
    if name not in registry:
        choices = ", ".join(sorted(repr(choice) for choice, _ in registry))
        raise ValueError(f"{key} is {name!r}, which is not registered. Choices: {choices}.")
    return registry.get(name)
