"""What says that a run is finished is checked when it is read."""

import json

import pytest

from detectron2_agssp.engine.runs import (
    FINISHED,
    final_metrics,
    is_finished,
    read_metrics,
    run_config,
)


@pytest.fixture
def finished(tmp_path):
    (tmp_path / "model_final.pth").write_bytes(b"weights")
    (tmp_path / "backbone_final.pth").write_bytes(b"few")
    sizes = {"model_final.pth": 7, "backbone_final.pth": 3}
    (tmp_path / FINISHED).write_text(json.dumps({"iterations": 4, "bytes": sizes}))
    return tmp_path


def test_whole(finished):
    assert is_finished(finished)


@pytest.mark.parametrize("name", ["model_final.pth", "backbone_final.pth"])
def test_weights_that_are_cut_short_or_missing(finished, name):
    (finished / name).write_bytes(b"w")
    assert not is_finished(finished)
    (finished / name).unlink()
    assert not is_finished(finished)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"bytes": {}}', '{"bytes": 3}'])
def test_a_damaged_record(finished, content):
    (finished / FINISHED).write_text(content)
    assert not is_finished(finished)


def test_weights_alone_say_nothing(finished):
    (finished / FINISHED).unlink()
    assert not is_finished(finished)


def write_metrics(folder, *records):
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, records)) + '\n{"iterat')


def test_the_last_evaluation_counts_not_one_half_way(tmp_path):
    half_way = {"iteration": 2, "bbox/AP": 9.0, "bbox/AP50": 20.0}
    write_metrics(tmp_path, half_way, {"iteration": 4, "total_loss": 1.0})
    assert len(read_metrics(tmp_path)) == 2
    with pytest.raises(ValueError, match="no evaluation after iteration 4"):
        final_metrics(tmp_path, 4)
    last = {"iteration": 4, "bbox/AP": 7.0, "bbox/AP50": float("nan")}
    write_metrics(tmp_path, half_way, last)
    assert final_metrics(tmp_path, 4) == {"AP": 7.0, "AP50": 0.0}


def test_lines_that_no_run_wrote(tmp_path):
    lines = (
        b"\xff",
        b"[1]",
        b'{"bbox/AP": 1}',
        b'{"iteration": "4", "bbox/AP": 1, "bbox/AP50": 1}',
    )
    (tmp_path / "metrics.json").write_bytes(b"\n".join(lines) + b'\n{"iteration": 4, "bbox/AP": 1}')
    assert read_metrics(tmp_path) == [{"iteration": 4, "bbox/AP": 1}]
    with pytest.raises(ValueError, match="no evaluation after iteration 4"):
        final_metrics(tmp_path, 4)


def test_a_stage_s_config_runs_no_code(tmp_path):
    harm = f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path}/marker']\n"
    (tmp_path / "a.yaml").write_text(harm)
    with pytest.raises(ValueError, match=r"a\.yaml is not read: the tag !!python"):
        run_config(tmp_path / "a.yaml", tmp_path, {})
    assert not (tmp_path / "marker").exists()
