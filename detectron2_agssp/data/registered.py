"""Whether data sets are registered, before a training run sets up everything else."""

from collections.abc import Iterable

from detectron2.data import DatasetCatalog

from detectron2_agssp.io.files import datasets_root
from detectron2_agssp.utils.suggestions import did_you_mean


def require_registered(names: Iterable[str], *, key: str) -> None:
    """Checks the data sets of a config key.

    Raises:
        ValueError: one is not registered; the message names the nearest that is, and for
            ``agssp_...`` the folder that would be registered by that name.
    """
    for name in names:
        if name in DatasetCatalog:
            continue
        hint = did_you_mean(name, DatasetCatalog, cutoff=0.7)
        if name.startswith("agssp_"):
            folder = datasets_root() / "agssp" / name.removeprefix("agssp_").removesuffix("_boxes")
            state = "is no map folder" if folder.is_dir() else "is not there"
            hint += f" It would be the map folder {folder}, which {state}."
        raise ValueError(f"{key}: there is no data set {name}.{hint}")
