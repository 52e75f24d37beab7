"""Files of other machines as local ones: by Detectron2's PathManager, else by fsspec."""

import hashlib
import os
from urllib.parse import urlsplit

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import HTTPURLHandler, file_lock, get_cache_dir


def fetch_file(url: str) -> str:
    """The path of a local copy of ``url``, kept in iopath's cache (``$FVCORE_CACHE``).

    A handler that is registered with PathManager goes first. Where there is none, fsspec fetches,
    with the package that it asks for (s3fs, gcsfs, adlfs); its copies are made anew when the file
    has changed there, http's are not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing is registered or installed that reads such URLs (says what to do).
        ConnectionError: it cannot be fetched.
    """
    handlers = PathManager._path_handlers
    handler = next((handlers[prefix] for prefix in handlers if url.startswith(prefix)), None)
    try:
        if handler is None:
            return _by_fsspec(url)
        if isinstance(handler, HTTPURLHandler):
            # Its own cache takes files of one path on two hosts for the same.
            folder = os.path.join(get_cache_dir(), "agssp", urlsplit(url).netloc)
            return PathManager.get_local_path(url, cache_dir=folder)
        return PathManager.get_local_path(url)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} is not there ({error}).") from error
    except NotImplementedError as error:
        raise ValueError(
            f"The handler {type(handler).__name__}, registered for {url}, fetches no files: it "
            "needs _get_local_path."
        ) from error
    except OSError as error:
        if getattr(error, "code", None) == 404:
            raise FileNotFoundError(f"{url} is not there ({error}).") from error
        raise ConnectionError(f"{url} cannot be fetched ({error}).") from error


def _by_fsspec(url: str) -> str:
    scheme = url.partition("://")[0]
    register = f"register a handler for {scheme}:// with Detectron2's PathManager"
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(
            f"{url} needs a package that is not installed ({error}): install it with pip, or "
            f"{register}."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"Nothing here reads {scheme}:// ({error}): correct {url}, or {register}."
        ) from error
    # Of another content there, another file here.
    key = hashlib.sha256(f"{url} {filesystem.ukey(path)}".encode()).hexdigest()[:16]
    folder = os.path.join(get_cache_dir(), "agssp", key)
    cached = os.path.join(folder, os.path.basename(path))
    os.makedirs(folder, exist_ok=True)
    with file_lock(cached):
        if not os.path.isfile(cached):
            partial = f"{cached}.partial"
            filesystem.get_file(path, partial)
            os.replace(partial, cached)
    return cached
