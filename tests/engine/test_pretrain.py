"""The method in order: what each stage starts from, resuming, changed images and settings."""

import json
import re
import shlex
import shutil
import tarfile

import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image

import detectron2_agssp
from detectron2_agssp.checkpoint import remote
from detectron2_agssp.engine import pretrain as module
from detectron2_agssp.engine import runs, stages
from detectron2_agssp.engine.cost import Cost
from detectron2_agssp.engine.pretrain import pretrain
from detectron2_agssp.engine.recipe import MIN_ITERATIONS, Options, Recipe, detector_names
from detectron2_agssp.engine.trainer import AGSSPTrainer
from tests.benchmarks.few_label.tiny_benchmark import DETECTOR, SCORER

pytestmark = pytest.mark.usefixtures("empty_catalogs")

SETTINGS = {
    **DETECTOR,
    **SCORER,
    "SOLVER.MAX_ITER": 3,
    "AGBP.INPUT.CROP.SIZE": [48, 48],
    "ENERGY.AGSSP.SCORER.IMAGE_SIZE": 64,
}


def flat(settings: dict) -> list:
    return [part for pair in settings.items() for part in pair]


OPTIONS = flat(SETTINGS)


@pytest.fixture
def images(tmp_path, surface):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(surface(64, 96 - 8 * number, number)).save(folder / f"{number}.png")
    return folder


def config_of(run) -> dict:
    cfg = get_cfg()
    cfg.merge_from_file(str(run / "config.yaml"))
    return cfg


def test_two_rounds(images, tmp_path, capsys):
    (images / "broken.png").write_bytes(b"no image")
    result = detectron2_agssp.pretrain(images, tmp_path / "out", options=OPTIONS)
    out = tmp_path / "out"
    assert result == detectron2_agssp.Pretrained(
        map_root=out / "maps_round2",
        backbone=out / "agbp_round2" / "backbone_final.pth",
        weights=out / "agdp" / "model_final.pth",
        config_file="agssp://finetune/faster_rcnn_lite0_fpn.yaml",
    )
    scorers = {
        name: json.loads((out / name / "scorer.json").read_text())["scorer"]
        for name in ("maps", "maps_round1", "maps_round2")
    }
    assert scorers == {"maps": "mahalanobis", "maps_round1": "energy", "maps_round2": "energy"}
    first, second, agdp = (config_of(out / run) for run in ("agbp_round1", "agbp_round2", "agdp"))
    # Each round starts from ImageNet and learns the maps of the one before; AGDP goes on from the
    # last, unfrozen from res3 on, on boxes of its energies.
    assert first.MODEL.WEIGHTS == second.MODEL.WEIGHTS == ""
    assert first.DATASETS.TRAIN == ("pretrain_out_maps",)
    assert second.DATASETS.TRAIN == ("pretrain_out_maps_round1",)
    assert agdp.DATASETS.TRAIN == ("pretrain_out_maps_round2_boxes",)
    assert str(out / "agbp_round2" / "model_final.pth") == agdp.MODEL.WEIGHTS
    assert agdp.MODEL.BACKBONE.FREEZE_AT == 2
    assert 0 < agdp.AGSSP.BOXES.MARGIN <= 0.4
    printed = capsys.readouterr().out
    assert "4 images of about 88 x 64 pixels" in printed
    assert "AGDP: 3 iterations of 2 images" in printed
    assert "stage 6 of 6: AGDP" in printed
    assert "1 images skipped: broken.png" in printed
    lines = printed.splitlines()[-5:]
    assert lines[4].strip().endswith(f"--from {out} finetune.yaml")
    assert lines[0].split("#")[0].strip() == "import detectron2_agssp"
    assert lines[1].strip() == f"--config-file {result.config_file}"
    assert lines[2].strip().startswith(f"MODEL.WEIGHTS {result.weights} ")
    assert "MODEL.FPN.OUT_CHANNELS" in lines[2]


