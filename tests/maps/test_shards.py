"""A run that is divided, by hand or among processes, ends where an undivided one does."""

import json
import shutil

import pytest
import torch.distributed
from detectron2.utils import comm

from detectron2_agssp.maps import MapStore, generate_anomaly_maps
from detectron2_agssp.maps.store import parse_shard
from tests.child_process import run_in_child, run_in_two


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def images(image_folder, tmp_path):
    """With two images that cannot be read, in different chunks."""
    shutil.copytree(image_folder, tmp_path / "images")
    for name in ("0.png", "z/y.png"):
        (tmp_path / "images" / name).write_bytes(b"broken")
    return tmp_path / "images"


@pytest.fixture
def undivided(tiny_cfg, images, tmp_path):
    generate_anomaly_maps(tiny_cfg, images, tmp_path / "undivided", progress=False)
    return files(tmp_path / "undivided")


@pytest.mark.parametrize(
    ("order", "left"),
    [([(0, 3), (1, 3), (2, 3)], 0), ([(1, 2), (0, 2)], 0), ([(2, 9), (0, 9)], 3)],
)
def test_shards_merge_to_the_same_bytes(tiny_cfg, images, undivided, tmp_path, order, left):
    """Also where shards are missing: the run that merges them makes what is left."""
    maps = tmp_path / "maps"
    for shard in order:
        generate_anomaly_maps(tiny_cfg, images, maps, shard=shard, progress=False)
        assert (maps / f"manifest.shard-{shard[0]}-of-{shard[1]}.jsonl").exists()
    assert not (maps / "manifest.jsonl").exists()
    summary = generate_anomaly_maps(tiny_cfg, images, maps, progress=False)
    assert files(maps) == undivided
    assert (summary.scored, summary.kept, summary.skipped) == (left, 6 - left, 2)


def test_a_shard_is_resumed(tiny_cfg, images, undivided, tmp_path):
    maps = tmp_path / "maps"
    generate_anomaly_maps(tiny_cfg, images, maps, shard=(0, 2), progress=False)
    manifest = maps / "manifest.shard-0-of-2.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    for index in (0, 1):
        generate_anomaly_maps(tiny_cfg, images, maps, shard=(index, 2), progress=False)
    assert len(list(map(json.loads, manifest.open()))) > 0
    generate_anomaly_maps(tiny_cfg, images, maps, progress=False)
    assert files(maps) == undivided


def run_rank(cfg, images, maps, url: str, rank: int) -> None:
    """One process of a run as detectron2.engine.launch starts it, on the CPU."""
    torch.distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    summary = generate_anomaly_maps(cfg, images, maps, progress=False)
    assert rank > 0 or (summary.scored, summary.skipped) == (6, 2)
    torch.distributed.destroy_process_group()


def test_two_processes(tiny_cfg, images, undivided, tmp_path):
    url = f"file://{tmp_path / 'meeting point'}"
    maps = tmp_path / "maps"
    codes = run_in_two(lambda rank: run_in_child(run_rank, tiny_cfg, images, maps, url, rank))
    assert codes == [0, 0]
    assert files(maps) == undivided


def test_shard_of_a_divided_run(tiny_cfg, images, tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"Either --shard or several processes"):
        generate_anomaly_maps(tiny_cfg, images, tmp_path / "maps", shard=(0, 2))


@pytest.mark.parametrize(("mine", "other"), [(None, None), (None, (0, 2)), ((0, 2), (0, 2))])
def test_two_runs_into_one_folder(tiny_cfg, images, tmp_path, mine, other):
    with (
        MapStore(tmp_path / "maps", other).lock(),
        pytest.raises(OSError, match=r"Another run is writing to .*maps.*--shard 0/N"),
    ):
        generate_anomaly_maps(tiny_cfg, images, tmp_path / "maps", shard=mine)


def test_different_shards_do_not_meet(tmp_path):
    with MapStore(tmp_path, (0, 2)).lock(), MapStore(tmp_path, (1, 2)).lock():
        pass


def test_parse_shard():
    assert parse_shard("") is None
    assert parse_shard("3/8") == (3, 8)
    for text in ("8/8", "1", "a/b", "-1/2", "0/0", "1/2/3"):
        with pytest.raises(ValueError, match=rf"i/n with 0 <= i < n.*{text!r}"):
            parse_shard(text)
