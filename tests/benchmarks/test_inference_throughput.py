"""python -m benchmarks.inference.throughput: both ways run on the same images."""

import pytest

from benchmarks.inference import throughput
from detectron2_agssp.io.images import list_images
from tests.inference.runs import write_run


@pytest.fixture
def in_this_process(monkeypatch):
    """Instead of processes that would import everything again."""

    class Pool:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, *args):
            self.result = lambda: function(*args)
            return self

    monkeypatch.setattr(throughput, "ProcessPoolExecutor", Pool)


def test_both_ways_are_timed(image_folder, tmp_path, in_this_process):
    run = write_run(tmp_path / "mine")
    paths = [str(image_folder / name) for name in list_images(image_folder)]
    name, stock, own, ratio, stock_cpu, own_cpu, cpu_ratio = throughput.compare(run, paths, 1)
    assert name == "mine"
    assert ratio == pytest.approx(own / stock)
    assert cpu_ratio == pytest.approx(stock_cpu / own_cpu)
    assert min(stock, own, stock_cpu, own_cpu) > 0


def test_the_shipped_detectors_are_what_is_measured_by_default(image_folder, monkeypatch, capsys):
    rows = []

    def compare(run, paths, rounds, precision):
        assert precision == "bf16"
        assert (run / "config.yaml").is_file()
        rows.append([run.name, 1.0, 2.0, 2.0, 30.0, 20.0, 1.5])
        return rows[-1]

    monkeypatch.setattr(throughput, "compare", compare)
    monkeypatch.setattr(throughput, "CONFIGS", ("yolo_cspdarknet_n",))
    argv = ["throughput", str(image_folder), "--num-images", "2", "--precision", "bf16"]
    monkeypatch.setattr("sys.argv", argv)
    throughput.main()
    assert "| yolo_cspdarknet_n |" in capsys.readouterr().out
