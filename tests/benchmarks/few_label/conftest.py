"""A benchmark of seconds on synthetic images."""

import pytest
import yaml

from benchmarks.few_label.settings import load_benchmark
from examples.quickstart.synthetic import generate_sample_dataset
from tests.benchmarks.few_label.tiny_benchmark import CONTENT


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory):
    """$DETECTRON2_DATASETS with a sample of 20 + 4 images. Not to be changed."""
    root = tmp_path_factory.mktemp("datasets")
    sizes = ((64, 96), (80, 64))
    generate_sample_dataset(root / "sample", num_train=20, num_test=4, sizes=sizes, progress=False)
    return root


@pytest.fixture
def write_benchmark(tmp_path, sample_root, monkeypatch):
    """A function that writes and loads the benchmark, with changes of its top-level keys."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(sample_root))

    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**CONTENT, **changes}))
        return load_benchmark(path)

    return write
