"""A corpus of several folders: what gets in, what does not, and what reads it."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from detectron2_agssp.cli.main import main
from detectron2_agssp.data import corpus_scan
from detectron2_agssp.data.corpus import build_corpus, named_sources
from detectron2_agssp.data.unlabeled import load_unlabeled
from detectron2_agssp.engine.pretrain_record import files_of
from detectron2_agssp.io.images import ImageReader, list_images, read_image
from detectron2_agssp.maps.generate import generate_anomaly_maps
from detectron2_agssp.maps.normal import normal_images
from tests.data.test_fingerprints import as_grey, grain


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(as_grey(pixels)).save(path, **options)


@pytest.fixture
def roots(tmp_path):
    """Two sources; of the second, an image is the first's again, one is its own again, mirrored."""
    for seed in range(3):
        save(tmp_path / "in" / "line 1" / f"{seed}.png", grain(seed))
    for seed in range(3, 6):
        save(tmp_path / "in" / "line 2" / "day" / f"{seed}.png", grain(seed))
    shutil.copy(tmp_path / "in/line 1/1.png", tmp_path / "in/line 2/copy.png")
    save(tmp_path / "in/line 2/mirrored.png", grain(4)[:, ::-1] * 0.8)
    return [tmp_path / "in" / "line 1", tmp_path / "in" / "line 2"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    """What is in it, links not followed."""
    return {
        path.relative_to(folder).as_posix(): (
            os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
        if not (path.parent != folder and path.parent.is_symlink())
    }


def test_duplicates_within_and_across_sources_are_left_out(roots, tmp_path):
    corpus = build_corpus(roots, tmp_path / "out", progress=False)
    expected = [f"line 1/{n}.png" for n in range(3)] + [f"line 2/day/{n}.png" for n in (3, 4, 5)]
    assert list(list_images(tmp_path / "out")) == expected
    assert corpus.counts == {"line 1": 3, "line 2": 3}
    assert corpus.reasons == {"duplicate": 2}
    left_out = {entry["image"]: entry for entry in lines(tmp_path / "out/left_out.jsonl")}
    assert left_out["line 2/copy.png"]["like"] == "line 1/1.png"
    assert left_out["line 2/mirrored.png"]["like"] == "line 2/day/4.png"
    assert left_out["line 2/mirrored.png"]["r"] > 0.9
    entry = lines(tmp_path / "out/agssp_corpus.jsonl")[0]
    assert entry.keys() == {"image", "source", "height", "width", "brightness"}
    assert (entry["source"], entry["height"], entry["width"]) == ("line 1", 90, 140)
    # Nothing is copied, and nothing written but below the output.
    assert (tmp_path / "out/line 1").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_same_file_only(roots, tmp_path):
    corpus = build_corpus(roots, tmp_path / "out", similarity=1, progress=False)
    assert corpus.counts == {"line 1": 3, "line 2": 4}


def held_out_json(tmp_path, name, slash="/", root=None):
    save(tmp_path / "test" / "images" / "sub" / name, grain(5) * 0.9 + 8, quality=90)
    path = tmp_path / ("elsewhere" if root else "test") / "test.json"
    path.parent.mkdir(exist_ok=True)
    image = {"id": 1, "file_name": f"sub{slash}{name}", "height": 90, "width": 140}
    coco = {"images": [image], "annotations": [], "categories": []}
    if root:
        coco["info"] = {"image_root": str(root)}
    path.write_text(json.dumps(coco))
    return path


@pytest.mark.parametrize("kind", ["json", "back slashes", "info", "folder"])
def test_nothing_like_a_held_out_image_gets_in(roots, tmp_path, kind):
    root = tmp_path / "test" / "images"
    place = held_out_json(
        tmp_path,
        "a.jpg",
        "\\" if kind == "back slashes" else "/",
        root if kind == "info" else None,
    )
    if kind == "folder":
        place = root
    corpus = build_corpus(roots, tmp_path / "out", held_out=[place], progress=False)
    (entry,) = [e for e in lines(tmp_path / "out/left_out.jsonl") if e["reason"] == "held out"]
    assert entry["image"] == "line 2/day/5.png"
    assert entry["like"] == str(root / "sub" / "a.jpg")
    assert corpus.reasons == {"duplicate": 2, "held out": 1}


def test_a_held_out_image_that_is_missing_or_broken_is_an_error(roots, tmp_path):
    path = held_out_json(tmp_path, "a.jpg")
    (tmp_path / "test/images/sub/a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 held-out images cannot be read.*a\.jpg \(Unreadable"):
        build_corpus(roots, tmp_path / "out", held_out=[path], progress=False)
    (tmp_path / "test/images/sub/a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 1 images of .* are not in"):
        build_corpus(roots, tmp_path / "out", held_out=[path], progress=False)
    for place, hint in (("D:\\test.json", "It is a path of Windows"), (tmp_path / "no", "$")):
        with pytest.raises(FileNotFoundError, match=rf"no held-out images or labels .*\.\s?{hint}"):
            build_corpus(roots, tmp_path / "out", held_out=[place], progress=False)
    assert not (tmp_path / "out/agssp_corpus.jsonl").exists()


def test_maps_pretraining_and_data_sets_read_it_like_a_folder(roots, tmp_path, tiny_cfg):
    out, maps = tmp_path / "out", tmp_path / "maps"
    build_corpus(roots, out, progress=False)
    generate_anomaly_maps(tiny_cfg, out, maps, progress=False)
    entries = lines(maps / "manifest.jsonl")
    assert [entry["image"] for entry in entries] == list(list_images(out))
    assert {entry["source"] for entry in entries} == {"line 1", "line 2"}
    dicts = load_unlabeled(None, maps)
    assert read_image(dicts[-1]["file_name"]).shape == (90, 140, 3)
    assert files_of(out).keys() == {entry["image"] for entry in entries}
    tiny_cfg.AGSSP.SCORER.NORMAL_IMAGES = ("line 2", "line 1/*0.png")
    assert normal_images(tiny_cfg, str(out)) == [
        *(f"line 2/day/{number}.png" for number in (3, 4, 5)),
        "line 1/0.png",
    ]
    tiny_cfg.AGSSP.SCORER.NORMAL_IMAGES = ("./line 2//day/",)
    assert len(normal_images(tiny_cfg, str(out))) == 3


def test_what_could_not_be_read_is_read_again(roots, tmp_path):
    """Its file is the same afterwards: the rights or the setting were wrong, or a disk was away."""
    deep = np.asarray(as_grey(grain(30)), np.uint16) * 16
    Image.fromarray(deep).save(roots[0] / "deep.png")
    (roots[0] / "link.png").symlink_to(tmp_path / "away" / "7.png")
    reader = ImageReader(bit_depth=8)
    corpus = build_corpus(roots, tmp_path / "out", reader=reader, progress=False)
    assert corpus.left_out["line 1"] == {"unreadable": 2}
    save(tmp_path / "away" / "7.png", grain(31))
    corpus = build_corpus(roots, tmp_path / "out", reader=reader, progress=False)
    assert corpus.left_out["line 1"] == {"unreadable": 1}
    for depth in (12, 16):
        reader = ImageReader(bit_depth=depth)
        corpus = build_corpus(roots, tmp_path / "out", reader=reader, progress=False)
        assert corpus.counts["line 1"] == 5
        entries = {e["image"]: e for e in lines(tmp_path / "out/agssp_corpus.jsonl")}
        expected = deep.mean() * 255 / (2**depth - 1)
        assert entries["line 1/deep.png"]["brightness"] == pytest.approx(expected, abs=0.6)


def test_a_killed_run_goes_on_and_ends_the_same(roots, tmp_path, monkeypatch):
    build_corpus(roots, tmp_path / "undisturbed", progress=False)
    monkeypatch.setattr(corpus_scan, "_BATCH", 2)
    original, read = corpus_scan._facts, []

    def killed(reader, path):
        read.append(path)
        if len(read) == 5:
            raise KeyboardInterrupt
        return original(reader, path)

    monkeypatch.setattr(corpus_scan, "_facts", killed)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(roots, tmp_path / "out", progress=False)
    # The batch of the fifth (a source's last one was short) is lost, and nothing else.
    assert [entry["image"] for entry in lines(tmp_path / "out/scan.jsonl")] == read[:3]
    # As a kill leaves them: half a line, half a fingerprint.
    with open(tmp_path / "out/scan.jsonl", "a") as file:
        file.write('{"image": "half')
    with open(tmp_path / "out/scan.bin", "ab") as file:
        file.write(b"half")
    build_corpus(roots, tmp_path / "out", progress=False)
    assert len(read[5:]) == 5
    assert not set(read[5:]) & set(read[:3])  # which were not read again
    for name in ("agssp_corpus.jsonl", "left_out.jsonl", "corpus.json"):
        assert (tmp_path / "out" / name).read_bytes() == (
            tmp_path / "undisturbed" / name
        ).read_bytes()


def test_it_follows_what_changed(roots, tmp_path):
    out = tmp_path / "out"
    build_corpus(roots, out, progress=False)
    save(roots[1] / "day" / "4.png", grain(40))
    (roots[0] / "2.png").unlink()
    build_corpus(roots, out, progress=False)
    assert list(list_images(out)) == [
        "line 1/0.png",
        "line 1/1.png",
        *(f"line 2/day/{number}.png" for number in (3, 4, 5)),
        "line 2/mirrored.png",
    ]
    build_corpus(roots[:1], out, progress=False)
    assert [path.name for path in out.iterdir() if path.is_symlink()] == ["line 1"]


def test_what_cannot_be_read_is_named(roots, tmp_path):
    (roots[0] / "empty.png").write_bytes(b"")
    (roots[0] / "nowhere.png").symlink_to("nowhere")
    (roots[0] / "circle").symlink_to(roots[0])
    with open(os.path.join(os.fsencode(roots[0]), b"\xff.png"), "wb") as file:
        file.write(b"")
    corpus = build_corpus(roots, tmp_path / "out", progress=False)
    assert corpus.left_out["line 1"] == {"unreadable": 3}
    said = {e["image"]: e.get("detail", "") for e in lines(tmp_path / "out/left_out.jsonl")}
    assert "(0 bytes)" in said["line 1/empty.png"]
    assert "FileNotFoundError" in said["line 1/nowhere.png"]
    assert "not UTF-8" in said["line 1/\\udcff.png"]
    assert len(corpus.skipped_folders) == 1
    assert "circle" in corpus.skipped_folders[0]


def test_back_slashes_in_a_name_are_letters(roots, tmp_path, tiny_cfg):
    """As some programs unpack an archive that was made on Windows."""
    save(roots[0] / "night\\7.png", grain(50))
    out, maps = tmp_path / "out", tmp_path / "maps"
    assert build_corpus(roots, out, progress=False).counts["line 1"] == 4
    assert "line 1/night\\7.png" in list(list_images(out))
    generate_anomaly_maps(tiny_cfg, out, maps, progress=False)
    entry = next(entry for entry in lines(maps / "manifest.jsonl") if "night" in entry["image"])
    assert (entry["source"], entry["image"]) == ("line 1", "line 1/night\\7.png")
    assert (maps / entry["map"]).is_file()


def test_names_of_sources(roots, tmp_path):
    given = [f"{roots[0]}/", f"other={roots[1]}"]
    assert named_sources(given) == {"line 1": roots[0], "other": roots[1]}
    twin = tmp_path / "old" / "line 1"
    twin.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"would both be the source 'line 1'.*old_line 1="):
        named_sources([roots[0], twin])
    for name in ("a/b", "a\\b", ".hidden", "report.html"):
        with pytest.raises(ValueError, match="which is no name of a folder"):
            named_sources([f"{name}={twin}"])
    for path in ("C:\\images\\line", "D:/images", "\\\\server\\images"):
        with pytest.raises(FileNotFoundError, match="a path of Windows"):
            named_sources([path])
    with pytest.raises(FileNotFoundError, match=r"'nowhere' is not a folder of images\.$"):
        named_sources(["nowhere"])
    with pytest.raises(ValueError, match="at least one folder"):
        named_sources([])


def test_folders_in_each_other_and_foreign_outputs_are_refused(roots, tmp_path):
    for out in (roots[0] / "out", roots[0], tmp_path):
        with pytest.raises(ValueError, match="lie in each other"):
            build_corpus(roots, out, progress=False)
    for other in (f"all={tmp_path / 'in'}", f"twin={roots[0]}"):
        with pytest.raises(ValueError, match="its images would be in both"):
            build_corpus([*roots, other], tmp_path / "out", progress=False)
    foreign = tmp_path / "foreign"
    (foreign / "line 1").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds files of something else"):
        build_corpus(roots, foreign, progress=False)
    assert [path.name for path in foreign.iterdir()] == ["line 1"]
    links = tmp_path / "links"
    links.mkdir()
    (links / "line 1").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="holds files of something else"):
        build_corpus(roots, links, progress=False)


