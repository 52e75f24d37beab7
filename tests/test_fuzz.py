"""Files of random damage: read, or refused by name; never anything else."""

from pathlib import Path

import pytest

from tests.damaged_files import file_readers
from tests.damaged_images import image_readers
from tests.fuzz import read_damaged, read_in_children


def check(outcomes, count):
    unforeseen = [outcome for outcome in outcomes if not outcome.foreseen]
    assert not unforeseen
    assert len(outcomes) == count
    refused = [outcome for outcome in outcomes if outcome.error]
    assert 0.2 * count < len(refused) < 0.9 * count
    for outcome in refused:
        path = Path(outcome.path)
        assert path.name in outcome.message or str(path.parent) in outcome.message
        assert "allow_pickle" not in outcome.message


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("make", [image_readers, file_readers])
def test_some_damage(tmp_path, make):
    check(list(read_damaged(make(tmp_path), range(100))), 100)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "count"), [(image_readers, 20_000), (file_readers, 5_000)])
def test_damage(tmp_path, make, count):
    """In processes of limited memory, which may crash or hang without ending the test."""
    check(read_in_children(make, tmp_path, count), count)
