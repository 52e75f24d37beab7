"""Predictions on new images: what comes out, and what a run that was cut short leaves."""

import json
import logging
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import detectron2_agssp
from detectron2_agssp import predict
from detectron2_agssp.cli.main import main
from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.inference import detector, open_run
from detectron2_agssp.inference.store import PredictionStore, as_detections, as_entry
from detectron2_agssp.io.files import lock_file
from detectron2_agssp.io.images import list_images, read_image
from detectron2_agssp.utils.lanes import in_lanes
from tests.conftest import make_surface
from tests.inference.runs import CLASSES, write_run
from tests.tiny_models import SMALL_R50

# Of random weights, each class has a third.
LOW = 0.3
ONE = ["AGSSP.PREDICT.BATCH_SIZE", "1", "AGSSP.PREDICT.NUM_WORKERS", "1"]


@pytest.fixture
def images(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "images")


def equal(first, second):
    assert first.keys() == second.keys()
    for name, found in first.items():
        assert found.keys() == second[name].keys()
        for key, value in found.items():
            assert torch.equal(value, second[name][key]), (name, key)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.html"
    }


@pytest.fixture(scope="module")
def found(run, image_folder):
    return predict(run, image_folder, threshold=LOW)


def test_boxes_are_those_of_the_model(run, image_folder, found):
    opened = open_run(run)
    model = opened.build_model()
    assert list(found) == list(list_images(image_folder))
    assert sum(len(one["scores"]) for one in found.values()) > 6
    for name, one in found.items():
        with torch.no_grad():
            image = read_image(image_folder / name)
            (output,) = model([model_input(opened.cfg, image)])
        expected = output["instances"][output["instances"].scores >= LOW]
        torch.testing.assert_close(one["boxes"], expected.pred_boxes.tensor, atol=1e-2, rtol=0)
        torch.testing.assert_close(one["scores"], expected.scores, atol=1e-4, rtol=0)
        assert one["classes"].tolist() == expected.pred_classes.tolist()
        assert one["boxes"].dtype == torch.float32


def test_the_folder_that_is_written(run, image_folder, found, tmp_path):
    out = tmp_path / "out"
    equal(predict(run, image_folder, out, threshold=LOW), found)
    coco = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == list(found)
    assert coco["categories"] == [{"id": 1, "name": CLASSES[0]}, {"id": 2, "name": CLASSES[1]}]
    images = {image["id"]: image for image in coco["images"]}
    for entry in coco["annotations"]:
        one = found[entry["file_name"]]
        assert images[entry["image_id"]]["file_name"] == entry["file_name"]
        boxes = one["boxes"].tolist()
        x, y, width, height = entry["bbox"]
        near = [np.allclose(box, [x, y, x + width, y + height], atol=2e-3) for box in boxes]
        assert entry["category_id"] - 1 in one["classes"][torch.tensor(near)].tolist()
        assert 0.3 <= entry["score"] <= 1
    api = COCO(str(out / "predictions.json"))
    assert len(api.loadRes(coco["annotations"]).anns) == sum(
        len(o["scores"]) for o in found.values()
    )
    pictures = {
        str(path.relative_to(out / "pictures")) for path in (out / "pictures").rglob("*.jpg")
    }
    assert pictures == {f"{name}.jpg" for name in found}
    for name in found:
        picture = cv2.imread(str(out / "pictures" / f"{name}.jpg"))
        assert picture.shape == read_image(image_folder / name).shape
    assert not list(out.glob(".agssp-*"))


def test_the_report(run, image_folder, tmp_path, write_maps):
    names = list(list_images(image_folder))
    sizes = {name: read_image(image_folder / name).shape[:2] for name in names}
    ramp = np.linspace(0, 1, 12).reshape(3, 4)
    maps = write_maps(tmp_path / "maps", dict.fromkeys(names[:2], ramp), sizes)
    out = tmp_path / "out"
    options = ["AGSSP.PREDICT.MAPS", str(maps)]
    found = predict(run, image_folder, out, threshold=LOW, options=options)
    page = (out / "report.html").read_text()
    for index, name in enumerate(CLASSES):
        count = sum((one["classes"] == index).sum().item() for one in found.values())
        assert f'<th scope=row>{name}</th>\n<td class="number">{count}</td>' in page
    # Panels of portraits, too, are no thumbnails.
    assert page.count('<div class="place wide"') == page.count('<div class="place')
    by_score = sorted(found, key=lambda name: -found[name]["scores"].max())
    places = [page.index(f"<figcaption>{name}: ") for name in by_score]
    assert places == sorted(places)
    other = write_maps(tmp_path / "other", {"x.png": ramp})
    with pytest.raises(ValueError, match="has no map of any of these images"):
        predict(run, image_folder, tmp_path / "out2", options=["AGSSP.PREDICT.MAPS", str(other)])


