import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detectron2_agssp.scoring.synthetic.defects import MIN_AREA, MIN_LONG_SIDE
from detectron2_agssp.scoring.synthetic.noise import fractal_noise, smooth_noise, streak_noise
from examples.quickstart.synthetic import CLASSES, SURFACES, generate, generate_sample_dataset
from examples.quickstart.synthetic.render import plan_image, render_image

SIZES = ((72, 96), (96, 72), (80, 80))


def make(root, **arguments):
    settings = {"num_train": 5, "num_test": 2, "sizes": SIZES, "progress": False, **arguments}
    return generate_sample_dataset(root, **settings)


def files_below(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "set"
    return root, make(root, num_train=30, num_test=6)


@pytest.fixture
def train(dataset):
    return COCO(dataset[1]["splits"]["train"]["annotations"])


def plans(count, seed=0, normal_fraction=0.0, sizes=SIZES):
    return [plan_image(seed, "train", i, sizes, normal_fraction) for i in range(count)]


class TestLayout:
    def test_images_and_masks_are_exactly_those_of_the_annotations(self, dataset, train):
        root, _ = dataset
        names = {image["file_name"] for image in train.imgs.values()}
        defective = {
            train.imgs[annotation["image_id"]]["file_name"] for annotation in train.anns.values()
        }
        assert set(files_below(root / "images" / "train")) == names
        assert set(files_below(root / "masks" / "train")) == defective

    def test_names_tell_surface_and_first_class(self, train):
        for image in train.imgs.values():
            surface, _, file = image["file_name"].partition("/")
            annotations = train.imgToAnns[image["id"]]
            label = CLASSES[annotations[0]["category_id"] - 1] if annotations else "normal"
            assert file == f"{surface}_{label}_{image['id'] - 1:05d}.png"

    def test_images_have_the_recorded_size_and_three_channels(self, dataset, train):
        for image in train.imgs.values():
            file = str(dataset[0] / "images" / "train" / image["file_name"])
            pixels = cv2.imread(file, cv2.IMREAD_UNCHANGED)
            assert pixels.dtype == np.uint8
            assert pixels.shape == (image["height"], image["width"], 3)
        assert {(image["height"], image["width"]) for image in train.imgs.values()} == set(SIZES)

    def test_readme_and_annotations_say_synthetic(self, dataset, train):
        text = (dataset[0] / "README.txt").read_text()
        assert "SYNTHETIC" in text
        assert "seed: 0" in text
        assert "SYNTHETIC" in train.dataset["info"]["description"]


class TestAnnotations:
    def test_categories_are_numbered_in_order(self, train):
        numbers = {category["name"]: category["id"] for category in train.dataset["categories"]}
        assert numbers == {name: number for number, name in enumerate(CLASSES, start=1)}

    def test_box_and_area_are_those_of_the_mask(self, train):
        for annotation in train.dataset["annotations"]:
            mask = train.annToMask(annotation)
            assert annotation["bbox"] == list(cv2.boundingRect(mask))
            assert annotation["area"] == mask.sum() >= MIN_AREA
            assert max(annotation["bbox"][2:]) >= MIN_LONG_SIDE
            assert annotation["iscrowd"] == 0
            assert isinstance(annotation["segmentation"]["counts"], str)

    def test_mask_file_is_the_union_of_disjoint_instances(self, dataset, train):
        for image_id, annotations in train.imgToAnns.items():
            name = train.imgs[image_id]["file_name"]
            file = str(dataset[0] / "masks" / "train" / name)
            total = sum(coco_mask.decode(a["segmentation"]).astype(int) for a in annotations)
            np.testing.assert_array_equal(total * 255, cv2.imread(file, cv2.IMREAD_UNCHANGED))

    def test_every_class_and_surface_is_there(self, dataset):
        split = dataset[1]["splits"]["train"]
        assert min(split["instances_per_class"].values()) >= 1
        assert min(split["images_per_surface"].values()) >= 1

    def test_every_class_meets_every_surface(self):
        met = {(plan.classes[0], plan.surface) for plan in plans(18)}
        assert met == {(name, surface) for name in CLASSES for surface in SURFACES}

    @pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("surfaces", [SURFACES[:1], SURFACES[:2], SURFACES])
    def test_some_classes_meet_some_surfaces(self, number, surfaces):
        classes = CLASSES[:number]
        met = set()
        for index in range(len(surfaces) * number):
            plan = plan_image(0, "train", index, SIZES, 0.0, classes=classes, surfaces=surfaces)
            met.add((plan.classes[0], plan.surface))
            assert set(plan.classes) <= set(classes)
        assert met == {(name, surface) for name in classes for surface in surfaces}

    def test_fewer_classes_are_numbered_from_one(self, tmp_path):
        chosen = ("pit", "scratch")
        split = make(tmp_path, classes=chosen, surfaces=("cast",))["splits"]["train"]
        coco = COCO(split["annotations"])
        assert [coco.cats[number]["name"] for number in (1, 2)] == list(chosen)
        assert {one["category_id"] for one in coco.anns.values()} == {1, 2}
        assert list(split["instances_per_class"]) == list(chosen)
        assert list(split["images_per_surface"]) == ["cast"]

    def test_summary_counts(self, dataset, train):
        split = dataset[1]["splits"]["train"]
        assert split["images"] == 30
        assert split["normal_images"] == 9  # 30 % of 30
        assert split["instances"] == len(train.anns) == sum(split["instances_per_class"].values())
        assert sum(split["images_per_surface"].values()) == 30

    @pytest.mark.parametrize(("fraction", "normal"), [(0.0, 0), (0.25, 5), (1.0, 20)])
    def test_normal_fraction(self, fraction, normal):
        assert sum(not plan.classes for plan in plans(20, normal_fraction=fraction)) == normal

    def test_one_to_three_defects(self):
        assert {len(plan.classes) for plan in plans(60)} == {1, 2, 3}


class TestRendering:
    def test_defects_change_their_mask_and_nothing_else(self):
        for plan in plans(36):
            image, defects = render_image(plan)
            clean, _ = render_image(plan, with_defects=False)
            inside = np.any([defect.mask for defect in defects], axis=0)
            np.testing.assert_array_equal(image[~inside], clean[~inside])
            assert (image[inside] != clean[inside]).any(axis=1).mean() > 0.9

    def test_most_defects_stand_out_from_the_sensor_noise(self):
        strongest_noise = 0.02 * 255
        visible = []
        for plan in plans(60):
            image, defects = render_image(plan)
            clean, _ = render_image(plan, with_defects=False)
            difference = np.abs(image.astype(float) - clean).mean(axis=2)
            visible += [difference[defect.mask].mean() > 2 * strongest_noise for defect in defects]
        assert np.mean(visible) > 0.9

    @pytest.mark.parametrize("surface", SURFACES)
    def test_normal_images_vary_in_brightness_and_contrast(self, surface):
        drawn = plans(45, normal_fraction=1.0)
        images = [render_image(plan)[0].astype(float) for plan in drawn if plan.surface == surface]
        assert np.std([image.mean() for image in images]) > 8
        contrasts = [image.std() for image in images]
        assert max(contrasts) > 1.5 * min(contrasts)

    def test_images_use_the_grey_range_without_saturating(self):
        pixels = np.concatenate([render_image(plan)[0].ravel() for plan in plans(36)])
        assert 90 < pixels.mean() < 180
        assert ((pixels == 0) | (pixels == 255)).mean() < 0.02

    @pytest.mark.parametrize("size", [(64, 64), (64, 300), (300, 64)])
    def test_first_defect_always_fits(self, size):
        for plan in plans(36, sizes=(size,)):
            image, defects = render_image(plan)
            assert image.shape == (*size, 3)
            assert defects[0].class_name == plan.classes[0]


class TestNoise:
    @pytest.mark.parametrize(
        ("draw", "arguments"),
        [
            (smooth_noise, [1.5]),
            (smooth_noise, [200.0]),
            (fractal_noise, [40.0]),
            (streak_noise, [0.3, 100, 3]),
        ],
    )
    def test_standardised(self, draw, arguments):
        field = draw(np.random.default_rng(0), (70, 110), *arguments)
        assert field.shape == (70, 110)
        assert field.dtype == np.float32
        assert abs(field.mean()) < 1e-3
        assert abs(field.std() - 1) < 1e-3

    @pytest.mark.parametrize("angle", [0.0, 0.6, np.pi / 2, 2.4])
    def test_streaks_run_along_the_angle(self, angle):
        field = streak_noise(np.random.default_rng(0), (160, 160), angle, 60, 2)
        dy, dx = np.gradient(field)
        # The structure tensor's weakest direction is that of least change: along the streaks.
        tensor = np.array([[(dx * dx).mean(), (dx * dy).mean()], [0, (dy * dy).mean()]])
        along = np.linalg.eigh(tensor, UPLO="U")[1][:, 0]
        assert abs(along @ [np.cos(angle), np.sin(angle)]) > 0.98


class TestReproducibility:
    def test_same_arguments_same_bytes(self, tmp_path):
        make(tmp_path / "a")
        make(tmp_path / "b")
        assert files_below(tmp_path / "a") == files_below(tmp_path / "b")

    def test_image_does_not_depend_on_the_number_of_images(self, tmp_path):
        make(tmp_path / "few", num_train=3)
        make(tmp_path / "many", num_train=6)
        few = files_below(tmp_path / "few" / "images")
        many = files_below(tmp_path / "many" / "images")
        assert few.items() < many.items()

    def test_seeds_splits_and_indices_give_different_images(self):
        drawn = [
            render_image(plan_image(seed, split, index, ((64, 64),), 1.0))[0].tobytes()
            for seed in (0, 1)
            for split in ("train", "test")
            for index in (0, 3)  # the same surface
        ]
        assert len(set(drawn)) == len(drawn)


class TestExistingFolder:
    def test_finished_set_is_left_alone(self, tmp_path, monkeypatch):
        first = make(tmp_path)
        monkeypatch.setattr(generate, "render_image", lambda plan: pytest.fail("rendered again"))
        assert make(tmp_path) == first

    def test_missing_files_are_made_again_and_others_kept(self, tmp_path):
        make(tmp_path)
        before = files_below(tmp_path)
        lost_image, kept, *_ = sorted((tmp_path / "images" / "train").rglob("*.png"))
        lost_mask = next((tmp_path / "masks" / "train").rglob("*.png"))
        os.utime(kept, (1, 1))
        for lost in (lost_image, lost_mask):
            lost.unlink()
            make(tmp_path)
            assert files_below(tmp_path) == before
        assert kept.stat().st_mtime == 1

    def test_interrupted_run_is_resumed(self, tmp_path, monkeypatch):
        make(tmp_path / "whole")
        # Running out of prepared images stands for the interruption.
        prepared = [render_image(plan) for plan in plans(3, normal_fraction=0.3)]
        with monkeypatch.context() as patch:
            patch.setattr(generate, "render_image", lambda plan: prepared.pop(0))
            with pytest.raises(IndexError):
                make(tmp_path / "part")
        assert not (tmp_path / "part" / "annotations").exists()
        make(tmp_path / "part")
        assert files_below(tmp_path / "part") == files_below(tmp_path / "whole")

    def test_other_settings_are_refused_by_name(self, tmp_path):
        make(tmp_path)
        before = files_below(tmp_path)
        with pytest.raises(ValueError, match=r"num_train is 5 there, 6 was asked for.*delete it"):
            make(tmp_path, num_train=6)
        with pytest.raises(ValueError, match="seed is 0 there, 1 was asked for"):
            make(tmp_path, seed=1)
        assert files_below(tmp_path) == before

    def test_foreign_folder_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"no settings\.json"):
            make(tmp_path)
        assert set(files_below(tmp_path)) == {"notes.txt"}

    def test_zero_test_images(self, tmp_path):
        split = make(tmp_path, num_test=0)["splits"]["test"]
        assert split["images"] == split["instances"] == 0
        assert Path(split["image_root"]).is_dir()
        assert COCO(split["annotations"]).getImgIds() == []
        assert make(tmp_path, num_test=0)["splits"]["test"] == split


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": -1}, "num_train must be at least 0, got -1"),
        ({"num_test": -2}, "num_test must be at least 0, got -2"),
        ({"seed": -3}, "seed must be at least 0, got -3"),
        ({"sizes": ((96, 63),)}, r"at least 64 px, got \(96, 63\)"),
        ({"sizes": ((96, 96, 3),)}, r"got \(96, 96, 3\)"),
        ({"sizes": ()}, "at least one"),
        ({"classes": ()}, r"classes must be some of .* got \(\)"),
        ({"classes": ("pit", "pit")}, r"each once, got \('pit', 'pit'\)"),
        ({"surfaces": ("wood",)}, r"surfaces must be some of .* got \('wood',\)"),
        ({"normal_fraction": 1.5}, r"in \[0, 1\], got 1.5"),
        ({"normal_fraction": float("nan")}, "got nan"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


def test_command_line(tmp_path, capsys):
    from examples.quickstart.synthetic.__main__ import main

    root = tmp_path / "set"
    main([str(root), "--num-train", "3", "--num-test", "1", "--seed", "4"])
    output = capsys.readouterr().out
    assert "train: 3 images" in output
    assert f"{{}}, '{root}/annotations/test.json', '{root}/images/test')" in output
    assert '"seed": 4' in (root / "settings.json").read_text()
    with pytest.raises(SystemExit, match="2"):
        main([str(root), "--num-train", "3", "--num-test", "1", "--seed", "5"])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "seed is 4 there" in error
