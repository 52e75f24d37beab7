"""Processes that torchrun has started: who they are, and that they work on one thing together."""

import socket

import pytest
import torch

from detectron2_agssp.cli.main import main
from detectron2_agssp.data import register_map_folders
from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps import MapStore, generate_anomaly_maps
from detectron2_agssp.utils.torchrun import Member, join, member_of
from tests.child_process import as_script, run_in_child, run_in_two
from tests.engine.test_pretrain import SETTINGS
from tests.tiny_data import TINY_LAZY_AGBP, final_metrics, write_datasets
from tests.tiny_models import CONFIGS, ROOT

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **MEETING}


def test_who_a_process_is():
    assert member_of(TWO) == Member(rank=1, world_size=2, local_rank=1, local_world_size=2)
    of_four = {**TWO, "RANK": "3", "WORLD_SIZE": "4"}
    assert member_of(of_four) == Member(3, 4, 1, 2)
    without = {name: value for name, value in TWO.items() if name != "LOCAL_WORLD_SIZE"}
    assert member_of(without) == member_of(TWO)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "8", **MEETING},
        {"WORLD_SIZE": "2", "RANK": "0", **MEETING},
        {**TWO, "LOCAL_RANK": ""},
        {**TWO, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
    ],
)
def test_a_process_that_is_alone(environment):
    assert member_of(environment) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "one"}, r"RANK=one.*are no numbers"),
        ({"RANK": "2"}, r"RANK=2, WORLD_SIZE=2.*do not go together"),
        ({"RANK": "-1"}, "do not go together"),
        ({"LOCAL_RANK": "2"}, "do not go together"),
        ({"WORLD_SIZE": "3"}, "do not go together"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "no MASTER_ADDR and no MASTER_PORT"),
    ],
)
def test_environments_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        member_of({**TWO, **change})


def test_more_processes_than_gpus(monkeypatch):
    """Said before they wait for each other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 processes on this machine, and 1 GPUs: torchrun --np"):
        join(member_of(TWO))


@pytest.mark.parametrize("command", [["info"], ["boxes", "maps", "boxes.json"]])
def test_commands_of_one_process_say_so(command, monkeypatch, capsys):
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    error = capsys.readouterr().err
    assert f"agssp {command[0]} runs in one process, and torchrun has started 2" in error


def test_not_both_torchrun_and_num_gpus(monkeypatch, capsys):
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        main(["maps", "images", "maps", "--num-gpus", "2"])
    assert "torchrun has started 2 processes already: leave out --num-gpus" in (
        capsys.readouterr().err
    )


def run_two(folder, script, *arguments, datasets=None, code=0):
    """A script, or module, in two processes with torchrun's environment, which end with a code;
    what each prints, and their errors."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind((MEETING["MASTER_ADDR"], 0))
        port = free.getsockname()[1]
    together = {**TWO, "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    texts = [str(argument) for argument in arguments]
    printed = {rank: folder / f"printed by {rank}.txt" for rank in range(2)}

    def start(rank):
        environment = {**together, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        files = [printed[rank], folder / f"errors of {rank}.txt"]
        return run_in_child(as_member, datasets, str(script), texts, files, environment)

    codes = run_in_two(start)
    errors = [path.read_text() for path in sorted(folder.glob("errors of *"))]
    assert codes == [code, code], errors
    return [printed[rank].read_text() for rank in range(2)], errors


def as_member(datasets, *arguments):
    if datasets is not None:
        register_map_folders(datasets)
    as_script(*arguments)


def test_maps_of_two_processes_are_those_of_one(tiny_cfg, image_folder, tmp_path):
    generate_anomaly_maps(tiny_cfg, image_folder, tmp_path / "one", progress=False)
    (tmp_path / "tiny.yaml").write_text(tiny_cfg.dump())
    words = ["maps", image_folder, tmp_path / "two", "--config-file", tmp_path / "tiny.yaml"]
    (first, second), _ = run_two(tmp_path / "said", "detectron2_agssp", *words)
    assert "6 maps made" in first
    assert second == ""
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*"))
    assert names == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*"))
    for name in names:
        if (tmp_path / "one" / name).is_file():
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_two_processes_train_one_model(tmp_path):
    datasets = write_datasets(tmp_path / "datasets")
    settings = {
        "AGSSP.TIMM.MODEL": "mobilenetv3_small_050",
        "AGSSP.TIMM.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "DATALOADER.NUM_WORKERS": "0",
        "DATASETS.TRAIN": "('agssp_tiny',)",
        "INPUT.CROP.SIZE": "[48, 48]",
        "INPUT.MIN_SIZE_TEST": "64",
        "INPUT.MIN_SIZE_TRAIN": "(64, 64)",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.WARMUP_ITERS": "0",
        "SOLVER.MAX_ITER": "2",
        "VIS_PERIOD": "0",
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    words = [word for pair in settings.items() for word in pair]
    config = ["--config-file", CONFIGS / "agbp" / "lite0.yaml"]
    run_two(tmp_path / "said", "detectron2_agssp", "train", *config, *words, datasets=datasets)
    assert (tmp_path / "run" / "backbone_final.pth").is_file()
    assert 0 <= final_metrics(tmp_path / "run")["total_loss"] <= 4
    # Detectron2 gives each of the others a log of its own.
    assert (tmp_path / "run" / "log.txt.rank1").is_file()


def test_a_lazy_config_in_two_processes(tmp_path):
    datasets = write_datasets(tmp_path / "datasets")
    settings = {
        **TINY_LAZY_AGBP,
        "train.max_iter": 2,
        "train.device": "cpu",
        "train.output_dir": tmp_path / "run",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    config = ["--config-file", "agssp://lazy/agbp_lite0.py"]
    script = ROOT / "tools" / "lazyconfig_train_net.py"
    run_two(tmp_path / "said", script, *config, *words, datasets=datasets)
    assert (tmp_path / "run" / "model_final.pth").is_file()


class TestPretrain:
    def run(self, images, out, *options, code=0):
        """What the processes print, and their errors."""
        words = [str(word) for pair in SETTINGS.items() for word in pair]
        said = out.parent / f"said {len(list(out.parent.iterdir()))}"
        return run_two(
            said, "detectron2_agssp", "pretrain", images, out, *words, *options, code=code
        )

    def test_two_processes(self, image_folder, tmp_path):
        out = tmp_path / "out"
        (first, second), _ = self.run(image_folder, out, "--rounds", 1)
        assert second == ""
        assert first.count("stage ") == 3
        assert "AGBP: 3 iterations of 2 images" in first
        for run in ("agbp", "agdp"):
            weights = torch.load(out / run / "model_final.pth", weights_only=True)
            assert weights["iteration"] == 2
            assert not any(name.startswith("module.") for name in weights["model"])
            assert (out / run / "log.txt.rank1").is_file()
        images = [entry["image"] for entry in MapStore(out / "maps").entries()]
        assert images == list(list_images(image_folder))
        (again, _), _ = self.run(image_folder, out, "--rounds", 1)
        assert again.count(": done") == 3

    def test_an_error_is_said_once_and_ends_both(self, image_folder, tmp_path):
        _, errors = self.run(tmp_path / "gone", tmp_path / "out", code=2)
        assert "does not exist or is not a folder" in errors[0]
        assert "error" not in errors[1]
        options = ["AGDP.SOLVER.IMS_PER_BATCH", 3]
        _, errors = self.run(image_folder, tmp_path / "out", *options, code=2)
        assert "AGDP has batches of 3 images (SOLVER.IMS_PER_BATCH), which 2" in errors[0]
        assert "error" not in errors[1]
