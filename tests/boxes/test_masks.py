"""Pseudo-masks: the components that gave the boxes, against an independent implementation, through
the mapper, and as COCO segmentations."""

import json

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.boxes.coco_export import pseudo_boxes_as_coco, write_pseudo_boxes
from detectron2_agssp.boxes.components import boxes_from_map, component_masks
from detectron2_agssp.cli.main import main
from detectron2_agssp.data import PseudoBoxMapper
from detectron2_agssp.data.unlabeled import load_unlabeled
from detectron2_agssp.io.coco import check_coco_json


def noise(seed, height, width):
    rng = np.random.default_rng(seed)
    full = ndimage.gaussian_filter(rng.random((height, width)), rng.uniform(0.5, 5))
    return ((full - full.min()) / np.ptp(full)).astype(np.float32), rng.uniform(0.3, 0.7)


def extents(masks):
    """XYXY of masks (K, H, W)."""
    return [
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        for rows, columns in map(np.nonzero, masks)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_against_an_independent_implementation(seed):
    full, threshold = noise(seed, *np.random.default_rng(seed).integers(20, 200, 2))
    boxes, _ = boxes_from_map(full, *full.shape, threshold, max_boxes=10**6, nms_iou=1)
    masks = component_masks(full, threshold, boxes)
    assert masks.dtype == bool
    assert extents(masks) == boxes.tolist()
    labels, _ = ndimage.label(ndimage.binary_fill_holes(full > threshold), np.ones((3, 3)))
    for mask in masks:
        number = labels[mask][0]
        np.testing.assert_array_equal(mask, labels == number)


def draw(*rectangles):
    """Rectangles (x0, y0, x1, y1, value) on a map of 60 x 90."""
    full = np.zeros((60, 90), np.float32)
    for x0, y0, x1, y1, value in rectangles:
        full[y0:y1, x0:x1] = value
    return full


def test_holes_are_filled_with_what_is_in_them():
    full = draw((10, 10, 70, 50, 0.8), (20, 20, 60, 40, 0.0), (30, 25, 45, 35, 0.9))
    (mask,) = component_masks(full, 0.5, np.array([[10, 10, 70, 50]], np.float32))
    np.testing.assert_array_equal(mask, draw((10, 10, 70, 50, 1)) > 0)


def test_parts_of_others_inside_a_box_are_left_out():
    corner = draw((10, 10, 50, 14, 0.9), (10, 10, 14, 50, 0.9))
    both = corner + draw((20, 30, 80, 40, 0.8))
    boxes, _ = boxes_from_map(both, 60, 90, 0.5)
    assert boxes.tolist() == [[10, 10, 50, 50], [20, 30, 80, 40]]
    masks = component_masks(both, 0.5, boxes)
    np.testing.assert_array_equal(masks, [corner > 0, both == np.float32(0.8)])


def test_only_of_the_boxes_that_are_kept():
    full = draw(*((15 * n, 5, 15 * n + 8, 13, 0.6 + 0.03 * n) for n in range(5)))
    rule = BoxRule(0.5, max_boxes=2)
    boxes, _ = rule(full, 60, 90)
    masks = rule.masks(full, boxes)
    assert extents(masks) == boxes.tolist() == [[60, 5, 68, 13], [45, 5, 53, 13]]
    assert rule.at(0.99).masks(full, boxes[:0]).shape == (0, 60, 90)


def test_thresholds_by_source_and_another_precision():
    rule = BoxRule({"line 1": 0.2, "line 2": 0.6})
    full = draw((10, 10, 60, 50, 0.5), (20, 20, 40, 40, 0.7)).astype(np.float64)
    for source, sides in (("line 1", 40 * 50), ("line 2", 20 * 20)):
        boxes, _ = rule(full, 60, 90, source)
        assert rule.masks(full, boxes, source).sum() == sides


# ---- through the mapper


AUGMENTATIONS = {
    "none": [],
    "crop": [T.CropTransform(20, 10, 90, 70)],
    "mirror and grow": [T.RandomFlip(1.0), T.Resize((211, 290))],
    "rotate": [T.RandomRotation([17, 17], expand=False)],
    "pad": [T.PadTransform(4, 6, 8, 10)],
}


@pytest.fixture
def folder(tmp_path, write_maps):
    """Maps of noise, one of them flat, of images that are not square."""
    maps = {f"{seed}.png": noise(seed, 24, 31)[0] for seed in range(3)}
    maps["flat.png"] = np.zeros((4, 4))
    for name in maps:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (130, 97)).save(tmp_path / "images" / name)
    return write_maps(tmp_path / "maps", maps, dict.fromkeys(maps, (97, 130)))


