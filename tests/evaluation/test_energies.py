"""A backbone's energies against masks."""

import json

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from PIL import Image
from scipy import ndimage

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.checkpoint import export_backbone
from detectron2_agssp.evaluation import anomaly_metrics
from detectron2_agssp.evaluation.energies import (
    energy_metrics,
    format_energies,
    load_distiller,
    resize_energy,
)
from detectron2_agssp.modeling import AnomalyDistiller
from tests.child_process import run_command
from tests.tiny_models import ROOT, SMALL_TIMM, AverageBackbone, make_cfg, make_model

STRIDES = {"res4": 8, "res5": 16}
SIZE = 40
# (height, width); most are no multiple of a stride.
IMAGES = {"dent/1.png": (64, 48), "dent/2.png": (50, 91), "scratch/3.png": (33, 70)}


@pytest.fixture
def cfg():
    """Images stay as they are."""
    cfg = get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AnomalyDistiller(
        backbone=AverageBackbone(STRIDES),
        in_features=tuple(STRIDES),
        loss_weights=(1.0, 1.0),
        pixel_mean=(100.0, 110.0, 120.0),
        pixel_std=(50.0, 60.0, 70.0),
        input_format="RGB",
    ).eval()


@pytest.fixture
def folders(tmp_path):
    """Noisy images, brighter where they are defect, and their masks; one image has none."""
    rng = np.random.default_rng(0)
    for name, (height, width) in {**IMAGES, "free/4.png": (40, 60)}.items():
        mask = np.zeros((height, width), bool)
        mask[height // 3 : height // 3 + 17, width // 2 : width // 2 + 23] = True
        pixels = rng.integers(0, 200, (height, width, 3)) + 50 * mask[:, :, None]
        for root, image in (("images", pixels), ("masks", mask * 255)):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(path)
    (tmp_path / "masks/free/4.png").unlink()
    return tmp_path / "images", tmp_path / "masks"


def plain_energy(model, name, pixels, size):
    """Of an image (H, W, 3): (size, size) float64, by loops over cells and NumPy."""
    height, width, _ = pixels.shape
    mean, std = (one.flatten().numpy() for one in (model.pixel_mean, model.pixel_std))
    stride, normalized = STRIDES[name], (pixels - mean) / std
    # Padding is zero after normalization.
    padded = np.zeros((-(-height // 16) * 16, -(-width // 16) * 16, 3))
    padded[:height, :width] = normalized
    convolution = model.backbone.convs[name]
    weight, bias = (one.detach().squeeze().numpy() for one in convolution.parameters())
    energy = np.zeros((-(-height // stride), -(-width // stride)))
    for row, column in np.ndindex(energy.shape):
        y, x = row * stride, column * stride
        cell = padded[y : y + stride, x : x + stride].mean(axis=(0, 1))
        energy[row, column] = np.square(weight @ cell + bias).sum()
    centres = (np.arange(size) + 0.5) / size
    rows, columns = centres * height / stride - 0.5, centres * width / stride - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(energy, grid, order=1, mode="nearest")


def judge(cfg, model, folders, **kwargs):
    return energy_metrics(cfg, model, *folders, **{"size": SIZE, "progress": False, **kwargs})


def test_against_all_pixels_at_once(cfg, model, folders):
    """The exact metrics of the raw energies: what brings them into [0, 1] changes nothing."""
    images, masks = folders
    found = judge(cfg, model, folders)
    for name in STRIDES:
        assert list(found[name]) == ["dent", "scratch", "mean"]
        for kind in ("dent", "scratch"):
            paths = [path for path in IMAGES if path.startswith(kind)]
            energies = [
                plain_energy(model, name, np.asarray(Image.open(images / path)), SIZE)
                for path in paths
            ]
            truth = [
                np.asarray(Image.open(masks / path).resize((SIZE, SIZE), Image.Resampling.NEAREST))
                for path in paths
            ]
            expected = {**anomaly_metrics(energies, truth), "images": len(paths)}
            # Beside the bins, float32 rounds pixels apart that are equal in float64.
            assert found[name][kind] == pytest.approx(expected, abs=1e-3)


def test_order_of_channels(cfg, model, folders):
    """A BGR model with its numbers reversed sees the same."""
    expected = judge(cfg, model, folders)
    model.pixel_mean, model.pixel_std = model.pixel_mean.flip(0), model.pixel_std.flip(0)
    for convolution in model.backbone.convs.values():
        convolution.weight.data = convolution.weight.data.flip(1)
    assert judge(cfg, model, folders) != expected
    cfg.INPUT.FORMAT = "BGR"
    found = judge(cfg, model, folders)
    assert found["res4"]["dent"] == pytest.approx(expected["res4"]["dent"], abs=1e-4)


def test_images_are_resized_as_in_testing(cfg, model, folders):
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]["image"].shape))
    cfg.INPUT.MIN_SIZE_TEST = 96
    judge(cfg, model, folders)
    assert [tuple(shape) for shape in seen] == [(3, 128, 96), (3, 96, 175), (3, 96, 204)]


def test_labels_of_a_coco_json(cfg, model, folders, tmp_path):
    height, width = IMAGES["dent/2.png"]
    image = {"id": 1, "file_name": "x/dent/2.png", "height": height, "width": width}
    box = [width // 2, height // 3, 23, 17]
    content = {
        "images": [image],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": box}],
        "categories": [{"id": 5, "name": "dents"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    found = judge(cfg, model, (folders[0], tmp_path / "labels.json"))["res5"]
    assert list(found) == ["dents", "mean"]
    for name in ("dent/1.png", "scratch/3.png"):
        (folders[1] / name).unlink()
    assert found["dents"] == judge(cfg, model, folders)["res5"]["dent"]


def test_energy_that_is_zero(cfg, model, folders):
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert judge(cfg, model, folders)["res4"]["dent"]["auroc"] == 0.5


def test_resize_of_a_whole_number_of_cells():
    energy = torch.rand(3, 5)
    resized = resize_energy(energy, 8, (24, 40), 16)
    np.testing.assert_allclose(resized, resize_map(energy.numpy(), 16, 16), atol=1e-5)


def test_resize_cuts_cells_beyond_the_image():
    """A ramp stays one: pixel p of 18 has the value of its centre."""
    ramp = (torch.arange(3)[None].repeat(2, 1) + 0.5) * 8
    resized = resize_energy(ramp, 8, (16, 18), 18)
    expected = (np.arange(18) + 0.5).clip(4)
    np.testing.assert_allclose(resized, np.tile(expected, (18, 1)), atol=1e-4)


def test_tables(cfg, model, folders):
    metrics = {"imagenet": judge(cfg, model, folders), "1": judge(cfg, model, folders)}
    auroc, ap = format_energies(metrics).split("\n\n")
    for table, title in ((auroc, "AUROC of energy"), (ap, "AP of energy")):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert lines[0] == [title, "weights", "dent", "scratch", "mean"]
        rows = [line[:2] for line in lines[2:6]]
        assert rows == [[name, key] for name in STRIDES for key in ("imagenet", "1")]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": "images/free"}, ValueError, r"None of the images .*has a mask in .*scratches"),
        ({"masks": "absent"}, FileNotFoundError, "Mask folder .*absent' does not exist"),
        ({"images": "absent"}, FileNotFoundError, "Image folder .*absent' does not exist"),
        ({"size": 0}, ValueError, "size must be positive, got 0"),
        ({"threshold": 255}, ValueError, r"dent/1.*value 255, .*threshold of 255"),
    ],
)
def test_errors(cfg, model, folders, change, error, message):
    images, masks = (
        folders[0].parent / change.pop(name) if name in change else path
        for name, path in zip(("images", "masks"), folders, strict=True)
    )
    with pytest.raises(error, match=message):
        judge(cfg, model, (images, masks), **change)


def test_weights_that_diverged(cfg, model, folders):
    model.backbone.convs["res5"].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"'res5' is not finite on 'dent/1\.png'"):
        judge(cfg, model, folders)


def same_backbone(one, other):
    tensors = other.backbone.state_dict()
    return all(torch.equal(t, tensors[name]) for name, t in one.backbone.state_dict().items())


@pytest.fixture
def trained(tmp_path):
    """An AGBP model that is not as it was built, and its checkpoint."""
    model = make_model("agbp/lite0.yaml", SMALL_TIMM, seed=1)
    DetectionCheckpointer(model, str(tmp_path)).save("trained")
    return model, tmp_path / "trained.pth"


def test_weights(trained, tmp_path):
    model, path = trained
    cfg = make_cfg("agbp/lite0.yaml", SMALL_TIMM)
    assert same_backbone(load_distiller(cfg, str(path)), model)
    assert same_backbone(
        load_distiller(cfg, str(export_backbone(model, tmp_path / "b.pth"))), model
    )
    for start in ("", "imagenet"):
        assert not same_backbone(load_distiller(cfg, start), model)
    cfg.MODEL.WEIGHTS = str(path)
    assert same_backbone(load_distiller(cfg, "imagenet"), model)
    assert not load_distiller(cfg, "").training


def test_weights_that_do_not_fit(trained, tmp_path):
    cfg = make_cfg("agbp/lite0.yaml", SMALL_TIMM)
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint 'absent\.pth'"):
        load_distiller(cfg, "absent.pth")
    detector = make_model("agdp/faster_rcnn_lite0_fpn.yaml", SMALL_TIMM, seed=2)
    DetectionCheckpointer(detector, str(tmp_path)).save("detector")
    loaded = load_distiller(cfg, str(tmp_path / "detector.pth")).backbone.state_dict()
    expected = detector.backbone.bottom_up.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
    other = make_cfg("agbp/lite0.yaml", {**SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_075"})
    with pytest.raises(ValueError, match=r"weights .*detector\.pth"):
        load_distiller(other, str(tmp_path / "detector.pth"))
    with pytest.raises(ValueError, match="is 'GeneralizedRCNN', which gives no energies"):
        load_distiller(make_cfg("agdp/faster_rcnn_lite0_fpn.yaml"), "")


@pytest.mark.parametrize("order", ["folders first", "after a double dash"])
def test_tool(folders, trained, tmp_path, order):
    pairs = [str(one) for pair in SMALL_TIMM.items() for one in pair if pair[0] != "MODEL.WEIGHTS"]
    pairs = [*pairs, "INPUT.MIN_SIZE_TEST", "64"]
    weights = ["--weights", "imagenet", trained[1]]
    options = ["--config-file", ROOT / "configs/agbp/lite0.yaml", "--size", 32]
    output = ["--output", tmp_path / "table.json"]
    arguments = {
        "folders first": [*folders, *options, *output, *weights, *pairs],
        "after a double dash": [*options, *output, *weights, "--", *folders, *pairs],
    }[order]
    done = run_command("evaluate", "energies", *arguments, output=tmp_path)
    assert done.code == 0, done.stderr
    tables = json.loads((tmp_path / "table.json").read_text())
    assert list(tables) == sorted(["imagenet", str(trained[1])])
    assert list(tables["imagenet"]["res4"]) == ["dent", "mean", "scratch"]
    assert done.stdout.count(str(trained[1])) == 4