class Killed(Exception):
    pass


def test_a_run_that_was_killed_goes_on(run, images, tmp_path, monkeypatch):
    for number in range(5):
        Image.fromarray(make_surface(40, 50, number)).save(images / f"more {number}.png")
    predict(run, images, tmp_path / "whole", threshold=LOW, options=ONE)
    out, append, calls = tmp_path / "out", PredictionStore.append, []

    def killed(store, entries):
        append(store, entries)
        calls.append(len(entries))
        if len(calls) == 2:
            # What is written of the next line.
            with open(store.lines_path, "a") as file:
                file.write('{"image": "z/')
            raise Killed

    monkeypatch.setattr(PredictionStore, "append", killed)
    with pytest.raises(Killed):
        predict(run, images, out, threshold=LOW, options=ONE)
    assert not (out / "predictions.json").exists()
    assert not (out / "report.html").exists()
    monkeypatch.undo()
    before = (out / "detections.jsonl").read_text().splitlines()[:8]
    found = predict(run, images, out, threshold=LOW, options=ONE)
    assert (out / "detections.jsonl").read_text().splitlines()[:8] == before
    assert content(out) == content(tmp_path / "whole")
    # Finished: nothing is predicted again.
    monkeypatch.setattr("detectron2_agssp.inference.detector.Detector.__call__", None)
    equal(predict(run, images, out, threshold=LOW, options=ONE), found)
    assert content(out) == content(tmp_path / "whole")


def test_images_that_are_added_changed_and_deleted(run, images, tmp_path):
    out = tmp_path / "out"
    predict(run, images, out, threshold=LOW)
    (images / "a.png").unlink()
    shutil.copy(images / "z" / "b.tif", images / "new.tif")
    Image.fromarray(make_surface(70, 44, 9)).save(images / "a.bmp")
    found = predict(run, images, out, threshold=LOW)
    assert list(found) == list(list_images(images))
    equal(found, predict(run, images, threshold=LOW))
    assert not (out / "pictures" / "a.png.jpg").exists()
    assert (out / "pictures" / "new.tif.jpg").exists()


def test_unreadable_images_are_named_and_skipped(run, images, tmp_path, caplog):
    (images / "a.png").write_bytes(b"\x89PNG no picture")
    options = ["AGSSP.INPUT.MAX_PIXELS", "3300"]
    large = [
        n
        for n in list_images(images)
        if n != "a.png" and read_image(images / n)[..., 0].size > 3300
    ]
    assert large
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        found = predict(run, images, out, threshold=LOW, options=options)
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert {line["image"] for line in skipped} == {"a.png", *large}
    assert not {"a.png", *large} & set(found)
    assert "Skipped a.png: UnreadableImageError" in caplog.text
    assert "more than AGSSP.INPUT.MAX_PIXELS (3300)" in caplog.text
    assert "images could not be read" in (out / "report.html").read_text()
    with pytest.raises(ValueError, match=r"None of the 1 images could be read; the first, a\.png"):
        predict(run, images / "a.png", tmp_path / "out2")
    assert not (tmp_path / "out2" / "predictions.json").exists()


def test_16_bits_are_read_as_8(run, tmp_path):
    image = make_surface(60, 70)[:, :, 0]
    Image.fromarray(image).save(tmp_path / "8.png")
    cv2.imwrite(str(tmp_path / "16.png"), image.astype(np.uint16) * 257)
    first, second = predict(run, [tmp_path / "8.png", tmp_path / "16.png"], threshold=LOW).values()
    torch.testing.assert_close(first["boxes"], second["boxes"])


def write_video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(count):
        writer.write(make_surface(48, 64, number))
    writer.release()


def test_a_folder_of_something_else_is_refused(run, image_folder, tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "report.html").write_text("of the maps")
    with pytest.raises(ValueError, match=r"something else \(maps, report\.html\)"):
        predict(run, image_folder, tmp_path, threshold=LOW)
    assert (tmp_path / "report.html").read_text() == "of the maps"
    assert {path.name for path in tmp_path.iterdir()} == {"maps", "report.html"}


