"""Panels of stored maps, and the tool that writes them and the report."""

import re

import numpy as np
import pytest
from detectron2.config import get_cfg

from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.reports.map_panels import MapPainter, write_map_panels
from tests.child_process import run_command
from tests.reports.small_map_folder import NAMES, SCORES, make_map_folder


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    return cfg


@pytest.fixture
def folder(tmp_path):
    return make_map_folder(tmp_path, SCORES)


class TestPanels:
    def written(self, cfg, folder, **options):
        out = folder.parent / "out"
        paths = write_map_panels(cfg, folder, out, progress=False, **options)
        assert sorted(paths) == sorted(path for path in out.rglob("*") if path.is_file())
        return [path.relative_to(out).as_posix() for path in paths]

    def test_all_and_sampled(self, cfg, folder):
        assert self.written(cfg, folder) == [f"{name}.png" for name in NAMES]

    def test_sampled(self, cfg, folder):
        first = self.written(cfg, folder, num=2)
        assert len(first) == 2
        assert self.written(cfg, folder, num=2) == first

    @pytest.mark.parametrize(
        ("images", "expected"),
        [
            (["a/2.png"], [1]),
            (["b/[5].png"], [4]),
            (["b/*"], [2, 3, 4]),
            (["a/1.png", "*/6*"], [0, 5]),
            (["{root}/b/*"], [2, 3, 4]),
        ],
    )
    def test_chosen(self, cfg, folder, images, expected):
        images = [image.format(root=folder.parent / "images") for image in images]
        written = self.written(cfg, folder, images=images, num=None)
        assert written == [f"{NAMES[index]}.png" for index in expected]

    def test_pictures(self, cfg, folder):
        entries = {entry["image"]: entry for entry in MapStore(folder).entries()}
        _, panel = MapPainter(cfg, folder)(entries["c/6.png"], height=40)
        # Four tiles of 60 x 40 under their titles, 6 pixels apart.
        assert panel.shape[1] == 4 * 60 + 3 * 6
        tiles = [panel[-40:, start : start + 60] for start in range(0, 4 * 66, 66)]
        assert (tiles[0] == 128).all(), "16 bits are scaled to 8"
        assert tiles[1][:, :20].mean() > tiles[1][:, -20:].mean() + 100
        assert (tiles[2][:, -20:] == 128).all()
        assert (tiles[3] != tiles[0]).any()
        caption, without = MapPainter(cfg, folder)(entries["a/1.png"], height=40)
        assert caption == "a/1.png, score 0.200, source: a"
        assert (without[-40:, 198:] == without[-40:, :60]).all(), "no box at the threshold"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"images": ["a/*", "absent.png"]}, r"matches 'absent\.png'"),
            ({"num": 0}, "must be 1 or more, got 0"),
        ],
    )
    def test_errors(self, cfg, folder, options, message):
        with pytest.raises(ValueError, match=message):
            write_map_panels(cfg, folder, folder.parent / "out", **options)
        assert not (folder.parent / "out").exists()

    @pytest.mark.parametrize("outside", ["../victim", "{root}/victim"])
    def test_a_manifest_cannot_write_outside_the_output_folder(self, cfg, folder, outside):
        root = folder.parent
        victim = root / "victim.png"
        victim.write_text("mine")
        name = outside.format(root=root)
        store = MapStore(folder)
        entry = next(store.entries())
        np.save(root / "victim.npy", np.linspace(0, 1, 24, dtype=np.float16).reshape(4, 6))
        store.append([{**entry, "image": name, "map": f"{name}.npy"}])
        with pytest.raises(ValueError, match=r"manifest\.jsonl:7 .*a path below the image folder"):
            write_map_panels(cfg, folder, root / "out", num=None, progress=False)
        assert victim.read_text() == "mine"

    def test_a_link_in_the_output_folder_is_not_followed(self, cfg, folder):
        out, elsewhere = folder.parent / "out", folder.parent / "elsewhere"
        for path in (out, elsewhere):
            path.mkdir()
        (out / "a").symlink_to(elsewhere)
        with pytest.raises(ValueError, match="through a link"):
            write_map_panels(cfg, folder, out, images=["a/1.png"], progress=False)
        assert not list(elsewhere.iterdir())


class TestTool:
    @pytest.fixture
    def run(self, tmp_path):
        def run_tool(*arguments):
            return run_command("report", *arguments, output=tmp_path)

        return run_tool

    def test_panels(self, run, folder, tmp_path):
        pair = ["AGSSP.BOXES.MAX_BOXES", "1"]
        done = run(folder, tmp_path / "out", *pair, "--images", "b/*", *pair)
        assert done.code == 0, done.stderr
        assert "3 panels written" in done.stdout
        assert len([path for path in (tmp_path / "out").rglob("*.png") if path.is_file()]) == 3

    def test_panels_of_a_sample(self, run, folder, tmp_path):
        done = run(folder, tmp_path / "out", "--panels", "--num", "2")
        assert done.code == 0, done.stderr
        assert "2 panels written" in done.stdout
        assert not (tmp_path / "out/report.html").exists()

    def test_report(self, run, folder, tmp_path):
        done = run("--num", "1", folder, tmp_path / "out", "AGSSP.BOXES.MARGIN", "0.2")
        assert done.code == 0, done.stderr
        assert "report.html" in done.stdout
        text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
        assert "AGSSP.BOXES.MARGIN (here 0.2)" in text
        assert text.count(", score ") >= 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--images", "absent.png"], r"error: No image of .* matches 'absent\.png'"),
            (["AGSSP.BOXES.THRESHOLD_MODE", "best"], "THRESHOLD_MODE is 'best'"),
            (["--image-root", "absent"], "Image folder 'absent' does not exist"),
        ],
    )
    def test_errors(self, run, folder, tmp_path, options, message):
        done = run(folder, tmp_path / "out", *options)
        assert done.code == 2
        assert re.search(message, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
