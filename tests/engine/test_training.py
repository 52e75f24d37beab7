"""What a training run checks before it begins."""

import urllib.error

import pytest
from detectron2.data import DatasetCatalog
from detectron2.utils.file_io import PathManager

from detectron2_agssp.checkpoint.remote import fetch_weights
from detectron2_agssp.cli.main import run_command
from detectron2_agssp.data.registered import require_registered
from detectron2_agssp.engine import training
from tests.tiny_models import SMALL_R50


@pytest.fixture
def registered(empty_catalogs, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    DatasetCatalog.register("agssp_mine", list)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "agssp_min",
            r"DATASETS\.TRAIN: there is no data set agssp_min\. Did you mean agssp_mine\?",
        ),
        ("agssp_nosuch", "It would be the map folder .*agssp/nosuch, which is not there"),
        ("agssp_made_boxes", "map folder .*agssp/made, which is no map folder"),
        ("zzz", r"there is no data set zzz\.$"),
    ],
)
def test_a_data_set_that_is_not_registered(registered, tmp_path, name, message):
    (tmp_path / "agssp/made").mkdir(parents=True)
    require_registered(["agssp_mine"], key="DATASETS.TRAIN")
    with pytest.raises(ValueError, match=message):
        require_registered(["agssp_mine", name], key="DATASETS.TRAIN")


@pytest.fixture
def no_network(monkeypatch):
    def get_local_path(url, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(PathManager, "get_local_path", get_local_path)


def test_weights_that_cannot_be_reached(no_network):
    assert fetch_weights("") == ""
    assert fetch_weights("a/b.pth") == "a/b.pth"
    with pytest.raises(ConnectionError) as error:
        fetch_weights("detectron2://ImageNet/R-50.pkl", instead="agssp://agbp/lite0.yaml")
    assert str(error.value) == (
        "detectron2://ImageNet/R-50.pkl cannot be reached (<urlopen error no network>). Fetch "
        "https://dl.fbaipublicfiles.com/detectron2/ImageNet/R-50.pkl where there is a network, and "
        "name the file: MODEL.WEIGHTS /path/to/R-50.pkl. Without a download: --config-file "
        "agssp://agbp/lite0.yaml."
    )


@pytest.mark.parametrize(
    ("config", "instead"),
    [
        ("agbp/R50", "agssp://agbp/lite0.yaml"),
        ("agdp/retinanet_R50_fpn", "agssp://agdp/faster_rcnn_lite0_fpn.yaml"),
        ("finetune/retinanet_R50_fpn", "agssp://finetune/faster_rcnn_lite0_fpn.yaml"),
    ],
)
def test_the_command_names_a_config_of_the_stage_without_download(
    registered, no_network, tmp_path, capsys, monkeypatch, config, instead
):
    # Its loggers would keep this test's captured output.
    monkeypatch.setattr(training, "default_setup", lambda cfg, args: None)
    settings = {key: value for key, value in SMALL_R50.items() if key != "MODEL.WEIGHTS"}
    settings |= {"DATASETS.TRAIN": ("agssp_mine",), "DATASETS.TEST": (), "OUTPUT_DIR": tmp_path}
    settings["MODEL.WEIGHTS"] = "https://host/R-50.pkl"
    pairs = [str(word) for pair in settings.items() for word in pair]
    arguments = ["--config-file", f"agssp://{config}.yaml", *pairs]
    with pytest.raises(SystemExit, match="2"):
        run_command("train", arguments, prog="agssp train")
    assert f"Without a download: --config-file {instead}." in capsys.readouterr().err
