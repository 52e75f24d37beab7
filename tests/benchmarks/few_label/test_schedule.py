"""The whole benchmark at a tiny size: order, resuming, sharing, and settings that changed."""

import json
import re

import pytest
import yaml

from benchmarks.few_label import training
from benchmarks.few_label.results import read_candidates, report_text
from benchmarks.few_label.schedule import check_settings, run_benchmark
from benchmarks.few_label.tasks import CandidateTask, CellTask, tasks_of
from benchmarks.few_label.training import Workspace
from tests.benchmarks.few_label.tiny_benchmark import DATA
from tests.tiny_models import CONFIGS

pytestmark = pytest.mark.usefixtures("empty_catalogs")


def run(benchmark, root, **arguments) -> dict[str, dict]:
    run_benchmark(benchmark, CONFIGS, root / "out", root / "results", **arguments)
    return cells_in(root)


def cells_in(root) -> dict[str, dict]:
    paths = (root / "results" / "cells").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


def test_a_benchmark_from_images_to_cells_and_again(write_benchmark, tmp_path, monkeypatch, capsys):
    benchmark = write_benchmark()
    cells = run(benchmark, tmp_path)
    assert sorted(cells) == [
        f"{arm}_50pct_draw{draw}_seed1" for arm in ("agssp", "imagenet") for draw in (0, 1)
    ]
    for cell in cells.values():
        assert cell["iterations"] == 4
        assert not cell["diverged"]
        assert 0 <= cell["test"]["AP"] <= cell["test"]["AP50"] <= 100
        assert cell["curve"][-1][0] == 4
        assert cell["losses"][-1]["total_loss"] > 0
        tried = cell["validation_ap_by_learning_rate"]
        assert set(tried) == {"0.001", "0.002"}
        assert tried[f"{cell['learning_rate']:g}"] == max(tried.values())
    assert "/out" not in json.dumps(cells)
    assert "[11/11]" in capsys.readouterr().out
    # Nothing is trained again, and one more draw costs no new choice of rates.
    trained = []
    fine_tune = Workspace.fine_tune
    monkeypatch.setattr(
        Workspace, "fine_tune", lambda space, cfg: trained.append(cfg) or fine_tune(space, cfg)
    )
    assert run(benchmark, tmp_path) == cells
    assert trained == []
    more = run(write_benchmark(draws=[0, 1, 2]), tmp_path)
    assert len(trained) == 2
    assert len(more) == 6
    assert cells.items() <= more.items()


def test_a_killed_benchmark_goes_on_and_loses_nothing(write_benchmark, tmp_path, monkeypatch):
    """Killed between two iterations of fine-tuning: it resumes from the checkpoint."""
    benchmark = write_benchmark(arms=["imagenet"], draws=[0], learning_rates=[0.001])
    step = training.AGSSPTrainer.run_step
    steps = []

    def killed(trainer):
        steps.append(trainer.iter)
        if len(steps) == 3:
            raise KeyboardInterrupt
        step(trainer)

    monkeypatch.setattr(training.AGSSPTrainer, "run_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, tmp_path)
    assert cells_in(tmp_path) == {}
    cells = run(benchmark, tmp_path)
    assert steps == [0, 1, 2, 2, 3]
    assert len(cells) == 1


def test_killed_in_the_last_validation_the_half_way_ap_is_not_the_result(
    write_benchmark, tmp_path, monkeypatch
):
    benchmark = write_benchmark(arms=["imagenet"], draws=[0], learning_rates=[0.001])
    evaluated = []

    def evaluate(*_):
        evaluated.append(float(len(evaluated) + 1))
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return {"bbox": dict.fromkeys(("AP", "AP50", "AP75"), evaluated[-1])}

    monkeypatch.setattr(training.AGSSPTrainer, "test", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, tmp_path)
    assert cells_in(tmp_path) == {}
    (cell,) = run(benchmark, tmp_path).values()
    # Half-way 1, the last one 3; 4 on the test images.
    assert [(iteration, ap) for iteration, ap, _ in cell["curve"]] == [(1, 1.0), (4, 3.0)]
    assert cell["validation"]["AP"] == 3.0
    assert cell["test"]["AP"] == 4.0


def test_variants_may_be_chosen_without_testing(write_benchmark, tmp_path, monkeypatch):
    benchmark = write_benchmark(arms=["imagenet"])
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "test", lambda space, cfg: pytest.fail("tested"))
        assert run(benchmark, tmp_path, validate_only=True) == {}
    tried = read_candidates(tmp_path / "results")
    assert [(one["arm"], one["learning_rate"]) for one in tried] == [
        ("imagenet", 0.001),
        ("imagenet", 0.002),
    ]
    table = report_text(benchmark, [], tried)
    for one in tried:
        assert f"| {one['learning_rate']:g}  | {one['validation']['AP']:.1f}  |" in table
    # Later, the first draw is only tested, with the weights that are there.
    assert len(run(benchmark, tmp_path)) == 2