def test_one_round_of_one_image_is_the_published_method(images, tmp_path, monkeypatch, capsys):
    for path in sorted(images.glob("*.png"))[1:]:
        path.unlink()
    out = tmp_path / "out"
    result = pretrain(images, out, rounds=1, detector="retinanet_lite0_fpn", options=OPTIONS)
    assert result.map_root == out / "maps"
    assert result.config_file == "agssp://finetune/retinanet_lite0_fpn.yaml"
    agdp = config_of(out / "agdp")
    assert agdp.MODEL.META_ARCHITECTURE == "RetinaNet"
    assert agdp.MODEL.BACKBONE.FREEZE_AT == 5
    assert agdp.AGSSP.BOXES.MARGIN == 0.1
    weights = torch.load(result.weights, weights_only=True)["model"]
    backbone = torch.load(result.backbone, weights_only=True)["model"]
    name = "conv_stem.weight"
    (loaded,) = (weights[key] for key in weights if key.endswith(name))
    (exported,) = (backbone[key] for key in backbone if key.endswith(name))
    assert torch.equal(loaded, exported)
    # Nothing is done again: neither a model nor a map is made.
    for where, called in (
        (module, "measure_cost"),
        (module, "train_on_maps"),
        (module, "make_maps"),
    ):
        monkeypatch.setattr(where, called, lambda *_, **__: pytest.fail("done again"))
    # Copied with new times, they are the same images.
    for path in images.iterdir():
        path.touch()
    capsys.readouterr()
    again = pretrain(images, out, rounds=1, detector="retinanet_lite0_fpn", options=OPTIONS)
    assert again == result
    assert capsys.readouterr().out.count(": done") == 3


