"""Mosaics: windows keep their pixels, boxes keep their pixels, and when none are made."""

import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from detectron2_agssp.boxes import BoxRule
from detectron2_agssp.data.builtin import register_builtin_datasets
from detectron2_agssp.data.mapper_choice import build_mapper
from detectron2_agssp.data.mappers import PseudoBoxMapper
from detectron2_agssp.data.mosaic import Mosaic, cut_instances, mosaic_settings
from tests.tiny_data import write_datasets
from tests.tiny_models import make_cfg

NANO = "finetune/yolo_cspdarknet_n.yaml"


def labelled(height, width, colour, *boxes) -> tuple[torch.Tensor, Instances]:
    """An image of one colour with boxes of the colour above it; their class is the colour."""
    image = torch.full((3, height, width), colour, dtype=torch.uint8)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.full((len(boxes),), colour)
    for x0, y0, x1, y1 in boxes:
        image[:, y0:y1, x0:x1] = colour + 1
    return image, instances


@pytest.fixture
def seeded():
    random.seed(0)


def samples():
    sizes = [(60, 80), (40, 50), (90, 64), (20, 30)]
    return [
        labelled(height, width, 50 * index + 10, [4, 4, 16, 14], [width - 9, 3, width, height - 2])
        for index, (height, width) in enumerate(sizes)
    ]


@pytest.mark.usefixtures("seeded")
def test_boxes_lie_on_what_they_lay_on():
    """In 50 mosaics of images of four sizes, one smaller than its quarter."""
    mosaic, classes = Mosaic(cut_instances, probability=1.0), set()
    for sample in samples() * 13:
        image, instances = mosaic(*sample)
        assert image.shape == sample[0].shape
        assert image.dtype == torch.uint8
        assert instances.image_size == tuple(image.shape[-2:])
        marked = torch.zeros(image.shape[-2:], dtype=torch.bool)
        for box, colour in zip(instances.gt_boxes.tensor.int(), instances.gt_classes, strict=True):
            x0, y0, x1, y1 = box.tolist()
            assert (image[:, y0:y1, x0:x1] == colour + 1).all()
            marked[y0:y1, x0:x1] = True
        classes |= set(instances.gt_classes.tolist())
        # What is left of a defect without its box is less than a quarter of it.
        unmarked = sum((image[0][~marked] == 50 * index + 11).sum() for index in range(4))
        assert unmarked < 8 * 0.25 * 9 * 85
    assert len(classes) == 4


@pytest.mark.usefixtures("seeded")
def test_the_first_images_and_those_after_the_last_call_are_as_they_were():
    mosaic = Mosaic(cut_instances, probability=1.0, num_calls=6)
    same = [torch.equal(mosaic(*sample)[0], sample[0]) for sample in samples() * 2]
    assert same == [True] * 3 + [False] * 3 + [True] * 2


@pytest.mark.usefixtures("seeded")
def test_probability():
    mosaic = Mosaic(cut_instances, probability=0.3)
    same = [torch.equal(mosaic(*sample)[0], sample[0]) for sample in samples() * 50]
    assert 0.6 < np.mean(same) < 0.8
    never = Mosaic(cut_instances, probability=0.0)
    state = random.getstate()
    for image, instances in samples() * 2:
        unchanged, own = never(image, instances)
        assert unchanged is image
        assert own is instances
    assert random.getstate() == state
    assert not never.pool


def test_boxes_in_a_window():
    _, instances = labelled(40, 60, 0, [0, 0, 20, 20], [14, 10, 34, 30], [50, 30, 60, 40])
    window = cut_instances(instances, y=5, x=10, height=20, width=30)
    assert window.image_size == (20, 30)
    assert window.gt_boxes.tensor.tolist() == [[0, 0, 10, 15], [4, 5, 24, 20]]
    assert len(cut_instances(instances, y=16, x=16, height=4, width=4)) == 0
    assert len(cut_instances(instances[:0], y=5, x=10, height=20, width=30)) == 0


