"""Folders of images: in a fixed order, with links, circles and what cannot be read."""

import inspect
import logging
import os
import sys

import pytest

from detectron2_agssp.io.images import list_images


def test_listing(tmp_path):
    names = ["b.PNG", "a.jpg", "a/z.tif", "a/b/c.JpEg", "a b/ü.webp", "c.bmp"]
    others = ["a.txt", "png", "x.npy", ".hidden.png", ".git/a.png", "a/desktop.ini"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = ["a/b/c.JpEg", "a/z.tif", "a b/ü.webp", "a.jpg", "b.PNG", "c.bmp"]
    assert list(list_images(tmp_path)) == expected
    assert list(list_images(str(tmp_path))) == expected


def test_links(tmp_path):
    """Folders are followed through links, but not in a circle."""
    for name in ("images/line", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").touch()
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/line/up").symlink_to(tmp_path / "images")
    (tmp_path / "images/line/self").symlink_to(".")
    assert list(list_images(tmp_path / "images")) == ["line/a.png", "linked/a.png"]


def test_circles_of_links_end(tmp_path, caplog):
    """Through a folder beside the images, which no link of either one leads up to."""
    for name in ("images/line", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").touch()
    (tmp_path / "images/line/there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "images/line")
    (tmp_path / "images/self.png").symlink_to("self.png")
    (tmp_path / "images/gone.png").symlink_to("nowhere.png")
    expected = ["gone.png", "line/a.png", "line/there/a.png", "self.png"]
    with caplog.at_level(logging.WARNING):
        assert list(list_images(tmp_path / "images")) == expected
    assert [record.getMessage() for record in caplog.records] == [
        f"Left out the folder {tmp_path}/images/line/there/back: it leads in a circle."
    ]
    # A folder that is linked twice is not a circle.
    (tmp_path / "images/again").symlink_to(tmp_path / "elsewhere")
    assert "again/a.png" in list(list_images(tmp_path / "images"))


def test_folders_deeper_than_python_calls_itself(tmp_path):
    depth = 200
    deepest = tmp_path.joinpath(*["d"] * depth)
    deepest.mkdir(parents=True)
    (deepest / "a.png").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + depth // 2)
    try:
        images = list(list_images(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert images == ["d/" * depth + "a.png"]


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path, caplog, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.WARNING):
        assert list(list_images(tmp_path)) == ["b/1.png"]
    assert f"Permission denied: '{tmp_path}/a'" in caplog.text
    with pytest.raises(PermissionError):
        list(list_images(tmp_path / "a"))


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/~a.png").touch()
    assert list(list_images("~/images")) == ["~a.png"]


def test_no_folder(tmp_path):
    assert list(list_images(tmp_path)) == []
    (tmp_path / "a.png").touch()
    for path in (tmp_path / "gone", tmp_path / "a.png"):
        with pytest.raises(FileNotFoundError, match=rf"{path.name}' does not exist or is not"):
            list(list_images(path))