def test_two_processes_share_the_tasks(write_benchmark, tmp_path, capfd):
    benchmark = write_benchmark(draws=[0], learning_rates=[0.001])
    assert len(run(benchmark, tmp_path, jobs=2)) == 2
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("[")]
    names = [line.split("] ")[1].split(":")[0] for line in lines]
    assert sorted(names) == sorted(
        task.name for task in tasks_of(Workspace(benchmark, CONFIGS, tmp_path))
    )


def test_a_failing_process_is_told(write_benchmark, tmp_path):
    # The main process does not load the stage's config; the workers do.
    stages = {
        name: {"config": "finetune/none.yaml"} for name in ("maps", "agbp", "agdp", "finetune")
    }
    with pytest.raises(RuntimeError, match="2 of 2 processes failed"):
        run(write_benchmark(stages=stages, arms=["imagenet"]), tmp_path, jobs=2)


def test_results_of_other_settings_are_not_mixed(write_benchmark, tmp_path):
    check_settings(write_benchmark(), tmp_path)
    check_settings(write_benchmark(arms=["imagenet"], draws=[0, 1, 2], seeds=[1, 2]), tmp_path)
    changed = {"data": {**DATA, "validation_images": 7}, "learning_rates": [0.1]}
    message = r"of data\.validation_images, learning_rates; one table"
    with pytest.raises(ValueError, match=message):
        check_settings(write_benchmark(**changed), tmp_path)
    # Nor is what the results are made from.
    with pytest.raises(ValueError, match=message):
        run_benchmark(write_benchmark(**changed), CONFIGS, tmp_path, tmp_path / "new")


def test_what_others_need_comes_first_and_the_longer_arm_is_longer(write_benchmark, tmp_path):
    arms = ["imagenet", "imagenet_longer", "agssp", "agdp"]
    variants = {"agssp_longer": {"arm": "agssp", "longer": True}}
    space = Workspace(write_benchmark(arms=arms, variants=variants), CONFIGS, tmp_path)
    names = [task.name for task in tasks_of(space)]
    assert names[0] == "maps"
    assert names[1:4] == ["pretraining_agbp", "pretraining_agssp", "pretraining_agdp"]
    assert names[4].startswith("imagenet_50pct_lr")
    space.data.prepare(tmp_path, progress=False)
    plain = space.fine_tuning_config("imagenet", 50, 0, 1, 0.001)
    longer = space.fine_tuning_config("imagenet_longer", 50, 0, 1, 0.001)
    assert longer.SOLVER.MAX_ITER == plain.SOLVER.MAX_ITER + 5
    assert longer.OUTPUT_DIR != plain.OUTPUT_DIR
    too = space.fine_tuning_config("agssp_longer", 50, 0, 1, 0.001)
    assert too.SOLVER.MAX_ITER == longer.SOLVER.MAX_ITER
    assert space.pretraining_of("agssp_longer") == space.pretraining_of("agssp")
    agbp, agssp = space.pretraining_of("agssp").chain
    assert str(space.weights_of(agbp)) == space.pretraining_config(agssp).MODEL.WEIGHTS
    (agdp,) = space.pretraining_of("agdp").chain
    assert space.pretraining_config(agdp).MODEL.WEIGHTS == plain.MODEL.WEIGHTS