@pytest.mark.usefixtures("seeded")
def test_pseudo_boxes_are_cut_from_the_windows_by_the_rule_of_their_map(tmp_path, write_maps):
    """Two anomalies that touch at a seam are two boxes, and a map that is under its rule's
    threshold has none."""
    maps, dicts = {}, []
    for index in range(4):
        anomaly_map = np.full((48, 64), 0.8 if index else 0.4, np.float32)
        anomaly_map[::2] -= 0.1  # a map of one value is refused
        maps[f"{index}.png"] = anomaly_map
        Image.fromarray(np.full((48, 64, 3), 60 * index, np.uint8)).save(tmp_path / f"{index}.png")
    root = write_maps(tmp_path / "maps", maps)
    for index in range(4):
        name = f"{index}.png"
        dicts.append(
            {
                "file_name": str(tmp_path / name),
                "map_file": str(next((root / "maps").rglob(f"{name}.npy"))),
                "height": 48,
                "width": 64,
            }
        )
    rule = BoxRule(threshold=0.6)
    mapper = PseudoBoxMapper(augmentations=[], rules=rule, mosaic=1.0)
    for sample in dicts[1:]:
        assert mapper(sample)["instances"].gt_boxes.tensor.tolist() == [[0, 0, 64, 48]]
    inputs = mapper(dicts[0])
    boxes = inputs["instances"].gt_boxes.tensor.int().tolist()
    assert len(boxes) == 3
    assert inputs["instances"].gt_scores.tolist() == pytest.approx([0.8] * 3, abs=0.01)
    covered = torch.zeros(48, 64)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] += 1
        assert len(inputs["image"][:, y0:y1, x0:x1].unique()) == 1
    assert covered.max() == 1
    assert torch.equal(covered == 0, inputs["image"][0] == 0), "all but the first image's"


@pytest.fixture
def datasets(tmp_path, empty_catalogs):
    register_builtin_datasets(write_datasets(tmp_path / "datasets"))


@pytest.mark.usefixtures("datasets", "seeded")
def test_the_detection_mapper_makes_them_in_training_only():
    names = {"DATASETS.TRAIN": ("neu_det_train",), "DATASETS.TEST": ("neu_det_test",)}
    cfg = make_cfg(NANO, names, {"AGSSP.INPUT.MOSAIC": 1.0, "INPUT.RANDOM_FLIP": "none"})
    dicts = DatasetCatalog.get("neu_det_train")
    mapper = build_mapper(cfg, is_train=True)
    outputs = [mapper(sample) for sample in dicts]
    assert [len(output["instances"]) for output in outputs[:3]] == [1] * 3
    height, width = outputs[3]["instances"].image_size
    assert outputs[3]["image"].shape == (3, height, width)
    # Defects are bright on a dark ground.
    for x0, y0, x1, y1 in outputs[3]["instances"].gt_boxes.tensor.round().int().tolist():
        assert outputs[3]["image"][:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].float().mean() > 150
    assert build_mapper(cfg, is_train=False).mosaic.probability == 0


def test_settings():
    keys = {"AGSSP.INPUT.MOSAIC": 0.5, "AGSSP.INPUT.MOSAIC_UNTIL": 0.8}
    schedule = {"SOLVER.MAX_ITER": 100, "SOLVER.IMS_PER_BATCH": 8, "DATALOADER.NUM_WORKERS": 4}
    cfg = make_cfg(NANO, keys, schedule)
    assert mosaic_settings(cfg, True) == {"mosaic": 0.5, "mosaic_calls": 160.0}
    assert mosaic_settings(cfg, False) == {}
    cfg.DATALOADER.NUM_WORKERS = 0
    assert mosaic_settings(cfg, True)["mosaic_calls"] == 640.0
    cfg.AGSSP.INPUT.MOSAIC_UNTIL = 0.0
    with pytest.raises(ValueError, match=r"MOSAIC_UNTIL must be in \(0, 1\], got 0.0"):
        mosaic_settings(cfg, True)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match=r"moves boxes only: .*MASK_ON to False"):
        mosaic_settings(cfg, True)
    with pytest.raises(ValueError, match=r"AGSSP.INPUT.MOSAIC must be in \[0, 1\], got 1.5"):
        Mosaic(cut_instances, probability=1.5)
