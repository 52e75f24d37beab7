"""Exports in int8 find nearly what their detectors find, and say what that costs."""

import json
import math

import pytest
from detectron2.data import MetadataCatalog

from detectron2_agssp import predict
from detectron2_agssp.evaluation.operating_point import store_threshold
from detectron2_agssp.inference import export, export_check, export_int8, open_run
from detectron2_agssp.inference.export import export_detector, export_model
from detectron2_agssp.inference.export_int8 import calibration_inputs, compare_int8
from detectron2_agssp.io.coco import read_coco, register_coco, write_coco
from tests.conftest import make_surface
from tests.inference.runs import CLASSES, write_run
from tests.inference.test_export import RETINANET, YOLO

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="the extra `export` is not installed")
pytestmark = pytest.mark.usefixtures("empty_catalogs")
# Of random detectors; the first is seldom surer.
THRESHOLDS = {YOLO[0]: 0.05, RETINANET[0]: 0.5}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(export_check, "NUM_IMAGES", 3)


@pytest.fixture
def to_int8(detectors, image_folder):
    """(detector, file) -> what was compared."""

    def write(detector, path):
        cfg, model = detectors(*detector)
        threshold = THRESHOLDS[detector[0]]
        return export_model(model, cfg, path, "abcdef", int8=image_folder, threshold=threshold)

    return write


@pytest.mark.parametrize(
    ("detector", "name"),
    [(YOLO, "model.onnx"), (YOLO, "model"), (RETINANET, "model.onnx")],
    ids=["yolo", "yolo-openvino", "retinanet"],
)
def test_nearly_the_same_boxes(detector, name, to_int8, tmp_path, monkeypatch):
    if detector is not YOLO:
        # Random layers pass on more of the rounding than trained ones.
        monkeypatch.setattr(export_int8, "MIN_FOUND", 0.5)
    agreement = to_int8(detector, tmp_path / name)
    assert agreement.images == 3
    assert agreement.shown > 20
    assert [path.name for path in tmp_path.iterdir()] == [name]
    text = str(agreement)
    assert f"{agreement.shown} boxes that either shows" in text
    assert "AP unknown, as the run has no validation set here" in text


def test_only_the_convolutions_are_int8(detectors, to_int8, image_folder, tmp_path):
    import onnx

    cfg, model = detectors(*YOLO)
    export_model(model, cfg, tmp_path / "float.onnx", "abcdef")
    to_int8(YOLO, tmp_path / "int8.onnx")
    sizes = [(tmp_path / name).stat().st_size for name in ("int8.onnx", "float.onnx")]
    assert sizes[0] < 0.4 * sizes[1]
    graph = onnx.load(tmp_path / "int8.onnx")
    # The description has come along.
    about = {entry.key: entry.value for entry in graph.metadata_props}["agssp"]
    assert json.loads(about)["classes"] == list("abcdef")
    source = {result: node for node in graph.graph.node for result in node.output}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 50
    # Its range is that of the images, whose darkest pixels are black and are read as 0 to 1.
    scale = source[convolutions[0].input[0]].input[1]
    weights = {entry.name: entry for entry in graph.graph.initializer}
    brightest = max(image.max() for image in calibration_inputs(cfg, image_folder))
    expected = pytest.approx(brightest / 255 / 255, rel=1e-5)
    assert onnx.numpy_helper.to_array(weights[scale]) == expected
    for node in convolutions:
        assert {source[name].op_type for name in node.input} == {"DequantizeLinear"}
    suppression = [n for n in graph.graph.node if n.op_type in ("NonMaxSuppression", "TopK")]
    assert suppression
    for node in suppression:
        for name in node.input:
            assert name not in source or source[name].op_type != "DequantizeLinear"


def test_too_few_boxes_are_no_success(detectors):
    cfg, model = detectors(*YOLO)
    images = [make_surface(64, 80, seed) for seed in range(3)]

    def half_of_them(inputs):
        return [{"instances": output["instances"][::2]} for output in model(inputs)]

    same = compare_int8(model, model, cfg, images, "abcdef", 0.05)
    assert same.found == same.shown > 10
    with pytest.raises(ValueError, match=r"not written: in int8 it finds other.*more images"):
        compare_int8(model, half_of_them, cfg, images, "abcdef", 0.05)
    with pytest.raises(ValueError, match=r"nothing from a score of 1\.00 on in 3 images.*--images"):
        compare_int8(model, model, cfg, images, "abcdef", 1.0)


