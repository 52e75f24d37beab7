"""The mappers: an image and its map, or its pseudo-boxes, through one augmentation."""

import copy
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.boxes.threshold import box_threshold
from detectron2_agssp.data import AnomalyMapMapper, PseudoBoxMapper, register_unlabeled
from detectron2_agssp.data.box_counts import count_boxes
from detectron2_agssp.io.images import ImageReader

HEIGHT, WIDTH = 60, 90


def blob_map():
    """High in one cell of a coarse grid: x 60 to 70, y 20 to 30 of the image."""
    anomaly_map = np.full((6, 9), 0.1, np.float32)
    anomaly_map[2, 6] = 1.0
    return anomaly_map


@pytest.fixture
def dicts(tmp_path, write_maps, empty_catalogs):
    """Data set dicts of an image with a blob (bright where its map is high), and one without."""
    (tmp_path / "images").mkdir()
    for name, anomaly_map in {"blob.png": blob_map(), "plain.png": np.zeros((6, 9))}.items():
        pixels = (255 * np.kron(anomaly_map > 0.5, np.ones((10, 10)))).astype(np.uint8)
        # Red only, to tell channel orders apart.
        Image.fromarray(np.dstack([pixels, 0 * pixels, 0 * pixels])).save(
            tmp_path / "images" / name
        )
        write_maps(tmp_path / "maps", {name: anomaly_map}, {name: (HEIGHT, WIDTH)})
    # With a slash, as a shell completes it.
    register_unlabeled("blobs", f"{tmp_path}/images/", f"{tmp_path}/maps/")
    return DatasetCatalog.get("blobs")


@pytest.fixture
def cfg(tiny_cfg, dicts):
    tiny_cfg.DATASETS.TRAIN = ("blobs",)
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    tiny_cfg.INPUT.MIN_SIZE_TEST = 2 * HEIGHT
    return tiny_cfg


def bright_box(image):
    """XYXY of the blob in the mapped image (3, H, W)."""
    rows, columns = np.nonzero(image.numpy().max(axis=0) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


AUGMENTATIONS = {
    "none": [],
    "crop": [T.CropTransform(40, 10, 45, 40)],
    "mirror and grow": [T.RandomFlip(1.0), T.Resize((150, 200))],
    "upside down, padded": [
        T.RandomFlip(1.0, horizontal=False, vertical=True),
        T.PadTransform(4, 6, 8, 10),
    ],
}


# ---- maps


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_map(dicts, name):
    before = copy.deepcopy(dicts)
    output = AnomalyMapMapper(augmentations=AUGMENTATIONS[name])(dicts[0])
    assert dicts == before
    assert {**before[0], "image": 0, "anomaly_map": 0} == {**output, "image": 0, "anomaly_map": 0}
    image, anomaly_map = output["image"], output["anomaly_map"]
    assert (image.dtype, image.shape[0]) == (torch.uint8, 3)
    assert (anomaly_map.dtype, anomaly_map.shape) == (torch.float32, (1, *image.shape[1:]))
    assert anomaly_map.min() >= 0
    assert 0.9 < anomaly_map.max() <= 1
    x0, y0, x1, y1 = bright_box(image)
    assert anomaly_map[0, (y0 + y1) // 2, (x0 + x1) // 2] > 0.9
    inside = torch.zeros_like(anomaly_map, dtype=torch.bool)
    inside[:, y0:y1, x0:x1] = True
    assert anomaly_map[inside].mean() > 3 * anomaly_map[~inside].mean()


def test_channel_order_and_depth(dicts):
    rgb = AnomalyMapMapper(augmentations=[], image_format="RGB")(dicts[0])["image"]
    bgr = AnomalyMapMapper(augmentations=[])(dicts[0])["image"]
    assert rgb[0].any()
    assert not rgb[1:].any()
    torch.testing.assert_close(bgr, rgb.flip(0))
    deep = np.full((HEIGHT, WIDTH), 4095, np.uint16)
    Image.fromarray(deep).save(dicts[0]["file_name"])
    mapper = AnomalyMapMapper(augmentations=[], reader=ImageReader(bit_depth=12))
    assert mapper(dicts[0])["image"].min() == 255


def test_map_mapper_from_a_config(cfg, dicts):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [48, 32]
    cfg.AGSSP.INPUT.ROTATION = (-10.0, 10.0)
    cfg.AGSSP.INPUT.COLOR_JITTER = (0.2, 0.0, 0.3)
    kinds = [type(one) for one in AnomalyMapMapper(cfg).augmentations.augs]
    assert kinds == [
        T.ResizeShortestEdge,
        T.RandomRotation,
        T.RandomCrop,
        T.RandomFlip,
        T.RandomBrightness,
        T.RandomSaturation,
    ]
    assert AnomalyMapMapper(cfg)(dicts[0])["anomaly_map"].shape == (1, 48, 32)
    testing = AnomalyMapMapper(cfg, is_train=False)
    assert [type(one) for one in testing.augmentations.augs] == [T.ResizeShortestEdge]
    assert testing(dicts[0])["anomaly_map"].shape == (1, 120, 180)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ROTATION", (20.0, 10.0), r"ROTATION must be .*got \(20\.0, 10\.0\)"),
        ("ROTATION", (-200.0, 10.0), r"\[-180, 180\]"),
        ("COLOR_JITTER", (0.1, 0.1, 1.0), r"COLOR_JITTER .*got \(0\.1, 0\.1, 1\.0\)"),
        ("COLOR_JITTER", (0.1, 0.1), "brightness, contrast, saturation"),
    ],
)
def test_bad_augmentation_settings(cfg, key, value, message):
    cfg.AGSSP.INPUT[key] = value
    with pytest.raises(ValueError, match=message):
        AnomalyMapMapper(cfg)


