"""Benchmark files: the shipped ones, and what is refused."""

import pytest

from benchmarks.few_label.arms import REFERENCE
from benchmarks.few_label.settings import load_benchmark
from detectron2_agssp.engine.runs import run_config
from tests.tiny_models import CONFIGS, ROOT

FILES = sorted((ROOT / "benchmarks" / "few_label").glob("*.yaml"))
# The others are profiles, which these extend.
SHIPPED = [path for path in FILES if not path.stem.startswith(("cpu", "gpu", "converged"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load_and_their_stages_exist(path):
    benchmark = load_benchmark(path)
    for name, stage in benchmark.stages.items():
        cfg = run_config(CONFIGS / stage.config, "", stage.options)
        if name in ("agbp", "agdp", "finetune"):
            assert 0 < cfg.SOLVER.WARMUP_ITERS < cfg.SOLVER.MAX_ITER / 2
    for name in benchmark.variants:
        for stage, options in benchmark.arm(name).options.items():
            changed = {**benchmark.stages[stage].options, **options}
            run_config(CONFIGS / benchmark.stages[stage].config, "", changed)
        agbp = benchmark.stages["agbp"]
        changed = {**agbp.options, **benchmark.arm(name).energy_maps}
        run_config(CONFIGS / agbp.config, "", changed)
    finetune = benchmark.stages["finetune"]
    run_config(CONFIGS / finetune.config, "", {**finetune.options, **benchmark.random_options})
    assert REFERENCE in benchmark.arms


def test_there_are_shipped_files():
    assert {"neu_det_cpu", "magnetic_tile_cpu"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["imagenet", "simclr"]}, r"unknown arms \['simclr'\]; known are \['random'"),
        ({"variants": {"agssp": {"arm": "agdp"}}}, "variants.agssp must have a name of its own"),
        ({"variants": {"x": {"arm": "y"}}}, "variants.x must .* name an arm of .*, got 'y'"),
        ({"variants": {"x": {"arm": "agdp", "AGDP": {}}}}, r"variants.x has the unknown keys"),
        ({"variants": {"x": {"arm": "agbp", "rounds": 2}}}, "x.rounds must .* energy_maps, got 2"),
        ({"variants": {"x": {"arm": "agbp", "boxes": "labels"}}}, "x.boxes needs an arm with AGDP"),
        ({"variants": {"x": {"arm": "agdp", "boxes": "none"}}}, "x.boxes must be .*, got 'none'"),
        ({"arms": []}, "arms must be a list without repetitions"),
        ({"draws": [0, 0]}, r"draws must be a list without repetitions, got \[0, 0\]"),
        ({"fractions": [10, 120]}, r"fractions are percents in \(0, 100\], got \[10, 120\]"),
        ({"learning_rates": [0.0]}, r"learning rates are positive, got \[0.0\]"),
        ({"validations": 0}, "must be at least 1"),
        ({"fraction": [10]}, r"the file has the unknown keys \['fraction'\]"),
        ({"data": {"root": "sample", "folder": "x"}}, r"data has the unknown keys \['folder'\]"),
        ({"data": {}}, "root"),
        ({"stages": {"maps": {"config": "a"}}}, "has no key 'agbp'"),
    ],
)
def test_bad_values_are_refused_with_what_was_received(write_benchmark, changes, message):
    with pytest.raises(ValueError, match=message):
        write_benchmark(**changes)


def test_arms_of_the_command_line():
    path = SHIPPED[0]
    assert load_benchmark(path, ["agdp_mutual"]).arms == ("agdp_mutual",)
    assert load_benchmark(path, fractions=[5.0]).fractions == (5.0,)
    with pytest.raises(ValueError, match=r"unknown arms \['moco'\]"):
        load_benchmark(path, ["moco"])


def test_no_file_and_no_yaml(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no benchmark file"):
        load_benchmark(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="is not yaml"):
        load_benchmark(tmp_path / "bad.yaml")


def test_an_unknown_config_key_names_the_file_and_the_key(tmp_path):
    with pytest.raises(ValueError, match=r"agbp/lite0\.yaml with SOLVER\.RATE = 1"):
        run_config(CONFIGS / "agbp" / "lite0.yaml", tmp_path, {"SOLVER.RATE": 1})
