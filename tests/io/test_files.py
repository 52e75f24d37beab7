"""Paths that stay in their folder, locks, and json files in any encoding."""

import errno
import json
import os

import portalocker
import pytest

from detectron2_agssp.io.files import (
    escaped_name,
    lock_file,
    read_json,
    read_regular,
    safe_join,
    user_path,
    write_json,
)


@pytest.mark.parametrize("name", ["a.png", "x/y.npy", "./a", "x//y", "..a/b..", "a\\b"])
def test_paths_below_the_root(tmp_path, name):
    path = safe_join(tmp_path, name)
    assert path == tmp_path / name
    assert path.resolve().is_relative_to(tmp_path)


@pytest.mark.parametrize(
    "name", ["../a", "x/../../a", "x/..", "/etc/passwd", "//a", "", ".", "/", "a\0b", None, 7]
)
def test_paths_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is not the path of a file below"):
        safe_join(tmp_path, name)


def test_links_above_the_file_stay_inside_and_the_file_may_be_one(tmp_path):
    for name in ("root/maps", "outside"):
        (tmp_path / name).mkdir(parents=True)
    root = tmp_path / "root"
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to(root / "maps")
    (root / "maps/a").symlink_to(tmp_path / "outside/a")
    with pytest.raises(ValueError, match=r"'out/a' leads out of .*root' through a link"):
        safe_join(root, "out/a")
    assert safe_join(root, "inside/a") == root / "inside/a"
    assert safe_join(root, "maps/a") == root / "maps/a"


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/maps") == tmp_path / "maps"


def test_locks(tmp_path):
    path = tmp_path / "lock"
    with open(path, "w") as first, open(path) as second, open(path) as third:
        assert lock_file(first.fileno(), shared=True)
        assert lock_file(second.fileno(), shared=True, wait=False)
        assert not lock_file(third.fileno(), wait=False)
        first.close()
        second.close()
        assert lock_file(third.fileno(), wait=False)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_counts_as_locked(tmp_path, monkeypatch, code):
    def refuse(descriptor, flags):
        error = OSError(code, os.strerror(code))
        raise portalocker.LockException(error)

    monkeypatch.setattr(portalocker, "lock", refuse)
    assert lock_file(0, wait=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"ü": "划痕"}, ensure_ascii=False), encoding=encoding)
    assert read_json(path) == {"ü": "划痕"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not json"),
        (b"{", "is not json"),
        (b'{"a": "\xe4"}', "is not json in UTF-8 or UTF-16 .* Save it as UTF-8"),
        (b"[" * 200_000, "is not json"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json {message}"):
        read_json(tmp_path / "a.json")


def test_what_is_no_file_is_named_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/zero")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(bytes(9))
    for name, message in (
        ("pipe", "pipe' is a pipe or a device"),
        ("null", "null' is a pipe or a device"),
        ("folder", "folder' is a folder"),
        ("large", "large' has 9 bytes, more than 8"),
    ):
        with pytest.raises(ValueError, match=message):
            read_regular(tmp_path / name, 8)
    with pytest.raises(OSError, match="self"):
        read_regular(tmp_path / "self")
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.json"):
        read_json(tmp_path / "gone.json")


def test_names_that_are_not_utf_8_are_escaped():
    assert escaped_name("line 1/ü.png") == "line 1/ü.png"
    assert escaped_name("a/\udcff.png") == "a/\\udcff.png"


def test_home_is_where_json_is_written_and_read(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_json("~/out/a.json", [1])
    assert read_json("~/out/a.json") == [1]
    assert (tmp_path / "out/a.json").exists()
    assert not (tmp_path / "~").exists()
