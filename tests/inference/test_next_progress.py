"""A choice that was cut short goes on, and ends as if nothing had been."""

import json
import logging

import pytest
from PIL import Image

from detectron2_agssp.inference import next_images as module
from detectron2_agssp.inference.detector import Detector
from detectron2_agssp.inference.next_images import next_images
from detectron2_agssp.inference.next_progress import NAME, Progress
from tests.conftest import make_surface


class Killed(Exception):
    pass


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Six of them; random weights are sure of no box beyond 0.3."""
    monkeypatch.setattr(module, "_THRESHOLD", 0.3)
    root = tmp_path / "images"
    root.mkdir()
    for seed in range(6):
        Image.fromarray(make_surface(48, 64, seed)).save(root / f"{seed}.png")
    return root


@pytest.fixture
def looks(monkeypatch):
    """How often the detector was called."""
    calls, detect = [], Detector.__call__

    def counted(detector, images):
        calls.append(len(images))
        return detect(detector, images)

    monkeypatch.setattr(Detector, "__call__", counted)
    return calls


def choose(run, images, out, **more):
    return next_images(run, images, out / "next.txt", count=3, **more)


def content(folder):
    """Of the guesses; the page names its own place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.html"
    }


def kill(run, images, out, monkeypatch, *, after=3, torn='{"entry": {"image"'):
    """Cut short after some images, in the middle of a line."""
    add = Progress.add

    def killed(progress, looked):
        if int(looked.name.split(".")[0]) == after:
            with open(progress.path, "a") as file:
                file.write(torn)
            raise Killed
        add(progress, looked)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", killed)
        with pytest.raises(Killed):
            choose(run, images, out)
    assert not (out / "next.txt").exists()
    assert [path.name for path in (out / "next_guesses").iterdir()] == [NAME]


@pytest.fixture
def whole(run, images, tmp_path):
    (tmp_path / "whole").mkdir()
    choose(run, images, tmp_path / "whole")
    return tmp_path / "whole"


def check_same(out, whole):
    assert (out / "next.txt").read_text() == (whole / "next.txt").read_text()
    expected = content(whole / "next_guesses")
    assert content(out / "next_guesses") == expected
    assert "annotations.json" in expected
    assert NAME not in expected
    assert json.loads(expected["annotations.json"])["annotations"]


def test_it_goes_on(run, images, whole, looks, tmp_path, monkeypatch):
    kill(run, images, tmp_path, monkeypatch)
    looks.clear()
    choose(run, images, tmp_path)
    assert len(looks) == 3
    check_same(tmp_path, whole)
    with pytest.raises(FileExistsError, match="holds guesses already"):
        choose(run, images, tmp_path)


def test_cut_short_while_it_writes(run, images, whole, looks, tmp_path, monkeypatch):
    """What it had written for another choice goes."""

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_next_report", killed)
        with pytest.raises(Killed):
            next_images(run, images, tmp_path / "next.txt", count=6)
    assert len(list((tmp_path / "next_guesses" / "voc").rglob("*.xml"))) > 3
    (tmp_path / "next_guesses" / ".agssp-left.tmp").write_text("half")
    looks.clear()
    choose(run, images, tmp_path)
    assert looks == []
    check_same(tmp_path, whole)


def test_what_changed_is_looked_at_again(run, images, looks, tmp_path, monkeypatch):
    kill(run, images, tmp_path, monkeypatch)
    Image.fromarray(make_surface(64, 48, 9)).save(images / "1.png")
    looks.clear()
    choose(run, images, tmp_path)
    assert len(looks) == 4
    (tmp_path / "anew").mkdir()
    choose(run, images, tmp_path / "anew")
    check_same(tmp_path, tmp_path / "anew")


@pytest.mark.parametrize(
    ("torn", "more", "message"),
    [
        ("", {"options": ["INPUT.MIN_SIZE_TEST", "48"]}, "was made with other settings"),
        ("", {"tile": 64}, "was made with other settings"),
        ('{"entry": {"image": "a"}}\n', {}, "is damaged"),
        ("nonsense\n", {}, "is damaged"),
    ],
)
def test_otherwise_it_begins_anew(
    torn, more, message, run, images, looks, tmp_path, monkeypatch, caplog
):
    kill(run, images, tmp_path, monkeypatch, torn=torn)
    looks.clear()
    with caplog.at_level(logging.WARNING):
        choose(run, images, tmp_path, **more)
    assert f"looked_at.jsonl {message}" in caplog.text
    assert len(looks) == 6
    (tmp_path / "anew").mkdir()
    choose(run, images, tmp_path / "anew", **more)
    check_same(tmp_path, tmp_path / "anew")
