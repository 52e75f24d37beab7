"""A fine-tuning config for own labels: what it takes from a run, and what it refuses."""

import json
import logging
import re

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from detectron2_agssp.checkpoint.export import export_backbone
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer, load_weights
from detectron2_agssp.cli.main import main
from detectron2_agssp.engine.scaffold import write_finetuning_config
from detectron2_agssp.io.coco import read_coco, subset, write_coco
from detectron2_agssp.io.config_reading import read_config
from tests.tiny_data import write_datasets
from tests.tiny_models import R18, SMALL, SMALL_TIMM, make_cfg

pytestmark = pytest.mark.usefixtures("empty_catalogs")

# Differs from the shipped config in what has no shape, and in what has one.
OWN_PIXELS = {
    "MODEL.PIXEL_MEAN": [100.0, 110.0, 120.0],
    "MODEL.PIXEL_STD": [50.0, 60.0, 70.0],
    "INPUT.FORMAT": "BGR",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve images of 48 x 64, two of each class."""
    return write_datasets(tmp_path_factory.mktemp("data"), 12) / "neu_det"


@pytest.fixture
def labels(data):
    return data / "annotations" / "train.json"


def train(root, config, *settings, with_config=True):
    """A folder as a run leaves it."""
    cfg = make_cfg(config, *settings)
    torch.manual_seed(0)
    model = build_model(cfg)
    root.mkdir(parents=True)
    CheckedCheckpointer(model, str(root)).save("model_final")
    if with_config:
        (root / "config.yaml").write_text(cfg.dump())
    return model


def written(scaffold):
    return read_config(scaffold.config_file)


def test_everything_is_taken_from_a_run(labels, tmp_path, caplog):
    trained = train(
        tmp_path / "run/agdp", "agdp/faster_rcnn_lite0_fpn.yaml", SMALL_TIMM, OWN_PIXELS
    )
    with caplog.at_level(logging.INFO):
        made = write_finetuning_config(tmp_path / "my own.yaml", labels, run=tmp_path / "run")
    assert "Start afresh, as expected with 6 classes instead of 1: roi_heads.box_p" in caplog.text
    assert "random remain" not in caplog.text
    assert "other settings" not in caplog.text
    assert (made.detector, made.images) == ("faster_rcnn_lite0_fpn", {"train": 10, "val": 2})
    assert made.notes == []
    assert re.search(r"loads backbone \((\d+) of \1 tensors\), neck \((\d+) of \2 t", made.loaded)

    text = made.config_file.read_text()
    assert '_BASE_: "agssp://finetune/faster_rcnn_lite0_fpn.yaml"' in text
    cfg = written(made)
    weights = tmp_path / "run" / "agdp" / "model_final.pth"
    assert str(weights) == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 6
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        assert yaml.safe_load(text)["MODEL"][key] == cfg.MODEL[key] == OWN_PIXELS[f"MODEL.{key}"]
    assert cfg.INPUT.FORMAT == "BGR"
    assert (cfg.AGSSP.TIMM.MODEL, cfg.AGSSP.TIMM.WEIGHTS) == ("resnet18", "")
    assert (cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM) == (16, 16)
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 2  # of fine-tuning
    assert str(tmp_path / "my own") == cfg.OUTPUT_DIR

    tuned = build_model(cfg)
    load_weights(tuned, cfg.MODEL.WEIGHTS)
    theirs, own = trained.backbone.state_dict(), tuned.backbone.state_dict()
    assert theirs.keys() == own.keys()
    assert all(torch.equal(theirs[name], own[name]) for name in own)


def test_data_come_along(labels, data, tmp_path):
    made = write_finetuning_config(tmp_path / "mine.yaml", labels)
    assert made.classes == [entry["name"] for entry in read_coco(labels)["categories"]]
    cfg = written(made)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("mine_train",), ("mine_val",))
    dicts = [DatasetCatalog.get(name) for name in ("mine_train", "mine_val")]
    assert [len(part) for part in dicts] == [10, 2]
    files = {entry["file_name"] for part in dicts for entry in part}
    assert files == {str(data / "images" / f"{number}.png") for number in range(12)}
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.AGSSP.SOLVER.EPOCHS == 0  # 250 iterations of 8 are 200 passes


def test_a_weight_file_alone_has_its_record(labels, tmp_path):
    settings = [SMALL, OWN_PIXELS, {"MODEL.RETINANET.NUM_CONVS": 2}]
    train(tmp_path / "run", "agdp/retinanet_lite0_fpn.yaml", *settings, with_config=False)
    weights = tmp_path / "run" / "model_final.pth"
    made = write_finetuning_config(tmp_path / "mine.yaml", labels, run=weights)
    assert made.detector == "retinanet_lite0_fpn"
    cfg = written(made)
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 6
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.FPN.OUT_CHANNELS) == ([100.0, 110.0, 120.0], 16)


@pytest.mark.parametrize("exported", [True, False])
def test_a_backbone_goes_into_a_detector_with_it(labels, tmp_path, exported):
    model = train(tmp_path / "run", "agbp/R50.yaml", R18, OWN_PIXELS)
    run = tmp_path / "run"
    if exported:
        run = export_backbone(model, run / "backbone_final.pth")
    settings = {"detector": "retinanet_R50_fpn"} if exported else {}
    made = write_finetuning_config(tmp_path / "mine.yaml", labels, run=run, **settings)
    assert made.detector == settings.get("detector", "faster_rcnn_R50_fpn")
    cfg = written(made)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS) == (18, 64)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD) == ("BGR", [50.0, 60.0, 70.0])


def test_validation_of_ones_own(labels, data, tmp_path):
    coco = read_coco(labels)
    write_coco(tmp_path / "train.json", subset(coco, {1, 2, 3}))
    write_coco(tmp_path / "val.json", subset(coco, {4}))
    paths = [tmp_path / "train.json", tmp_path / "val.json"]
    keys = {"images": data / "images", "validation": paths[1]}
    made = write_finetuning_config(tmp_path / "mine.yaml", paths[0], **keys)
    assert made.images == {"train": 3, "val": 1}
    write_coco(paths[1], subset(coco, {3, 4}))
    with pytest.raises(ValueError, match=r"1 images are both in .*train\.json and in .*val\.json"):
        write_finetuning_config(tmp_path / "other.yaml", paths[0], **keys)
    renamed = [{**entry, "name": f"{entry['name']}s"} for entry in coco["categories"]]
    write_coco(paths[1], {**subset(coco, {4}), "categories": renamed})
    with pytest.raises(ValueError, match="They must be the same in every split"):
        write_finetuning_config(tmp_path / "other.yaml", paths[0], **keys)


def test_few_images_have_no_validation(labels, data, tmp_path):
    write_coco(tmp_path / "few.json", subset(read_coco(labels), {1, 2, 3}))
    made = write_finetuning_config(
        tmp_path / "mine.yaml", tmp_path / "few.json", images=data / "images"
    )
    assert made.images == {"train": 3}
    assert any(note.startswith("3 images are too few") for note in made.notes)
    assert written(made).DATASETS.TEST == ()


def test_many_images_are_passed_over_often_enough(labels, data, tmp_path):
    coco = read_coco(labels)
    images, annotations = coco["images"] * 20, coco["annotations"] * 20
    coco["images"] = [{**image, "id": number} for number, image in enumerate(images)]
    coco["annotations"] = [
        {**entry, "id": number, "image_id": number} for number, entry in enumerate(annotations)
    ]
    write_coco(tmp_path / "many.json", coco)
    made = write_finetuning_config(
        tmp_path / "mine.yaml", tmp_path / "many.json", images=data / "images"
    )
    assert written(made).AGSSP.SOLVER.EPOCHS == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config_file": "mine.txt"}, r"A config's name ends in \.yaml, got .*mine\.txt"),
        ({"config_file": "there.yaml"}, "there.yaml is there already"),
        ({"detector": "faster_rcnn_lite"}, "Did you mean faster_rcnn_lite0_fpn?"),
        ({"run": "empty"}, "empty has no weights .* no run of agssp pretrain or agssp train"),
        ({"run": "foreign.pth"}, "has no record of what it was trained with"),
    ],
)
def test_what_it_refuses(labels, tmp_path, arguments, message):
    (tmp_path / "there.yaml").touch()
    (tmp_path / "empty").mkdir()
    torch.save({"model": {"stem.weight": torch.ones(3)}}, tmp_path / "foreign.pth")
    paths = {
        key: tmp_path / value if key != "detector" else value for key, value in arguments.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_finetuning_config(**{"config_file": tmp_path / "a.yaml", "labels": labels, **paths})
    assert not list(tmp_path.glob("*_train.json"))


def test_weights_of_no_shipped_detector(labels, tmp_path):
    train(tmp_path / "run", "finetune/faster_rcnn_lite0_fpn.yaml", SMALL)
    path = tmp_path / "run" / "model_final.pth"
    content = torch.load(path, weights_only=True)
    content["agssp"]["settings"]["heads"]["MODEL.META_ARCHITECTURE"] = "Oracle"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"\(Oracle\) on their backbone \(timm\)"):
        write_finetuning_config(tmp_path / "mine.yaml", labels, run=path)


def test_the_command_ends_with_that_of_the_training(labels, tmp_path, capsys):
    config = tmp_path / "my own.yaml"
    main(["init", "--labels", str(labels), str(config), "--detector", "retinanet_R50_fpn"])
    printed = capsys.readouterr().out
    assert f"  agssp train --config-file '{config}'\n" in printed
    assert f"  python train_net.py --config-file '{config}'" in printed
    assert "on 10 images, to be validated on 2; 6 classes: crazing, " in printed
    (tmp_path / "bad.json").write_text(json.dumps({**read_coco(labels), "annotations": []}))
    with pytest.raises(SystemExit, match="2"):
        main(["init", "--labels", str(tmp_path / "bad.json"), str(tmp_path / "b.yaml")])
    assert "has no boxes (12 images, 6 categories)" in capsys.readouterr().err