def test_a_video(run, tmp_path):
    write_video(tmp_path / "clip.avi", 3)
    found = predict(run, tmp_path / "clip.avi", tmp_path / "out", threshold=LOW)
    assert list(found) == [f"clip.avi/00000{number}" for number in range(3)]
    assert (tmp_path / "out" / "pictures" / "clip.avi" / "000002.jpg").exists()


def test_a_video_that_ends_early(run, tmp_path):
    """As a copy that was cut short: what is there is predicted, what is missing is named."""
    write_video(tmp_path / "clip.avi", 8)
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(content[: len(content) // 2])
    out = tmp_path / "out"
    found = predict(run, tmp_path / "clip.avi", out, threshold=LOW)
    assert 0 < len(found) < 8
    (line,) = (out / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == f"clip.avi/{len(found):06d}"
    assert f"the video ends early: {len(found)} of the 8 frames" in json.loads(line)["reason"]
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == len(found)


# ---- tiles


def test_one_tile_changes_nothing(run, images, found):
    Image.fromarray(make_surface(90, 150)).save(images / "wide.png")
    tiled = predict(run, images, threshold=LOW, tile=80)
    assert "wide.png" in tiled
    del tiled["wide.png"]
    equal(tiled, found)
    equal(predict(run, images, threshold=LOW, tile=150), predict(run, images, threshold=LOW))


def test_tiles_are_at_the_images_own_scale(run, tmp_path):
    """Three copies of one surface side by side, each a tile of its own but for the overlap."""
    part = make_surface(64, 64, 3)
    Image.fromarray(np.hstack([part, part, part])).save(tmp_path / "wide.png")
    Image.fromarray(part).save(tmp_path / "part.png")
    wide, single = predict(
        run, [tmp_path / "wide.png", tmp_path / "part.png"], threshold=LOW, tile=64
    ).values()
    best = single["boxes"][0]
    distance = (wide["boxes"] - best).abs().amax(1).min()
    whole = predict(run, tmp_path / "wide.png", threshold=LOW)["wide.png"]
    assert distance < (whole["boxes"] - best).abs().amax(1).min()
    assert wide["boxes"][:, 2].max() > 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 16}, "A tile of 16 pixels is smaller than 64, the largest stride"),
        ({"tile": 80, "options": ["AGSSP.PREDICT.TILE_OVERLAP", "0.0"]}, r"must be in \(0, 0\.5\]"),
        ({"threshold": 1.5}, r"A threshold is in \[0, 1\], got 1\.5"),
        ({"threshold": "best"}, r"is a number in \[0, 1\] or auto, got 'best'"),
        ({"options": ["AGSSP.PREDICT.BATCH_SIZE", "0"]}, "BATCH_SIZE must be positive, got 0"),
    ],
)
def test_arguments_out_of_range(run, image_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        predict(run, image_folder, **arguments)


# ---- the folder


def test_a_folder_of_another_run(run, image_folder, tmp_path):
    out = tmp_path / "out"
    predict(run, image_folder, out)
    before = content(out)
    with pytest.raises(ValueError, match=r"other settings.*\nthreshold: 0\.5 there, 0\.6 here"):
        predict(run, image_folder, out, threshold=0.6)
    other = write_run(tmp_path / "other", {"MODEL.FPN.OUT_CHANNELS": 8})
    with pytest.raises(ValueError, match="predictions of another run"):
        predict(other, image_folder, out)
    with pytest.raises(ValueError, match=r"images: .* there, .* here"):
        predict(run, image_folder / "a.png", out)
    assert content(out) == before
    (out / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds detections\.jsonl, but no run\.json"):
        predict(run, image_folder, out)


def test_two_processes_at_once(run, image_folder, tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert lock_file(descriptor, wait=False)
    with pytest.raises(OSError, match="Another run is writing"):
        predict(run, image_folder, tmp_path)
    os.close(descriptor)


@pytest.mark.parametrize("line", ["nonsense", '{"image": "a"}', '{"image": "a", "boxes": [1]}'])
def test_a_damaged_line_is_named(tmp_path, line):
    store = PredictionStore(tmp_path)
    store.lines_path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"detections\.jsonl:1 is damaged .* Delete the line"):
        store.recorded()


def test_numbers_come_back_as_they_were():
    generator = torch.Generator().manual_seed(0)
    found = {
        "boxes": torch.rand(50, 4, generator=generator) * 1000,
        "scores": torch.rand(50, generator=generator),
        "classes": torch.arange(50),
    }
    entry = json.loads(json.dumps(as_entry("a", (3, 4), found, {})))
    equal({"a": as_detections(entry)}, {"a": found})
    nothing = {key: value[:0] for key, value in found.items()}
    equal({"a": as_detections(as_entry("a", (3, 4), nothing, {}))}, {"a": nothing})


@pytest.mark.parametrize("name", ["/abs/a.png", "../a.png", "a/../../b.png", "x" * 250 + ".png"])
def test_a_picture_stays_inside_the_folder(tmp_path, name):
    path = PredictionStore(tmp_path).picture(name)
    assert path.resolve().is_relative_to((tmp_path / "pictures").resolve())
    assert len(path.name) <= 255


def test_masks_go_with_the_boxes(image_folder, tmp_path):
    run = write_run(
        tmp_path / "run",
        SMALL_R50,
        {"MODEL.ROI_MASK_HEAD.NUM_CONV": 1, "MODEL.ROI_HEADS.NUM_CLASSES": 2},
        config="finetune/mask_rcnn_R50_fpn.yaml",
    )
    found = predict(run, image_folder / "a.png", tmp_path / "out", threshold=0.2)["a.png"]
    assert len(found["masks"]) == len(found["scores"]) > 0
    coco = COCO(str(tmp_path / "out" / "predictions.json"))
    assert coco.annToMask(coco.anns[1]).shape == read_image(image_folder / "a.png").shape[:2]
    tiled = predict(run, image_folder / "a.png", threshold=0.2, tile=64)["a.png"]
    assert "masks" not in tiled


# ---- the line itself


def test_lanes_keep_the_order_and_take_little_ahead():
    taken = []

    def pieces():
        for number in range(20):
            taken.append(number)
            yield number

    threads = torch.get_num_threads()
    results = in_lanes(lambda number: number * number, pieces(), 3)
    assert next(results) == 0
    assert len(taken) <= 5
    assert list(results) == [number * number for number in range(1, 20)]
    assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        list(in_lanes(lambda number: 1 // number, [1, 0, 1], 2))


def test_several_lanes_predict_the_same(run, images):
    options = ["AGSSP.PREDICT.BATCH_SIZE", "1", "AGSSP.PREDICT.NUM_WORKERS"]
    first = predict(run, images, threshold=LOW, options=[*options, "1"])
    second = predict(run, images, threshold=LOW, options=[*options, "2"])
    for name, found in first.items():
        torch.testing.assert_close(found["boxes"], second[name]["boxes"], atol=1e-2, rtol=0)


def test_the_command(run, images, tmp_path, capsys):
    (images / "damaged.png").write_bytes(b"\x89PNG no picture")
    out = str(tmp_path / "out")
    options = ["--threshold", "0.3", "--tile", "128", "--overlap", "0.25"]
    main(["predict", str(run), str(images), out, *options, "AGSSP.PREDICT.PICTURES", "False"])
    said = f"in 6 images (unreadable and skipped: 1): see {out}/report.html"
    assert said in capsys.readouterr().out
    assert "No pictures were written" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(run), str(images), out])
    assert "overlap" in capsys.readouterr().err.lower()
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(run), str(images), out, "--threshold", "high"])
    assert "'high'" in capsys.readouterr().err


