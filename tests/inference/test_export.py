"""Exports find what their detectors find, in each runtime; what cannot be exported is refused."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from detectron2_agssp.data.model_input import model_input
from detectron2_agssp.inference import export, export_check, export_files
from detectron2_agssp.inference.export import export_detector, export_model
from examples import run_onnx
from tests.conftest import make_surface
from tests.inference.lively import enliven
from tests.inference.runs import CLASSES, write_run
from tests.tiny_models import R18, SMALL_TIMM, make_cfg, make_model

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra `export` is not installed")
pytestmark = pytest.mark.usefixtures("empty_catalogs")

SMALL = {"MODEL.WEIGHTS": "", "MODEL.DEVICE": "cpu", "INPUT.MIN_SIZE_TEST": 64}
TINY = {**SMALL, **SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}
PYRAMID = {"MODEL.BACKBONE.NAME": "build_timm_fpn_backbone", "MODEL.FPN.OUT_CHANNELS": 64}
YOLO = ("finetune/yolo_cspdarknet_n.yaml", SMALL)
RETINANET = ("finetune/retinanet_lite0_fpn.yaml", {**SMALL, "AGSSP.TIMM.WEIGHTS": ""})
FCOS = (
    "finetune/fcos_R50_fpn.yaml",
    {
        **TINY,
        **PYRAMID,
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "AGSSP.FCOS.SCORE_THRESH_TEST": 0.05,
    },
)
FASTER_RCNN = ("finetune/faster_rcnn_lite0_fpn.yaml", TINY)
CASCADE_RCNN = ("finetune/cascade_rcnn_R50_fpn.yaml", {**TINY, **PYRAMID})
FILES = ("model.onnx", "model.ts", "model")


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(export_check, "NUM_IMAGES", 3)


@pytest.fixture(scope="module")
def exports(detectors, tmp_path_factory):
    """(detector, file name) -> the file, alone in its folder, and what was compared; made once."""
    made = {}

    def get(detector, name):
        key = detector[0], name
        if key not in made:
            path = tmp_path_factory.mktemp("export") / name
            cfg, model = detectors(*detector)
            made[key] = path, export_model(model, cfg, path, "abcdef")
        return made[key]

    return get


@pytest.mark.parametrize(
    ("detector", "name"),
    [
        *((detector, name) for detector in (YOLO, RETINANET) for name in FILES),
        (FCOS, "model.onnx"),
        (FASTER_RCNN, "model.onnx"),
        (FASTER_RCNN, "model.ts"),
        (CASCADE_RCNN, "model.ts"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0].split("/")[1].split("_")[0],
)
def test_the_same_boxes(detector, name, exports):
    path, agreement = exports(detector, name)
    assert agreement.images == 3
    assert agreement.boxes > 40
    assert agreement.pixels < 0.01
    assert agreement.score < 1e-4
    # Nothing is left beside it.
    assert [path.name for path in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", FILES[:2])
def test_dino(name, tmp_path):
    """More queries than the traced image has cells; every number of the transformer its own, so
    that no two cells are equally good."""
    sizes = {"HIDDEN_DIM": 32, "FEEDFORWARD_DIM": 16, "ENCODER_LAYERS": 1, "DECODER_LAYERS": 2}
    sizes |= {"NUM_QUERIES": 400, "NUM_CLASSES": 2}
    settings = {f"AGSSP.DINO.{key}": value for key, value in sizes.items()}
    settings |= {"INPUT.MIN_SIZE_TEST": 160, "INPUT.MAX_SIZE_TEST": 320}
    config = ("finetune/dino_R50.yaml", R18, settings)
    model = make_model(*config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if not part.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    agreement = export_model(model, make_cfg(*config), tmp_path / name, "ab")
    assert (agreement.images, agreement.boxes > 100) == (3, True)
    assert agreement.pixels < 0.1
    assert agreement.score < 1e-4


def test_the_script_finds_the_detectors_boxes(detectors, exports):
    cfg, model = detectors(*YOLO)
    session = run_onnx.onnxruntime.InferenceSession(str(exports(YOLO, "model.onnx")[0]))
    about = json.loads(session.get_modelmeta().custom_metadata_map["agssp"])
    assert about["classes"] == list("abcdef")
    for height, width in ((150, 110), (40, 300)):
        image = make_surface(height, width)
        with torch.no_grad():
            expected = model([model_input(cfg, image)])[0]["instances"]
        boxes, scores, classes = run_onnx.detect(session, image, about)
        # Of those that rounding cannot let fall out.
        clear = expected.scores > expected.scores.min() + 0.01
        assert clear.sum() > 3
        for box, score, kind in zip(
            expected.pred_boxes.tensor[clear].numpy(),
            expected.scores[clear].numpy(),
            expected.pred_classes[clear].numpy(),
            strict=True,
        ):
            far = np.abs(boxes - box).max(axis=1) + 100 * np.abs(scores - score)
            assert far[classes == kind].min() < 1


def test_the_script_from_the_command_line(exports, tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), make_surface(100, 90))
    path, _ = exports(YOLO, "model.onnx")
    command = [sys.executable, run_onnx.__file__, path, "image.png", "0.01"]
    lines = subprocess.check_output(command, cwd=tmp_path, text=True).splitlines()
    assert lines
    assert all(line.split()[0] in "abcdef" for line in lines)


WITHOUT_DETECTRON2 = """
import sys
sys.modules["detectron2"] = sys.modules["detectron2_agssp"] = None
import torch, torchvision
images, found = torch.load("images.pt"), []
for path in sys.argv[1:]:
    files = {"agssp.json": ""}
    model = torch.jit.load(path, _extra_files=files)
    found.append((model(images), model(images.float()), files))
