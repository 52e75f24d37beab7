"""Maps of, and AGBP on, images in tar archives: as of the same images in a folder."""

import json
import tarfile

import pytest
from detectron2.data import DatasetCatalog

from detectron2_agssp.data import AnomalyMapMapper, register_unlabeled
from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.io.images import list_images, read_image
from detectron2_agssp.maps import MapStore, generate_anomaly_maps
from detectron2_agssp.maps.normal import normal_images
from tests.child_process import run_command
from tests.engine.test_trainer import SHORT
from tests.tiny_models import SMALL_TIMM, make_cfg

TINY = ["AGSSP.SCORER.IMAGE_SIZE", 64, "AGSSP.SCORER.WEIGHTS", "", "AGSSP.SCORER.DEVICE", "cpu"]


@pytest.fixture
def shards(image_folder, tmp_path):
    """The images in three archives, in another order than a folder's."""
    names = sorted(list_images(image_folder), key=lambda name: name[::-1])
    for number in range(3):
        with tarfile.open(tmp_path / f"shard-{number:02}.tar", "w") as archive:
            for name in names[number::3]:
                archive.add(image_folder / name, name)
    return tmp_path / "shard-{00..02}.tar"


def maps_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.npy")
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_maps_are_those_of_the_folder(tiny_cfg, image_folder, shards, tmp_path, workers):
    tiny_cfg.AGSSP.SCORER.NUM_WORKERS = workers
    generate_anomaly_maps(tiny_cfg, image_folder, tmp_path / "folder", progress=False)
    summary = generate_anomaly_maps(tiny_cfg, shards, tmp_path / "tars", progress=False)
    assert (summary.scored, summary.skipped) == (6, 0)
    assert maps_of(tmp_path / "tars") == maps_of(tmp_path / "folder")
    keys = ("image", "map", "height", "width", "score")
    first, second = (
        [{key: entry[key] for key in keys} for entry in MapStore(tmp_path / name).entries()]
        for name in ("folder", "tars")
    )
    assert first == second
    sources = [entry["source"] for entry in MapStore(tmp_path / "tars").entries()]
    assert set(sources) == {shards.name, "line 1", "z"}
    recorded = json.loads((tmp_path / "tars/scorer.json").read_text())["image_root"]
    assert recorded == f"tar://{shards}"


def test_a_run_goes_on(tiny_cfg, shards, tmp_path):
    generate_anomaly_maps(tiny_cfg, shards, tmp_path / "whole", progress=False)
    for shard in ((0, 2), None):
        summary = generate_anomaly_maps(
            tiny_cfg, shards, tmp_path / "maps", shard=shard, progress=False
        )
    assert (summary.scored, summary.kept) == (2, 4)
    assert maps_of(tmp_path / "maps") == maps_of(tmp_path / "whole")


def test_normal_images(tiny_cfg, shards):
    tiny_cfg.AGSSP.SCORER.NORMAL_IMAGES = ("line 1", "z/*.JPG", "a.bmp")
    names = ["line 1/Kratzer ü 划痕.jpg", "line 1/a.png", "z/c.JPG", "a.bmp"]
    assert normal_images(tiny_cfg, f"tar://{shards}") == names
    tiny_cfg.AGSSP.SCORER.NORMAL_IMAGES = ("good/*.png",)
    with pytest.raises(ValueError, match=r"'good/\*\.png', which matches no image in tar://"):
        normal_images(tiny_cfg, f"tar://{shards}")


@pytest.mark.parametrize("given", [None, "archives"])
def test_agbp_reads_them(image_folder, tiny_cfg, shards, tmp_path, empty_catalogs, given):
    generate_anomaly_maps(tiny_cfg, shards, tmp_path / "maps", progress=False)
    register_unlabeled("tars", shards if given else None, tmp_path / "maps")
    dicts = DatasetCatalog.get("tars")
    assert (read_image(dicts[0]["file_name"]) == read_image(image_folder / "a.bmp")).all()
    settings = {"DATASETS.TRAIN": ("tars",), "DATASETS.TEST": (), "OUTPUT_DIR": str(tmp_path)}
    cfg = make_cfg("agbp/lite0.yaml", SMALL_TIMM, {**SHORT, "DATALOADER.NUM_WORKERS": 1}, settings)
    assert AnomalyMapMapper(cfg, is_train=False)(dicts[1])["image"].shape[0] == 3
    trainer = AGSSPTrainer(cfg)
    trainer.train()
    assert (tmp_path / "backbone_final.pth").is_file()


def test_the_command(shards, tmp_path):
    ran = run_command("maps", shards, tmp_path / "maps", *TINY, output=tmp_path)
    assert ran.code == 0, ran.stderr
    assert "6 maps made, 0 were there, 0 images skipped" in ran.stdout
    # As a shell hands them over without quotes.
    apart = [tmp_path / f"shard-0{number}.tar" for number in range(3)]
    ran = run_command("maps", *apart, tmp_path / "other", output=tmp_path)
    assert ran.code == 2
    assert "Put quotes around archives with braces" in ran.stderr
    assert not (tmp_path / "other").exists()