@pytest.mark.parametrize("extent", [0.0, 0.7])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_mapper_s_masks_agree_with_its_boxes(name, extent, folder, tmp_path):
    """Components, and regions of peaks."""
    settings = {"augmentations": AUGMENTATIONS[name], "rules": BoxRule(0.5, extent=extent)}
    with_masks, plain = PseudoBoxMapper(**settings, masks=True), PseudoBoxMapper(**settings)
    counts = []
    for sample in load_unlabeled(tmp_path / "images", folder):
        instances, expected = with_masks(sample)["instances"], plain(sample)["instances"]
        assert torch.equal(instances.gt_boxes.tensor, expected.gt_boxes.tensor)
        assert not expected.has("gt_masks")
        assert instances.gt_masks.tensor.dtype == torch.bool
        assert instances.gt_masks.tensor.shape == (len(instances), *instances.image_size)
        assert torch.equal(
            instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor
        )
        counts.append(len(instances))
    assert counts[-1] == 0
    assert sum(counts) > 5


def test_mask_on_asks_for_them(folder, tmp_path, tiny_cfg):
    (sample, *_) = load_unlabeled(tmp_path / "images", folder)
    for mask_on in (False, True):
        tiny_cfg.MODEL.MASK_ON = mask_on
        mapper = PseudoBoxMapper(tiny_cfg)
        mapper.rules = BoxRule(0.5)
        assert mapper(sample)["instances"].has("gt_masks") == mask_on
    with pytest.raises(ValueError, match=r"Mosaics move boxes only: set mosaic to 0\.0.*0\.5"):
        PseudoBoxMapper(augmentations=[], rules=BoxRule(0.5), masks=True, mosaic=0.5)


# ---- export


def test_segmentations_are_coco_s(folder, tiny_cfg, tmp_path):
    tiny_cfg.AGSSP.BOXES.MARGIN = 0.3
    path = tmp_path / "boxes.json"
    content = write_pseudo_boxes(tiny_cfg, folder, path, masks=True)
    assert json.loads(path.read_text()) == content
    assert check_coco_json(path) == []
    api = COCO(str(path))
    assert len(api.anns) > 5
    for annotation in api.anns.values():
        mask = api.annToMask(annotation)
        assert mask.shape == (97, 130)
        assert annotation["area"] == mask.sum()
        ((x0, y0, x1, y1),) = extents([mask])
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        of_pycocotools = pycocotools.mask.toBbox(annotation["segmentation"])
        assert of_pycocotools.tolist() == annotation["bbox"]
    dicts = load_coco_json(str(path), "images")
    assert sum(len(sample["annotations"]) for sample in dicts) == len(api.anns)
    # But for the masks, what is written without them.
    plain = pseudo_boxes_as_coco(tiny_cfg, folder, progress=False)
    for annotation, expected in zip(content["annotations"], plain["annotations"], strict=True):
        annotation.pop("segmentation")
        area = expected["bbox"][2] * expected["bbox"][3]
        assert annotation.pop("area") <= expected.pop("area") == area
        assert annotation == expected


def test_the_command_writes_them_where_asked(folder, tmp_path):
    for option in ([], ["--masks"]):
        main(["boxes", str(folder), str(tmp_path / "out.json"), *option])
        annotations = json.loads((tmp_path / "out.json").read_text())["annotations"]
        assert {"segmentation" in annotation for annotation in annotations} == {bool(option)}