torch.save(found, "found.pt")
"""


def test_torch_alone_runs_it(detectors, exports, tmp_path):
    image = torch.from_numpy(make_surface(64, 90).transpose(2, 0, 1).copy())
    torch.save(image[None], tmp_path / "images.pt")
    paths = [exports(detector, "model.ts")[0] for detector in (YOLO, FASTER_RCNN)]
    command = [sys.executable, "-c", WITHOUT_DETECTRON2, *map(str, paths)]
    subprocess.run(command, cwd=tmp_path, check=True)
    for detector, results in zip(
        (YOLO, FASTER_RCNN), torch.load(tmp_path / "found.pt"), strict=True
    ):
        _, model = detectors(*detector)
        assert json.loads(results[2]["agssp.json"])["classes"] == list("abcdef")
        with torch.no_grad():
            expected = model([{"image": image}])[0]["instances"]
        for *rows, counts in results[:2]:
            assert counts.tolist() == [len(expected)]
            boxes, scores, classes = (row[0, : len(expected)] for row in rows)
            near = {"rtol": 0, "atol": 1e-3}
            torch.testing.assert_close(boxes, expected.pred_boxes.tensor, **near)
            torch.testing.assert_close(scores, expected.scores, **near)
            assert classes.tolist() == expected.pred_classes.tolist()


def test_other_boxes_are_no_success(detectors, tmp_path, monkeypatch):
    """And what was there before stays."""
    cfg, model = detectors(*YOLO)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    load = export_files.load

    def shifted(*arguments):
        run = load(*arguments)
        return lambda images: [run(images)[0] + 2, *run(images)[1:]]

    monkeypatch.setattr(export, "load", shifted)
    with pytest.raises(ValueError, match=r"not written: it finds other boxes than the detector"):
        export_model(model, cfg, path, "abcdef")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"earlier"]


def test_nothing_to_compare_is_no_success(detectors, tmp_path, monkeypatch):
    cfg, model = detectors(*YOLO)
    monkeypatch.setattr(model, "test_score_thresh", 1.0)
    with pytest.raises(ValueError, match=r"finds nothing in 3 images.*--images"):
        export_model(model, cfg, tmp_path / "model.ts", "abcdef")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_checked_from_its_beginning_to_its_end(tmp_path):
    """Where images are named by their class, the first ones are of one."""
    for number in range(45):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.full((8, 8), number, np.uint8))
    values = [image.max() for image in export_check.check_images(get_cfg(), tmp_path)]
    assert values == [0, 15, 30], "as many as the fixture asks for"


def test_a_run_is_exported(tmp_path, image_folder):
    """By its own config, on given images; an earlier folder is replaced, and no other."""
    settings = {**YOLO[1], "AGSSP.YOLO.NUM_CLASSES": 2}
    run = write_run(tmp_path / "run", settings, config=YOLO[0])
    weights = run / "model_final.pth"
    content = torch.load(weights, weights_only=True)
    content["model"] = enliven(make_model(YOLO[0], settings)).state_dict()
    torch.save(content, weights)
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "agssp.json").write_text("{}")
    options = ["INPUT.MIN_SIZE_TEST", "48"]
    assert export_detector(run, exported, images=image_folder, options=options).boxes > 0
    assert {file.name for file in exported.iterdir()} == {"agssp.json", "model.xml", "model.bin"}
    about = json.loads((exported / "agssp.json").read_text())
    assert (about["classes"], about["min_size"]) == (CLASSES, 48)
    with pytest.raises(ValueError, match="holds other files than an export"):
        export_detector(run, run)
    assert weights.is_file()


def test_sizes_that_the_trace_keeps_are_noticed(tmp_path):
    """Swin's windows are laid out for the size of the example."""
    settings = {**SMALL, "AGSSP.SWIN.SIZE": "tiny", "AGSSP.SWIN.WINDOW_SIZE": 4}
    cfg = make_cfg("finetune/yolo_swin_b.yaml", settings)
    model = enliven(make_model("finetune/yolo_swin_b.yaml", settings))
    with pytest.raises((ValueError, RuntimeError), match="size"):
        export_model(model, cfg, tmp_path / "model.ts", "abcdef")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("model.pt", {}, r"ends in .pt, which is no format.*\.onnx.*\.ts.*folder"),
        ("model.onnx", {"opset": 11}, r"opset 11 cannot hold a detector.*between 16 and 20"),
        ("model.onnx", {"images": "nowhere"}, r"'nowhere' does not exist"),
    ],
)
def test_wrong_requests(name, arguments, message, detectors, tmp_path):
    cfg, model = detectors(*YOLO)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export_model(model, cfg, tmp_path / name, "abcdef", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "package"), [("a.onnx", "onnxruntime"), ("a", "openvino")])
