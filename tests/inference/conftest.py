import pytest

from tests.inference.lively import enliven
from tests.inference.runs import write_run
from tests.tiny_models import make_cfg, make_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run whose detector has random weights."""
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def detectors():
    """(config, settings) -> the config and a model, built once."""
    built = {}

    def get(config, settings):
        if config not in built:
            built[config] = make_cfg(config, settings), enliven(make_model(config, settings))
        return built[config]

    return get