def test_a_round_of_agdp_on_detections(images, tmp_path, monkeypatch, capsys):
    # Untrained enough to find little above Detectron2's threshold.
    rounds = [*OPTIONS, "AGSSP.BOXES.ROUNDS", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    result = pretrain(images, tmp_path / "out", rounds=1, options=rounds)
    out = tmp_path / "out"
    assert result.weights == out / "agdp" / "model_final.pth"
    assert result.backbone == out / "agbp" / "backbone_final.pth"
    first, second = config_of(out / "agdp_round1"), config_of(out / "agdp")
    assert first.DATASETS.TRAIN == ("pretrain_out_maps_boxes",)
    assert second.DATASETS.TRAIN == ("pretrain_out_maps_detected",)
    # It starts anew: from the same weights, not from those of the round before.
    assert first.MODEL.WEIGHTS == second.MODEL.WEIGHTS == str(out / "agbp" / "model_final.pth")
    printed = capsys.readouterr().out
    said = re.search(r"([\d,]+) boxes in [\d,]+ of 3 images", printed)
    assert f"boxes: the {said[1]} best detections of the round before" in printed
    detected = json.loads((out / "agdp" / "boxes.json").read_text())
    assert len(detected["annotations"]) == int(said[1])
    assert pretrain(images, out, rounds=1, options=rounds) == result
    assert capsys.readouterr().out.count(": done") == 4


def test_no_round_of_agdp(images, tmp_path):
    with pytest.raises(ValueError, match=r"AGSSP\.BOXES\.ROUNDS must be at least 1, got 0"):
        pretrain(images, tmp_path / "out", options=[*OPTIONS, "AGSSP.BOXES.ROUNDS", 0])


def test_images_in_archives(images, tmp_path, monkeypatch, capsys):
    for number, path in enumerate(sorted(images.iterdir())):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as archive:
            archive.add(path, f"line/{path.name}")
    monkeypatch.chdir(tmp_path)
    result = pretrain("shard-{0..2}.tar", "out", rounds=1, options=OPTIONS)
    assert result.weights.is_file()
    assert "3 images of about 88 x 64 pixels" in capsys.readouterr().out
    scorer = json.loads((tmp_path / "out/maps/scorer.json").read_text())
    assert scorer["image_root"] == f"tar://{tmp_path}/shard-{{0..2}}.tar"
    assert pretrain(f"{tmp_path}/shard-{{0..2}}.tar", "out", rounds=1, options=OPTIONS) == result
    assert capsys.readouterr().out.count(": done") == 3
    with pytest.raises(ValueError, match=r"images was .*2\}\.tar', is .*1\}\.tar"):
        pretrain("shard-{0..1}.tar", "out", rounds=1, options=OPTIONS)
    with pytest.raises(ValueError, match="Put quotes around archives"):
        pretrain("shard-0.tar", "shard-1.tar", options=OPTIONS)


class Killed(BaseException):
    """Not caught by anything that cleans up after errors."""


@pytest.mark.parametrize(
    "when", ["between stages", "in an iteration", "before the weights are done"]
)
def test_a_killed_run_goes_on(images, tmp_path, monkeypatch, when):
    out, iterations, maps = tmp_path / "out", [], []
    step, make_maps = AGSSPTrainer.run_step, stages.make_maps

    def noted_step(trainer):
        iterations.append((type(trainer.model).__name__, trainer.iter))
        if when == "in an iteration" and len(iterations) == 2:
            raise Killed
        step(trainer)

    def noted_maps(*arguments, **more):
        maps.append(arguments[2])
        make_maps(*arguments, **more)

    def killed_finish(*arguments, **more):
        raise Killed

    monkeypatch.setattr(AGSSPTrainer, "run_step", noted_step)
    monkeypatch.setattr(module, "make_maps", noted_maps)
    with monkeypatch.context() as patch:
        if when == "between stages":
            patch.setattr(module, "train_on_maps", killed_finish)
        if when == "before the weights are done":
            patch.setattr(runs, "_finish", killed_finish)
        with pytest.raises(Killed):
            pretrain(images, out, rounds=1, options=OPTIONS)
    result = pretrain(images, out, rounds=1, options=OPTIONS)
    assert result.weights.is_file()
    assert maps == [out / "maps"]
    again = [1] if when == "in an iteration" else []
    assert [number for name, number in iterations if name == "AnomalyDistiller"] == [
        0,
        1,
        *again,
        2,
    ]


def test_weights_that_were_cut_short_are_made_again(images, tmp_path):
    out = tmp_path / "out"
    result = pretrain(images, out, rounds=1, options=OPTIONS)
    whole = result.weights.read_bytes()
    result.weights.write_bytes(whole[: len(whole) // 2])
    pretrain(images, out, rounds=1, options=OPTIONS)
    assert set(torch.load(result.weights, weights_only=True)["model"]) == set(
        torch.load(shutil.copy(result.weights, out / "copy.pth"), weights_only=True)["model"]
    )
    assert result.weights.stat().st_size == len(whole)


def test_other_images_and_settings_are_noticed_and_named(images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(module._Run, "run", lambda run: None)
    pretrain(images, out, options=["SOLVER.BASE_LR", 0.1])
    with pytest.raises(
        ValueError, match=r"options\.all\.SOLVER\.BASE_LR was 0\.1, is 0\.2; rounds"
    ):
        pretrain(images, out, rounds=3, options=["SOLVER.BASE_LR", 0.2])
    Image.new("RGB", (64, 80)).save(images / "0.png")
    shutil.move(images / "1.png", images / "new.png")
    message = r"1 added \(new\.png\), 1 gone \(1\.png\), 1 changed \(0\.png\)\. Name another output"
    with pytest.raises(ValueError, match=message):
        pretrain(images, out, options=["SOLVER.BASE_LR", 0.1])
    (out / "images.json").write_text("{")
    with pytest.raises(ValueError, match=r"pretrain\.json or images\.json is damaged"):
        pretrain(images, out, options=["SOLVER.BASE_LR", 0.1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detector": "faster_rcnn_lite_fpn"}, "Did you mean faster_rcnn_lite0_fpn"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"options": ["SOLVER.MAX_ITER"]}, "'SOLVER.MAX_ITER' has no value"),
        (
            {"options": ["AGDP.SOLVER.MAXITER", 3]},
            r"'SOLVER.MAXITER'\. Did you mean SOLVER.MAX_ITER",
        ),
        ({"options": ["SOLVER.MAX_ITER", "many"]}, "SOLVER.MAX_ITER = 'many'"),
    ],
)
def test_wrong_arguments(images, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        pretrain(images, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("detector", detector_names())
def test_schedules_follow_the_images(detector):
    recipe = Recipe(detector, 2, Options())
    cost = Cost(seconds=0.001, num_bytes=1)
    for stage in ("AGBP", "AGDP"):
        few, _ = recipe.schedule(stage, 1, cost)
        many, _ = recipe.schedule(stage, 100_000, cost)
        assert few["SOLVER.MAX_ITER"] == MIN_ITERATIONS[stage]
        assert few["SOLVER.WARMUP_ITERS"] < few["SOLVER.MAX_ITER"] < many["SOLVER.MAX_ITER"]
        assert many["SOLVER.IMS_PER_BATCH"] == few["SOLVER.IMS_PER_BATCH"]
        assert all(0 < step < few["SOLVER.MAX_ITER"] for step in few["SOLVER.STEPS"])
    epochs = many["SOLVER.MAX_ITER"] * many["SOLVER.IMS_PER_BATCH"] / 100_000
    assert epochs == pytest.approx(8, rel=0.01)


def test_a_further_round_freezes_stem_and_res2_but_what_began_at_random():
    frozen = {
        name: Recipe(name, 2, Options()).own("AGDP")["MODEL.BACKBONE.FREEZE_AT"]
        for name in detector_names()
    }
    assert frozen.pop("yolo_cspdarknet_n") == 0
    assert set(frozen.values()) == {2}


def test_what_memory_and_time_do_not_allow_is_made_smaller_and_said():
    recipe = Recipe("faster_rcnn_R50_fpn", 1, Options.parse(["MODEL.DEVICE", "cpu"]))
    keys, text = recipe.schedule("AGDP", 1241, Cost(seconds=100.0, num_bytes=2**60))
    assert keys["SOLVER.IMS_PER_BATCH"] == 1
    assert keys["SOLVER.BASE_LR"] == pytest.approx(0.01 / 16)
    assert keys["SOLVER.MAX_ITER"] == MIN_ITERATIONS["AGDP"]
    assert "12,410 would take" in text
    assert "AGDP.SOLVER.MAX_ITER 12410 to have them" in text
    given = Options.parse(["AGDP.SOLVER.MAX_ITER", 7, "SOLVER.IMS_PER_BATCH", 4])
    keys, text = Recipe("faster_rcnn_R50_fpn", 1, given).schedule(
        "AGDP", 1241, Cost(seconds=100.0, num_bytes=2**60)
    )
    assert text == "7 iterations of 4 images"
    assert not {"SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH"} & set(keys)


def test_wrong_folders(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        pretrain(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no images.*\.png"):
        pretrain(tmp_path / "empty", tmp_path / "out")
    for inside in (images, images / "out"):
        with pytest.raises(ValueError, match=r"lies in the image folder.*outside"):
            pretrain(images, inside)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"something else \(notes\.txt\)"):
        pretrain(images, tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_read_at_all(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="image"):
        pretrain(tmp_path / "photos", tmp_path / "out", rounds=1, options=OPTIONS)


def test_two_runs_at_once(images, tmp_path, monkeypatch):
    def again(run):
        with pytest.raises(OSError, match="Another run is writing to"):
            pretrain(images, tmp_path / "out")

    monkeypatch.setattr(module._Run, "run", again)
    pretrain(images, tmp_path / "out")


def test_a_loss_that_is_no_number_says_what_to_try(images, tmp_path):
    rate = ["AGBP.SOLVER.BASE_LR", 1e30, "AGBP.SOLVER.MAX_ITER", 20]
    with pytest.raises(
        FloatingPointError, match=r"agbp became .* lower SOLVER\.BASE_LR \(it is 1e\+30"
    ):
        pretrain(images, tmp_path / "out", rounds=1, options=[*OPTIONS, *rate])


def test_weights_that_cannot_be_fetched_stop_before_the_maps(images, tmp_path, monkeypatch):
    def unreachable(*_):
        raise OSError("no network")

    monkeypatch.setattr(remote.PathManager, "get_local_path", unreachable)
    with pytest.raises(ConnectionError, match=r"R-50\.pkl cannot be reached"):
        pretrain(images, tmp_path / "out", detector="faster_rcnn_R50_fpn")
    assert not (tmp_path / "out" / "maps").exists()


def test_the_commands_that_it_ends_with_can_be_pasted(tmp_path):
    folder = tmp_path / "my out"
    weights = folder / "agdp" / "model_final.pth"
    pretrained = module.Pretrained(folder, folder, weights, "agssp://finetune/yolo_R50.yaml")
    words = shlex.split(module.usage(pretrained, Options()), comments=True)
    assert words[words.index("MODEL.WEIGHTS") + 1] == str(weights)
    assert words[words.index("--from") + 1 :] == [str(folder), "finetune.yaml"]
