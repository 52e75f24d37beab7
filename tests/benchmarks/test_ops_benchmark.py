"""The benchmark of the operators prints every case."""

import pytest
import torch

from benchmarks.ops.cases import _faiss
from benchmarks.ops.timing import Case, measure
from detectron2_agssp.ops import min_cosine_distance
from tests.child_process import run_script

FLOOR = {"copy": 1e9, torch.float32: 1e9}


def test_losing_cases_are_named(monkeypatch):
    times = {"ours": 0.002, "eager": 0.003, "peer": 0.001}
    case = Case(
        "an operator",
        {name: lambda name=name: name for name in times},
        exact=lambda: torch.tensor(2.0, dtype=torch.float64),
        result=lambda result: torch.tensor(2.5),
        moved=1e6,
    )
    monkeypatch.setattr("benchmarks.ops.timing.seconds", lambda way, device: times[way()])
    rows = measure(case, torch.device("cpu"), FLOOR, rounds=3)
    assert rows == [
        ["an operator; LOSES to peer", "ours", "2", "1.50", "50%", "", "5.0e-01"],
        ["", "eager", "3", "1.00", "", "", ""],
        ["", "peer", "1", "3.00", "", "", ""],
    ]


def test_faiss_finds_the_same():
    pytest.importorskip("faiss")
    queries, memory = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))
    products, index = _faiss(queries, memory)()
    expected = min_cosine_distance(queries, memory, return_index=True)
    torch.testing.assert_close(1 - torch.from_numpy(products[:, 0]), expected[0], rtol=0, atol=1e-5)
    assert index[:, 0].tolist() == expected[1].tolist()


@pytest.mark.slow
def test_the_tool(tmp_path):
    output = tmp_path / "table.md"
    # Compiling takes a minute or two of a core.
    words = ["--quick", "--rounds", 1, "--without", "torch.compile", "--output", output]
    result = run_script("benchmarks.ops", *words, output=tmp_path)
    assert result.code == 0, result.stderr
    table = output.read_text()
    for name in ("min_cosine_distance", "text_anomaly_score", "channel_energy"):
        assert name in table
    assert "eager" in table
    assert "torch.compile" not in table


def test_the_tool_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = run_script("benchmarks.ops", "--device", "cuda", output=tmp_path)
    assert result.code != 0
    assert "PyTorch sees no GPU" in result.stderr
