"""A user's own labels: what is completed, what is refused, and the validation set that is drawn."""

import json

import pytest
from PIL import Image

from detectron2_agssp.data.own_labels import draw_validation, read_own_labels
from detectron2_agssp.io.coco import coco_problems

HEIGHT, WIDTH = 16, 20


def labels_of(boxes, **image):
    """A COCO dict of one image, its boxes of the class 5."""
    return {
        "images": [{"id": "a", "file_name": "a.png", **image}],
        "annotations": [{"image_id": "a", "category_id": 5, "bbox": box} for box in boxes],
        "categories": [{"id": 5, "name": "dent"}],
    }


@pytest.fixture
def write(tmp_path):
    """A function that writes labels, below ``annotations``, beside the folder of the image."""
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")

    def write(content, encoding="utf-8"):
        path = tmp_path / "annotations" / "own.json"
        path.write_text(json.dumps(content), encoding=encoding)
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_training_needs_is_added(write, tmp_path, encoding):
    coco, root, notes = read_own_labels(write(labels_of([[1, 2, 3, 4], [0, 0, 9, 8]]), encoding))
    assert (root, notes) == (tmp_path / "images", [])
    assert coco["images"] == [{"id": "a", "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    assert [entry["id"] for entry in coco["annotations"]] == [1, 2]
    assert [(entry["area"], entry["iscrowd"]) for entry in coco["annotations"]] == [
        (12, 0),
        (72, 0),
    ]
    assert coco_problems(coco, root) == []


def test_what_is_there_is_kept(write):
    content = labels_of([[1, 2, 3, 4]], height=HEIGHT, width=WIDTH)
    kept = {"id": 9, "area": 7.5, "iscrowd": 1, "segmentation": [[1, 2, 4, 2, 4, 6]]}
    content["annotations"][0].update(kept)
    (entry,) = read_own_labels(write(content))[0]["annotations"]
    assert entry == {**content["annotations"][0], "id": 1}


def test_boxes_are_cut_at_the_border(write):
    boxes = [[-4, 2, 8, 4], [17.4, 2, 3, 4], [30, 2, 4, 4], [3, 3, 0, 5]]
    coco, _, notes = read_own_labels(write(labels_of(boxes, height=HEIGHT, width=WIDTH)))
    first, second = (entry["bbox"] for entry in coco["annotations"])
    assert first == [0, 2, 4, 4]
    assert second == pytest.approx([17.4, 2, 2.6, 4])
    assert notes == [
        "1 boxes reached beyond their images and were cut.",
        "2 boxes without area inside their images were left out.",
    ]


def test_the_folder_of_images_may_be_named(write, tmp_path):
    path = write(labels_of([[1, 2, 3, 4]]))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images" / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    with pytest.raises(FileNotFoundError, match=r"1 of the 1 images of .*own\.json are not in "):
        read_own_labels(path)
    assert read_own_labels(path, tmp_path / "elsewhere")[1] == tmp_path / "elsewhere"


@pytest.mark.parametrize("orientation", [1, 6])
def test_images_of_another_size_are_refused(write, tmp_path, orientation):
    """Resized since, or turned by EXIF, of which the labels know nothing."""
    labels = write(labels_of([[1, 2, 3, 4]], height=HEIGHT, width=WIDTH))
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (WIDTH, HEIGHT) if orientation == 6 else (WIDTH // 2, HEIGHT // 2)
    Image.new("RGB", size).save(tmp_path / "images" / "a.png", exif=exif)
    said = "16 x 20, which EXIF turns" if orientation == 6 else "10 x 8"
    with pytest.raises(ValueError, match=rf"a\.png \(labelled as 20 x 16, but {said}\): they were"):
        read_own_labels(labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"annotations": []},
            r"has no boxes \(1 images, 1 categories\): there is nothing to learn",
        ),
        ({"categories": []}, "unknown category id 5"),
        ({"annotations": labels_of([["x", 2, 3, 4]])["annotations"]}, "has the bbox"),
        (
            {"annotations": [{"image_id": "b", "category_id": 5, "bbox": [1, 2, 3, 4]}]},
            "image id b",
        ),
        ({"images": labels_of([])["images"] * 2}, "2 of the images have the id a"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(write, change, message):
    with pytest.raises(ValueError, match=message):
        read_own_labels(write({**labels_of([[1, 2, 3, 4]]), **change}))


def test_a_class_without_a_box_is_named(write):
    content = labels_of([[1, 2, 3, 4]])
    content["categories"].append({"id": 0, "name": "none"})
    assert read_own_labels(write(content))[2][0].startswith("No box is of none, which count as")


def draw_of(counts, **settings):
    """Of so many images per class (0: without boxes): file names of training and validation."""
    images, annotations = [], []
    for category, count in counts.items():
        for number in range(count):
            image = {"id": len(images), "file_name": f"{category}_{number}.png"}
            images.append(image)
            box = {"image_id": image["id"], "category_id": category}
            annotations += [box] * (category > 0)
    coco = {"images": images, "annotations": annotations, "categories": []}
    parts = draw_validation(coco, **settings)
    for part in parts:
        ids = {image["id"] for image in part["images"]}
        assert all(entry["image_id"] in ids for entry in part["annotations"])
    return [[image["file_name"] for image in part["images"]] for part in parts]


def per_class(names):
    return [sum(name.startswith(f"{category}_") for name in names) for category in range(4)]


def test_validation_has_a_fifth_of_each_class():
    train, val = draw_of({0: 5, 1: 10, 2: 20, 3: 25})
    assert per_class(val) == [1, 2, 4, 5]
    assert per_class(train) == [4, 8, 16, 20]
    assert not set(train) & set(val)
    assert [train, val] == draw_of({0: 5, 1: 10, 2: 20, 3: 25})
    assert val != draw_of({0: 5, 1: 10, 2: 20, 3: 25}, seed=1)[1]


def test_small_classes_share_what_they_owe_and_keep_an_image():
    train, val = draw_of({1: 1, 2: 4, 3: 5})
    assert len(val) == 2
    assert min(per_class(train)[1:]) >= 1
    train, val = draw_of(dict.fromkeys(range(1, 11), 1))
    assert len(train) == 10


def test_an_image_counts_for_its_rarest_class():
    both = [{"image_id": 9, "category_id": id_} for id_ in (1, 2)]
    common = [{"image_id": number, "category_id": 1} for number in range(9)]
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(10)]
    coco = {"images": images, "annotations": common + both, "categories": []}
    for seed in range(10):
        train, _ = draw_validation(coco, seed=seed)
        assert 9 in {image["id"] for image in train["images"]}


@pytest.mark.parametrize("relative", [False, True])
def test_the_folder_of_the_images_is_taken_from_the_info(write, tmp_path, relative):
    """As `agssp labels` writes it, wherever the json lies."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images" / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    content = labels_of([[1, 2, 3, 4]])
    content["info"] = {"image_root": "../elsewhere" if relative else str(tmp_path / "elsewhere")}
    assert read_own_labels(write(content))[1] == tmp_path / "elsewhere"
    for odd in (["x"], "", "nowhere", "\0"):
        content["info"] = {"image_root": odd}
        with pytest.raises(FileNotFoundError, match="1 of the 1 images of"):
            read_own_labels(write(content))
    content["info"] = "of 2024"
    with pytest.raises(FileNotFoundError, match="1 of the 1 images of"):
        read_own_labels(write(content))