# ---- boxes


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_boxes_follow_the_blob(dicts, name):
    before = copy.deepcopy(dicts)
    output = PseudoBoxMapper(augmentations=AUGMENTATIONS[name], rules=BoxRule(0.5))(dicts[0])
    assert dicts == before
    instances, image = output["instances"], output["image"]
    assert instances.image_size == image.shape[1:]
    assert instances.gt_boxes.tensor.dtype == torch.float32
    np.testing.assert_allclose(instances.gt_boxes.tensor[0], bright_box(image), atol=3)
    assert instances.gt_classes.tolist() == [0]
    assert instances.gt_classes.dtype == torch.int64
    # The highest pixels are half a pixel from the cell's centre, which has 1.
    assert instances.gt_scores.tolist() == pytest.approx([0.91], abs=0.01)


def test_image_without_boxes_is_a_negative(dicts):
    instances = PseudoBoxMapper(augmentations=[], rules=BoxRule(0.5))(dicts[1])["instances"]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.shape == instances.gt_scores.shape == (0,)
    cropped_away = [T.CropTransform(0, 0, 40, 60)]
    mapper = PseudoBoxMapper(augmentations=cropped_away, rules=BoxRule(0.5))
    assert len(mapper(dicts[0])["instances"]) == 0


def test_box_mapper_from_a_config(cfg, dicts):
    cfg.AGSSP.BOXES.MAX_BOXES = 3
    cfg.AGSSP.BOXES.NMS_IOU = 0.4
    cfg.AGSSP.BOXES.MARGIN = 0.2
    mapper = PseudoBoxMapper(cfg)
    map_root = dicts[0]["map_root"]
    assert mapper.rules == {map_root: BoxRule(box_threshold(map_root, margin=0.2), 3, 0.4)}
    assert [len(mapper(one)["instances"]) for one in dicts] == [1, 0]
    cfg.INPUT.CROP.ENABLED = True
    kinds = [type(one) for one in PseudoBoxMapper(cfg).augmentations.augs]
    assert kinds == [T.RandomCrop, T.ResizeShortestEdge, T.RandomFlip]
    testing = PseudoBoxMapper(cfg, is_train=False)
    assert [type(one) for one in testing.augmentations.augs] == [T.ResizeShortestEdge]
    assert testing(dicts[0])["instances"].image_size == (120, 180)


def test_the_boxes_are_counted_at_the_start(cfg, caplog):
    caplog.set_level(logging.INFO)
    PseudoBoxMapper(cfg)
    assert "blobs: 1 boxes in 1 of 2 images, threshold 0.400" in caplog.text
    caplog.clear()
    PseudoBoxMapper(cfg, is_train=False)
    assert "boxes in" not in caplog.text
    few = count_boxes("blobs", BoxRule(0.5), max_images=1)
    assert str(few) == "1 boxes in 1 of 1 images (a sample of 2), threshold 0.500"


def test_settings_reach_the_boxes(dicts):
    assert len(PseudoBoxMapper(augmentations=[], rules=BoxRule(0.05))(dicts[0])["instances"]) == 1
    rules = {dicts[0]["map_root"]: BoxRule(0.999)}
    assert len(PseudoBoxMapper(augmentations=[], rules=rules)(dicts[0])["instances"]) == 0


def test_map_folder_without_a_threshold(dicts):
    mapper = PseudoBoxMapper(augmentations=[], rules={"/other": BoxRule(0.5)})
    with pytest.raises(ValueError, match=r"no rule for .*maps', only for \['/other'\].*TRAIN"):
        mapper(dicts[0])


# ---- what is wrong with the data


@pytest.fixture(params=["maps", "boxes"])
def mapper(request):
    if request.param == "maps":
        return AnomalyMapMapper(augmentations=[])
    return PseudoBoxMapper(augmentations=[], rules=BoxRule(0.5))


def test_map_of_another_image(mapper, dicts):
    Image.new("RGB", (HEIGHT, WIDTH)).save(dicts[0]["file_name"])
    message = r"blob\.png' is 90 x 60 .*blob\.png\.npy' was made of an image of 60 x 90.*again"
    with pytest.raises(SizeMismatchError, match=message):
        mapper(dicts[0])


def test_missing_and_bad_maps(mapper, dicts):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy.*is missing although the manifest"):
        mapper({**dicts[0], "map_file": "gone.npy"})
    np.save(dicts[0]["map_file"], np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match=r"blob\.png\.npy.*nan.*Delete it"):
        mapper(dicts[0])


def test_data_set_without_maps(mapper, dicts):
    del dicts[0]["map_file"]
    message = (
        r"Mapper needs .*blob\.png' has no 'map_file'.*register_unlabeled, or set AGSSP.MAPPER"
    )
    with pytest.raises(ValueError, match=message):
        mapper(dicts[0])
