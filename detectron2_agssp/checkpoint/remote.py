"""Weights that are named by a URL, or by ``agssp://zoo/``."""

from detectron2.utils.file_io import PathManager

from detectron2_agssp.io.config_files import PREFIX

DETECTRON2_PREFIX = "detectron2://"
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"


def fetch_weights(weights: str, *, key: str = "MODEL.WEIGHTS", instead: str = "") -> str:
    """Local file of ``weights``, downloaded into Detectron2's cache where they are a URL.

    Args:
        weights: a path, which is returned as it is; a URL; ``detectron2://...``;
            ``agssp://zoo/...``; or "".
        key: the config key that they stand in, for the message.
        instead: a config that needs no download, for the message.

    Raises:
        FileNotFoundError: the zoo has no such file; says what to do.
        ConnectionError: the URL cannot be reached; says which file to fetch.
    """
    if "://" not in weights:
        return weights
    if weights.startswith(PREFIX):
        # Nothing to download: what the error says already is what to do.
        name, mark, query = weights.partition("?")
        return f"{PathManager.get_local_path(name)}{mark}{query}"
    try:
        return PathManager.get_local_path(weights)
    except OSError as error:
        url = weights.replace(DETECTRON2_PREFIX, DETECTRON2_URL)
        hint = f" Without a download: --config-file {instead}." if instead else ""
        raise ConnectionError(
            f"{weights} cannot be reached ({error}). Fetch {url} where there is a network, and "
            f"name the file: {key} /path/to/{url.rsplit('/', 1)[-1]}.{hint}"
        ) from error
