import pytest

from tests.inference.runs import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run whose detector has random weights."""
    return write_run(tmp_path_factory.mktemp("run"))