def test_rounds_of_agbp(write_benchmark, tmp_path):
    """The boxes are cut from maps that the AGBP backbone makes, whatever AGDP starts from, and the
    second round of AGBP learns those of the first."""
    energy = {
        "AGSSP.SCORER.NAME": "energy",
        "AGSSP.SCORER.FEATURES": "detectron2",
        "AGSSP.SCORER.IN_FEATURES": ["res4"],
        "AGSSP.SCORER.IMAGE_SIZE": 64,
    }
    variants = {
        "once": {"arm": "agssp", "energy_maps": energy},
        "agdp_twice": {"arm": "agdp", "energy_maps": energy, "rounds": 2},
        "twice": {"arm": "agssp", "energy_maps": energy, "rounds": 2},
    }
    arms = ["agbp", *variants]
    benchmark = write_benchmark(variants=variants, arms=arms, draws=[0], learning_rates=[0.001])
    space = Workspace(benchmark, CONFIGS, tmp_path / "out")
    agbp, once, agdp, twice = (space.pretraining_of(arm) for arm in arms)
    assert once.start == once.maps.start == agbp
    assert agdp.start is None
    assert agdp.maps == twice.maps
    second = twice.start
    assert second == twice.maps.start
    assert second.maps == once.maps
    assert second.start is None
    assert twice.chain == (agbp, second, twice)
    assert agdp.chain == (agbp, second, agdp)
    assert len({run.name for run in (agbp, second, once, agdp, twice)}) == 5
    assert len(run(benchmark, tmp_path)) == 4
    for maps, name in ((agbp.maps, "mahalanobis"), (once.maps, "energy"), (twice.maps, "energy")):
        scorer = json.loads((space.map_root(maps) / "scorer.json").read_text())
        assert scorer["scorer"] == name


def test_rounds_of_agdp(write_benchmark, tmp_path):
    """Each learns what the one before finds, from the same weights."""
    agdp = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
    variants = {
        "once": {"arm": "agssp", "agdp": agdp},
        "thrice": {"arm": "agssp", "agdp": agdp, "box_rounds": 3},
    }
    arms = [*variants]
    benchmark = write_benchmark(variants=variants, arms=arms, draws=[0], learning_rates=[0.001])
    space = Workspace(benchmark, CONFIGS, tmp_path / "out")
    once, third = (space.pretraining_of(arm) for arm in arms)
    second = third.before
    assert second.before == once
    assert once.start == second.start == third.start
    assert third.chain == (once.start, once, second, third)
    assert len({once.name, second.name, third.name}) == 3
    assert len(run(benchmark, tmp_path)) == 2
    boxes = [
        json.loads((space.weights_of(one).parent / "boxes.json").read_text())["annotations"]
        for one in (second, third)
    ]
    assert boxes[0] != boxes[1]


def test_variants_share_what_they_do_not_change(write_benchmark, tmp_path):
    variants = {
        "longer_agdp": {"arm": "agssp", "title": "AGDP x 2", "agdp": {"SOLVER.MAX_ITER": 9}},
        "other_maps": {"arm": "agdp", "maps": {"AGSSP.SCORER.CENTER": True}},
        "gentle": {"arm": "agssp", "finetune": {"SOLVER.WARMUP_ITERS": 2}},
        "slow_agbp": {"arm": "agbp", "agbp": {"SOLVER.BASE_LR": 0.001}},
        "slow_agssp": {"arm": "agssp", "agbp": {"SOLVER.BASE_LR": 0.001}},
    }
    benchmark = write_benchmark(variants=variants, arms=["agssp", *variants])
    space = Workspace(benchmark, CONFIGS, tmp_path)
    space.data.prepare(tmp_path, progress=False)
    tasks = [task.name for task in tasks_of(space) if "lr" not in task.name]
    assert [re.sub(r"-[0-9a-f]{8}$", "-x", name) for name in tasks if "pct" not in name] == [
        "maps",
        "maps-x",
        "pretraining_agbp",
        "pretraining_agssp",
        "pretraining_agssp-x",
        "pretraining_agdp-x",
        "pretraining_agbp-x",
        "pretraining_agssp-x",
    ]
    slow = space.pretraining_of("slow_agbp")
    assert slow == space.pretraining_of("slow_agssp").start
    assert slow.name != space.pretraining_of("agssp").start.name
    longer = space.pretraining_of("longer_agdp")
    assert space.pretraining_config(longer).SOLVER.MAX_ITER == 9
    assert longer.start == space.pretraining_of("agssp").start
    assert space.pretraining_of("gentle") == space.pretraining_of("agssp")
    gentle = space.fine_tuning_config("gentle", 50, 0, 1, 0.001)
    plain = space.fine_tuning_config("agssp", 50, 0, 1, 0.001)
    assert (gentle.SOLVER.WARMUP_ITERS, plain.SOLVER.WARMUP_ITERS) == (2, 1)
    assert gentle.MODEL.WEIGHTS == plain.MODEL.WEIGHTS
    assert benchmark.titles()["longer_agdp"] == "AGDP x 2"