def test_images_to_calibrate_on(detectors, image_folder, tmp_path, monkeypatch, caplog):
    """Evenly drawn, as the export takes them."""
    import cv2

    cfg, _ = detectors(*RETINANET)
    assert calibration_inputs(cfg, image_folder)[0].shape == (1, 3, 64, 115)
    monkeypatch.setattr(export_int8, "NUM_IMAGES", 4)
    surface = make_surface(64, 64)
    for index in range(10):
        surface[:, :, 0] = index
        cv2.imwrite(str(tmp_path / f"{index}.png"), surface[:, :, ::-1])
    cfg = cfg.clone()
    for order in ("RGB", "BGR"):
        cfg.defrost()
        cfg.INPUT.FORMAT = order
        inputs = calibration_inputs(cfg, tmp_path)
        assert [int(image[0, 0].max()) for image in inputs] == [0, 3, 6, 9]
    (tmp_path / "3.png").write_bytes(b"no picture")
    assert len(calibration_inputs(cfg, tmp_path)) == 3
    assert "Skipped 3.png" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images that can be read, to calibrate"):
        calibration_inputs(cfg, tmp_path / "empty")


@pytest.fixture
def validated(tmp_path, image_folder):
    """A run whose validation set says what the detector itself says."""
    settings = {"DATASETS.TEST": ("mine_val",), "DATALOADER.NUM_WORKERS": 0}
    run = write_run(tmp_path / "run", settings)
    predict(run, image_folder, tmp_path / "out", threshold=0.3)
    truth = read_coco(tmp_path / "out" / "predictions.json")
    for entry in truth["annotations"]:
        del entry["score"]
    write_coco(tmp_path / "val.json", truth)
    register_coco("mine_val", tmp_path / "val.json", image_folder)
    MetadataCatalog.get("mine_val").thing_classes = CLASSES
    return run


def test_average_precision_before_and_after(validated, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_int8, "MIN_FOUND", 0.0)
    store_threshold(validated / "model_final.pth", threshold=0.3, f1=100.0, data="mine_val")
    path = tmp_path / "model.onnx"
    agreement = export_detector(validated, path, int8=image_folder)
    assert agreement.data == "mine_val"
    assert agreement.ap_before > 90
    assert 0 <= agreement.ap_after < agreement.ap_before
    after = f"AP on mine_val {agreement.ap_before:.1f} before, {agreement.ap_after:.1f} in int8"
    assert after in str(agreement)
    # Labels of other classes say nothing of it.
    truth = read_coco(tmp_path / "val.json")
    truth["categories"][0]["name"] = "dent"
    write_coco(tmp_path / "val.json", truth)
    register_coco("mine_val", tmp_path / "val.json", image_folder)
    opened = open_run(validated)
    model, images = opened.build_model(), [make_surface(64, 80, seed) for seed in range(3)]
    agreement = compare_int8(model, model, opened.cfg, images, CLASSES, 0.3)
    assert agreement.data == ""
    assert math.isnan(agreement.ap_before)


@pytest.mark.parametrize(
    ("name", "int8", "message"),
    [
        ("model.ts", "images", r"model\.ts is TorchScript, of which there is no int8 export"),
        ("model.pth", "images", r"ends in \.pth, which is no format of an export"),
        ("model.onnx", "nowhere", "'nowhere' does not exist"),
    ],
)
def test_wrong_requests(name, int8, message, detectors, tmp_path):
    cfg, model = detectors(*YOLO)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export_model(model, cfg, tmp_path / name, "abcdef", int8=int8)
    assert list(tmp_path.iterdir()) == []


def test_openvino_needs_onnx_runtime_for_it(tmp_path, monkeypatch):
    """Which is said before the run is read."""
    monkeypatch.setitem(export.check_packages.__globals__["PACKAGES"], "onnx", ("nosuchruntime",))
    with pytest.raises(ImportError, match="needs nosuchruntime"):
        export_detector(tmp_path / "nosuch", tmp_path / "folder", int8=tmp_path)
