"""Files of other machines: fetched once, by whatever is registered or installed, or said."""

import functools
import http.server
import io
import os
import sys
import threading
from pathlib import Path

import pytest
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image

from detectron2_agssp.io.images import list_images, read_image
from detectron2_agssp.io.remote_files import fetch_file
from detectron2_agssp.io.tar_shards import image_root_of
from tests.io.test_tar_shards import write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory():
    """fsspec's file system in memory, as a bucket."""
    fsspec = pytest.importorskip("fsspec")
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def serve(tmp_path):
    """Serves a folder on localhost: call it with the folder; gives the URL and what was asked."""
    servers = []

    def start(folder):
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, *_):
                asked.append(self.path)

            def log_error(self, *_):
                pass

        handler = functools.partial(Handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (5, 3), colour).save(file, "PNG")
    return file.getvalue()


def test_archives_of_an_http_server(tmp_path, serve):
    folder = tmp_path / "served"
    folder.mkdir()
    write_tar(folder / "s-0.tar", {"a/0.png": png("red")})
    write_tar(folder / "s-1.tar", {"b/1.png": png("blue")})
    url, asked = serve(folder)
    root = image_root_of(f"{url}/s-{{0..1}}.tar")
    assert list(list_images(root)) == ["a/0.png", "b/1.png"]
    assert read_image(f"{root}/b/1.png")[0, 0].tolist() == [0, 0, 255]
    assert sorted(asked) == ["/s-0.tar", "/s-1.tar"], "each once"


def test_two_hosts_with_one_name(tmp_path, serve):
    urls = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x.tar").write_text(f"of host {number}")
        urls.append(serve(folder)[0])
    paths = [fetch_file(f"{url}/x.tar") for url in urls]
    assert [Path(path).read_text() for path in paths] == ["of host 0", "of host 1"]


def test_what_a_server_does_not_have(tmp_path, serve):
    url, _ = serve(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{url}/gone\.tar is not there .*404"):
        list(list_images(image_root_of(f"{url}/gone.tar")))


def test_a_server_that_is_gone(tmp_path):
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9/x\.tar cannot be fetched"):
        fetch_file("http://127.0.0.1:9/x.tar")


def test_archives_by_fsspec(tmp_path, memory, cache):
    archive = write_tar(tmp_path / "a.tar", {"a.png": png("red")}).read_bytes()
    memory.pipe("/bucket/s-0.tar", archive)
    memory.pipe("/bucket/s-1.tar", write_tar(tmp_path / "b.tar", {"b.png": b"b"}).read_bytes())
    root = image_root_of("memory://bucket/s-{0..1}.tar")
    assert list(list_images(root)) == ["a.png", "b.png"]
    assert read_image(f"{root}/a.png").shape == (3, 5, 3)
    local = fetch_file("memory://bucket/s-0.tar")
    assert local.startswith(str(cache))
    state = os.stat(local)
    assert fetch_file("memory://bucket/s-0.tar") == local
    assert os.stat(local).st_mtime_ns == state.st_mtime_ns, "not fetched again"
    memory.pipe("/bucket/s-0.tar", archive + b"\0" * 512)
    changed = fetch_file("memory://bucket/s-0.tar")
    assert changed != local
    assert os.path.getsize(changed) == len(archive) + 512
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/s-2\.tar is not there"):
        fetch_file("memory://bucket/s-2.tar")


def test_a_fetch_that_is_cut_leaves_nothing(memory, monkeypatch):
    memory.pipe("/x.tar", b"whole")

    def cut(path, local, **_):
        with open(local, "wb") as file:
            file.write(b"wh")
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get_file", lambda self, *args, **kw: cut(*args, **kw))
        with pytest.raises(ConnectionError, match=r"memory://x\.tar cannot be fetched .*lost"):
            fetch_file("memory://x.tar")
    assert Path(fetch_file("memory://x.tar")).read_text() == "whole"


def test_a_registered_handler_goes_first(tmp_path, memory):
    class Store(PathHandler):
        def _get_supported_prefixes(self):
            return ["memory://"]

        def _get_local_path(self, path, force=False, **_):
            return str(tmp_path / path.removeprefix("memory://"))

    class Mute(PathHandler):
        def _get_supported_prefixes(self):
            return ["mute://"]

    (tmp_path / "x.tar").write_text("of the handler")
    memory.pipe("/x.tar", b"of fsspec")
    PathManager.register_handler(Store())
    PathManager.register_handler(Mute())
    try:
        assert Path(fetch_file("memory://x.tar")).read_text() == "of the handler"
        with pytest.raises(ValueError, match=r"handler Mute, registered for mute://x\.tar, fetch"):
            fetch_file("mute://x.tar")
    finally:
        del PathManager._path_handlers["memory://"], PathManager._path_handlers["mute://"]


def test_what_is_missing_is_said(monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"s3://b/x\.tar needs a package.*s3fs.*handler for s3://"):
        fetch_file("s3://b/x.tar")
    with pytest.raises(ValueError, match=r"Nothing here reads nosuch:// .*handler for nosuch://"):
        fetch_file("nosuch://b/x.tar")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ValueError, match=r"s3://b/x\.tar needs a package.*fsspec"):
        fetch_file("s3://b/x.tar")
    with pytest.raises(ValueError, match=r"has a \*, which finds local archives only"):
        list(list_images(image_root_of("s3://b/shard-*.tar")))