def test_a_variant_may_be_added_and_renamed_but_not_changed(write_benchmark, tmp_path):
    one = {"long": {"arm": "agdp", "agdp": {"SOLVER.MAX_ITER": 9}}}
    check_settings(write_benchmark(), tmp_path)
    check_settings(write_benchmark(variants=one), tmp_path)
    check_settings(write_benchmark(variants={"long": {**one["long"], "title": "Long"}}), tmp_path)
    check_settings(write_benchmark(), tmp_path)
    other = {"long": {"arm": "agdp", "agdp": {"SOLVER.MAX_ITER": 8}}}
    with pytest.raises(ValueError, match=r"of variants\.long\.agdp\.SOLVER\.MAX_ITER; one table"):
        check_settings(write_benchmark(variants=other), tmp_path)


def test_the_rate_with_the_best_validation_is_taken(tmp_path, monkeypatch):
    candidates = tuple(CandidateTask("imagenet", 10, rate) for rate in (0.1, 0.2, 0.3))
    for candidate, ap in zip(candidates, (3.0, 7.0, 5.0), strict=True):
        path = candidate.path(tmp_path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"validation": {"AP": ap}}))
    cell = CellTask("imagenet", 10, 1, 1, candidates)
    space = FakeSpace()
    assert cell.ready(space, tmp_path)
    cell.run(space, tmp_path)
    written = json.loads(cell.path(tmp_path).read_text())
    assert space.rate == written["learning_rate"] == 0.2
    assert written["test"] == {"AP": 1.0, "AP50": 2.0}


class FakeSpace:
    """Notes the rate that is asked for, and trains nothing."""

    class benchmark:
        name = "fake"
        learning_rates = (0.1, 0.2, 0.3)

    class data:
        @staticmethod
        def num_images(split):
            return 3

    def pretraining_of(self, arm):
        return None

    def is_trained(self, run):
        return run is None

    def fine_tuning_config(self, arm, fraction, draw, seed, rate):
        self.rate = rate

    def fine_tune(self, cfg):
        return {"diverged": False}

    def test(self, cfg):
        return {"AP": 1.0, "AP50": 2.0}


def test_a_diverged_run_counts_as_nothing_found(write_benchmark, tmp_path, monkeypatch):
    def diverge(trainer):
        raise FloatingPointError("Loss became infinite or NaN")

    monkeypatch.setattr(training.AGSSPTrainer, "run_step", diverge)
    benchmark = write_benchmark(arms=["imagenet"], draws=[0], learning_rates=[0.001])
    (cell,) = run(benchmark, tmp_path).values()
    assert cell["diverged"]
    assert cell["test"]["AP"] == cell["validation"]["AP"] == 0


def test_one_rate_is_not_tried(write_benchmark, tmp_path):
    benchmark = write_benchmark(arms=["imagenet"], learning_rates=[0.002])
    cells = run(benchmark, tmp_path)
    assert read_candidates(tmp_path / "results") == []
    assert {cell["learning_rate"] for cell in cells.values()} == {0.002}


def test_a_teacher_goes_on_from_pretraining_with_its_maps(write_benchmark, tmp_path):
    variants = {
        "taught": {
            "arm": "agdp",
            "teacher": True,
            "agdp": {"AGSSP.BOXES.MARGIN": 0.4},
            "finetune": {"AGSSP.TEACHER.BURN_IN": 0.0, "AGSSP.TEACHER.GUIDANCE": 0.5},
        }
    }
    benchmark = write_benchmark(
        arms=["taught"], variants=variants, learning_rates=[0.001], draws=[0]
    )
    (cell,) = run(benchmark, tmp_path).values()
    assert any("loss_cls_unlabeled" in record for record in cell["losses"])
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    cfg = yaml.safe_load((folder / "config.yaml").read_text())
    assert cfg["MODEL"]["META_ARCHITECTURE"] == "TeacherStudent"
    assert cfg["AGSSP"]["TEACHER"]["UNLABELED"] == [f"few_label_{benchmark.name}_maps"]
    # The rule that AGDP's boxes were cut by.
    assert cfg["AGSSP"]["BOXES"]["MARGIN"] == 0.4
    assert "with anomaly maps" in (folder / "log.txt").read_text()