def test_the_public_face():
    assert detectron2_agssp.predict is predict
    assert "predict" in detectron2_agssp.__all__


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_where_the_cpu_has_it(has_bfloat16, run, image_folder, found, caplog, monkeypatch):
    monkeypatch.setattr(detector, "cpu_has_bfloat16", lambda: has_bfloat16)
    seen, forward = set(), torch.nn.Conv2d.forward

    def noted(self, x):
        out = forward(self, x)
        seen.add(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    options = ["AGSSP.PREDICT.PRECISION", "bf16"]
    rounded = predict(run, image_folder, threshold=LOW, options=options)
    assert ("no instructions for bf16" in caplog.text) is not has_bfloat16
    assert (torch.bfloat16 in seen) is has_bfloat16
    assert all(image["boxes"].dtype == torch.float32 for image in rounded.values())
    if not has_bfloat16:
        equal(rounded, found)


@pytest.mark.parametrize(
    ("precision", "said"), [("fp16", "fp16 is for GPUs"), ("half", "'half'. Choices: fp32, bf16")]
)
def test_a_precision_that_is_none_here(precision, said, run, image_folder):
    options = ["AGSSP.PREDICT.PRECISION", precision, "MODEL.DEVICE", "cpu"]
    with pytest.raises(ValueError, match=said):
        predict(run, image_folder, options=options)