def test_no_usable_image(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"No image of .* can be used: there is none"):
        build_corpus([tmp_path / "a"], tmp_path / "out", progress=False)
    (tmp_path / "a" / "b.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"can be used: \{'unreadable': 1\}.*b\.png"):
        build_corpus([tmp_path / "a"], tmp_path / "out", progress=False)


def test_a_damaged_manifest_is_named(roots, tmp_path):
    build_corpus(roots, tmp_path / "out", progress=False)
    path = tmp_path / "out" / "agssp_corpus.jsonl"
    for image in ("../in/line 1/0.png", "/etc/a.png", "a.png", "line 1//a.png"):
        path.write_text(json.dumps({"image": image}) + "\n")
        with pytest.raises(ValueError, match=r"agssp_corpus\.jsonl:1 is not an image of a corpus"):
            list(list_images(tmp_path / "out"))
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="Make it again with agssp corpus"):
        list(list_images(tmp_path / "out"))


def test_the_command(roots, tmp_path, capsys):
    before = contents(tmp_path / "in")
    words = ["corpus", *map(str, roots), str(tmp_path / "out"), "AGSSP.INPUT.BIT_DEPTH", "12"]
    main([*words, "--without", str(held_out_json(tmp_path, "a.jpg"))])
    said = capsys.readouterr().out
    assert "5 images of 2 sources" in said
    assert "2 duplicate, 1 held out" in said
    page = (tmp_path / "out/report.html").read_text()
    for text in ("line 1: 3 images", "line 2: 2 images", "agssp pretrain", "mirrored.png"):
        assert text in page
    assert contents(tmp_path / "in") == before
    with pytest.raises(SystemExit):
        main(["corpus", str(roots[0])])
    assert "one to write are needed" in capsys.readouterr().err


def test_brightness_and_sizes_are_those_of_the_images(tmp_path):
    save(tmp_path / "a" / "x.png", np.full((30, 50), 77.0))
    build_corpus([tmp_path / "a"], tmp_path / "out", progress=False)
    (entry,) = lines(tmp_path / "out/agssp_corpus.jsonl")
    assert (entry["height"], entry["width"], entry["brightness"]) == (30, 50, 77.0)
