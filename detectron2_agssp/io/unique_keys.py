"""YAML whose keys stand once."""

import yaml


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which yaml would silently keep the last.

    Keys that differ only in capitals count as the same; the ValueError names the key.
    """


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    keys = [str(key.value).casefold() for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{key!r} is there twice. Rename or remove one.")
    return loader.construct_mapping(node, deep=True)


UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
