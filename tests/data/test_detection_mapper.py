"""Labelled images are read as those of the maps are, and trained on as Detectron2 does."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data import detection_utils as stock
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image

from detectron2_agssp.data import (
    AnomalyMapMapper,
    DetectionMapper,
    build_mapper,
    register_unlabeled,
)
from detectron2_agssp.data.unlabeled import load_unlabeled
from detectron2_agssp.io.coco import (
    coco_annotation,
    coco_categories,
    coco_image,
    register_coco,
    write_coco,
)
from detectron2_agssp.io.images import ImageReader, ImageScaleError, read_image
from detectron2_agssp.io.masks import encode_mask
from tests.conftest import make_surface

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.AGSSP.MAPPER = "DetectionMapper"
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    tiny_cfg.INPUT.MIN_SIZE_TEST = HEIGHT
    return tiny_cfg


def labelled(path, **more) -> dict:
    box = {"bbox": [4, 8, 20, 16], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "iscrowd": 0}
    crowd = {**box, "iscrowd": 1}
    size = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": str(path), "image_id": 1, **size, "annotations": [box, crowd], **more}


def test_sixteen_bits_are_the_same_pixels_everywhere(cfg, tmp_path, write_maps, empty_catalogs):
    """12 bits, as cameras give: Detectron2's reader makes them white, everywhere."""
    values = np.linspace(100, 4000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Image.fromarray(values).save(path)
    expected = torch.from_numpy(np.rint(values / 4095 * 255).astype(np.uint8)).expand(3, -1, -1)
    cfg.AGSSP.INPUT.BIT_DEPTH = 12
    cfg.INPUT.RANDOM_FLIP = "none"
    training, testing = build_mapper(cfg), build_mapper(cfg, is_train=False)
    torch.testing.assert_close(training(labelled(path))["image"], expected)
    torch.testing.assert_close(testing(labelled(path))["image"], expected)
    maps = write_maps(tmp_path / "maps", {"a.png": np.eye(4)}, {"a.png": (HEIGHT, WIDTH)})
    (entry,) = load_unlabeled(path.parent, maps)
    torch.testing.assert_close(AnomalyMapMapper(cfg)(entry)["image"], expected)
    # AGDP's test loader too, which no mapper is passed to.
    register_unlabeled("mine", path.parent, maps)
    cfg.AGSSP.MAPPER = "PseudoBoxMapper"
    ((batch,),) = build_detection_test_loader(cfg, "mine")
    torch.testing.assert_close(batch["image"], expected)
    assert (stock.read_image(str(path), "RGB") == 255).mean() > 0.9


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation_is_applied_once(cfg, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = make_surface(*((HEIGHT, WIDTH) if orientation == 3 else (WIDTH, HEIGHT)))
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    image = build_mapper(cfg, is_train=False)(labelled(tmp_path / "a.png"))["image"]
    turned = np.rot90(stored, {3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(image.permute(1, 2, 0).flip(2).numpy(), turned)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turned)


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_other_images_are_as_detectron2_s(cfg, tmp_path, is_train, masks):
    Image.fromarray(make_surface(HEIGHT, WIDTH)).save(tmp_path / "a.png")
    cfg.INPUT.CROP.ENABLED = not masks  # cropping polygons takes another package
    cfg.MODEL.MASK_ON = masks
    entry = labelled(tmp_path / "a.png")
    for annotation in entry["annotations"]:
        annotation["segmentation"] = [[4, 8, 24, 8, 24, 24]]
    before = repr(entry)
    results = []
    for mapper in (DetectionMapper(cfg, is_train), DatasetMapper(cfg, is_train)):
        seed_all_rng(3)
        results.append([mapper(entry) for _ in range(3)])
    assert repr(entry) == before
    for found, expected in zip(*results, strict=True):
        assert found.keys() == expected.keys()
        assert torch.equal(found["image"], expected["image"])
        assert ("instances" in found) == is_train
        if is_train:
            instances = expected["instances"]
            assert found["instances"].get_fields().keys() == instances.get_fields().keys()
            assert torch.equal(found["instances"].gt_boxes.tensor, instances.gt_boxes.tensor)
            assert torch.equal(found["instances"].gt_classes, instances.gt_classes)


def test_labels_of_another_size_and_values_beyond_the_scale(cfg, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((HEIGHT, WIDTH), 4096, np.uint16))
    mapper = DetectionMapper(cfg, False)
    with pytest.raises(SizeMismatchError, match=r"a\.png.*\(60, 40\), expect \(61, 40\)"):
        mapper(labelled(tmp_path / "a.png", width=WIDTH + 1))
    mapper.reader = ImageReader(bit_depth=12)
    with pytest.raises(ImageScaleError, match=r"a\.png.*AGSSP\.INPUT\.BIT_DEPTH.*13 or more"):
        mapper(labelled(tmp_path / "a.png"))


@pytest.mark.parametrize("names", [["dent", "crack"], ["crack"]])
def test_classes_of_training_and_test_are_compared(cfg, tmp_path, empty_catalogs, names):
    for name, classes in (("mine_train", ["crack", "dent"]), ("mine_test", names)):
        content = {"images": [], "annotations": [], "categories": coco_categories(classes)}
        write_coco(tmp_path / f"{name}.json", content)
        register_coco(name, tmp_path / f"{name}.json", tmp_path)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("mine_train",), ("mine_test",)
    with pytest.raises(ValueError, match=r"mine_test has the categories .*, but mine_train"):
        build_mapper(cfg)
    cfg.DATASETS.TEST = ("mine_train",)
    assert isinstance(build_mapper(cfg), DetectionMapper)
    # A set that is not there is not used.
    MetadataCatalog.get("gone").set(json_file="gone.json", evaluator_type="coco")
    cfg.DATASETS.TEST = ("gone",)
    assert isinstance(build_mapper(cfg), DetectionMapper)


def test_proposals_are_refused(cfg):
    cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(ValueError, match=r"MODEL\.LOAD_PROPOSALS to False"):
        build_mapper(cfg)


RECTANGLE = [[4, 8, 24, 8, 24, 24, 4, 24]]


@pytest.mark.parametrize("encoded", [False, True])
def test_masks_go_through_reader_and_augmentation(cfg, tmp_path, encoded):
    """As polygons, or as the run lengths that prepare_magnetic_tile.py writes."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8:24, 4:24] = True
    cv2.imwrite(str(tmp_path / "a.png"), mask.astype(np.uint16) * 60000 + 100)
    entry = labelled(tmp_path / "a.png")
    for annotation in entry["annotations"]:
        annotation["segmentation"] = encode_mask(mask) if encoded else RECTANGLE
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (2 * HEIGHT,)
    # Cropping polygons takes another package.
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = encoded, [0.8, 0.8]
    mapper = DetectionMapper(cfg)
    seed_all_rng(1)
    for _ in range(5):
        sample = mapper(entry)
        (found,), (box,) = sample["instances"].gt_masks, sample["instances"].gt_boxes
        bright = sample["image"][0] > 128
        # Pixels are interpolated, masks not.
        assert (found ^ bright).sum() < 0.1 * bright.sum()
        rows, columns = (axis.nonzero() for axis in (found.any(1), found.any(0)))
        assert box.tolist() == [
            *(columns.min().item(), rows.min().item()),
            *(columns.max().item() + 1, rows.max().item() + 1),
        ]


@pytest.mark.parametrize("annotations", [[], [1]])
def test_cropped_images_without_defects_where_masks_are_learned(cfg, tmp_path, annotations):
    """Detectron2's own mapper cannot; a crowd is none to learn."""
    Image.fromarray(make_surface(HEIGHT, WIDTH)).save(tmp_path / "a.png")
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT, cfg.INPUT.CROP.ENABLED = True, "bitmask", True
    entry = labelled(tmp_path / "a.png")
    entry["annotations"] = [entry["annotations"][which] for which in annotations]
    instances = DetectionMapper(cfg)(entry)["instances"]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)


@pytest.fixture
def three_boxes(tmp_path, empty_catalogs):
    """A registered image of a good box with a mask, one of no height, and one of no width."""
    Image.fromarray(make_surface(HEIGHT, WIDTH)).save(tmp_path / "a.png")
    boxes = [[4, 8, 20, 16], [4, 8, 20, 0], [9, 8, 0, 9]]
    annotations = [
        coco_annotation(number, 1, 1, box, segmentation=RECTANGLE)
        for number, box in enumerate(boxes, start=1)
    ]
    content = {
        "images": [coco_image(1, "a.png", height=HEIGHT, width=WIDTH)],
        "annotations": annotations,
        "categories": coco_categories(["dent"]),
    }
    write_coco(tmp_path / "mine.json", content)
    register_coco("mine", tmp_path / "mine.json", tmp_path)
    return content


def test_boxes_without_area_are_dropped_and_counted(cfg, three_boxes, caplog):
    cfg.DATASETS.TRAIN, cfg.INPUT.RANDOM_FLIP = ("mine",), "none"
    mapper = build_mapper(cfg)
    assert "mine: 2 boxes have no area and are left out." in caplog.text
    (entry,) = DatasetCatalog.get("mine")
    assert mapper(entry)["instances"].gt_boxes.tensor.tolist() == [[4, 8, 24, 24]]
    caplog.clear()
    build_mapper(cfg, is_train=False)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("mine",)
    build_mapper(cfg)
    assert "area" not in caplog.text


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_labels_without_masks_are_refused_where_masks_are_learned(cfg, three_boxes, tmp_path, key):
    cfg.DATASETS[key], cfg.MODEL.MASK_ON = ("mine",), True
    build_mapper(cfg)
    for annotation in three_boxes["annotations"][1:]:
        del annotation["segmentation"]
    write_coco(tmp_path / "mine.json", three_boxes)
    with pytest.raises(ValueError, match=r"mine has 2 boxes without a seg.* set it to False"):
        build_mapper(cfg)
    cfg.MODEL.MASK_ON = False
    build_mapper(cfg)