def test_a_missing_runtime_is_named(name, package, tmp_path, monkeypatch):
    """Before the run is read."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}.*pip install {package}"):
        export_detector(tmp_path / "nosuch", tmp_path / name)


def test_openvino_runs_once_per_batch(exports, monkeypatch):
    """Not once per output, which made it look four times as slow."""
    import openvino

    path, _ = exports(YOLO, "model")
    calls, infer = [], openvino.CompiledModel.__call__
    monkeypatch.setattr(
        openvino.CompiledModel, "__call__", lambda *args: calls.append(1) or infer(*args)
    )
    outputs = export_files.load(path, "openvino")(np.zeros((1, 3, 64, 96), np.uint8))
    assert len(outputs) == len(export_files.OUTPUTS)
    assert len(calls) == 1


def test_detectors_without_an_export_are_named(tmp_path):
    settings = {**TINY, **PYRAMID}
    cfg = make_cfg("finetune/mask_rcnn_R50_fpn.yaml", settings)
    model = make_model("finetune/mask_rcnn_R50_fpn.yaml", settings)
    with pytest.raises(ValueError, match=r"no export of GeneralizedRCNN with masks, only of YOLO"):
        export_model(model, cfg, tmp_path / "a.ts", "abcdef")


def test_agbp_is_no_detector(tmp_path):
    run = write_run(tmp_path, config="agbp/lite0.yaml")
    with pytest.raises(ValueError, match="which trains a backbone and no detector"):
        export_detector(run, tmp_path / "model.ts")
