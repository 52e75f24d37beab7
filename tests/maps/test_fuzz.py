"""Map folders of random damage: refused by name, or read; never anything else."""

import random

import numpy as np
import pytest

from detectron2_agssp.maps import MapStore, load_map

NAMES = ("a.png", "b/c.png", "ü.jpg")
PIECES = (
    b"[",
    b"{",
    b"../",
    b"1e999",
    b"9" * 30,
    b'"',
    b"\\u0000",
    b"null",
    b"\n",
    b"\xef\xbb\xbf",
)


@pytest.fixture
def readers(tmp_path, write_maps):
    """File of a map folder -> what reads it."""
    store = MapStore(write_maps(tmp_path / "maps", dict.fromkeys(NAMES, np.eye(3, 5))))
    info = {"fingerprint": "f", "calibration": {"low": 0, "high": 1}}
    store.write_scorer(info, {"mean": np.eye(4), "count": np.array(3)})
    a_map = store.root / "maps/a.png.npy"
    return {
        store.manifest_path: lambda: (list(store.entries()), store.recorded()),
        store.scorer_path: store.read_scorer,
        store.state_path: store.read_scorer_state,
        a_map: lambda: load_map(a_map),
    }


def damaged(content: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place, length = rng.randrange(len(mutated) + 1), rng.choice((0, 0, 1, 30))
        new = rng.choice((b"", rng.randbytes(1), rng.randbytes(8), rng.choice(PIECES)))
        mutated[place : place + length] = new
    return bytes(mutated)


def reasons_of(readers, count: int) -> list[tuple[str, str]]:
    """Reads ``count`` damaged files; the names of those refused, and the errors' messages."""
    rng, reasons = random.Random(0), []
    whole = {path: path.read_bytes() for path in readers}
    for _ in range(count):
        path, read = rng.choice(list(readers.items()))
        path.write_bytes(damaged(whole[path], rng))
        try:
            read()
        except ValueError as error:
            reasons.append((path.name, str(error)))
        path.write_bytes(whole[path])
    return reasons


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_damage(readers, count):
    reasons = reasons_of(readers, count)
    assert len(reasons) > count / 2
    for name, reason in reasons:
        assert name in reason
        assert "allow_pickle" not in reason
