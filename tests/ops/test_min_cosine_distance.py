"""The nearest neighbour by cosine against plain loops, in every dtype and layout."""

import math
import sys

import pytest
import torch

from detectron2_agssp.ops import min_cosine_distance
from tests.ops.implementations import only_compiled, only_reference, random
from tests.ops.layouts import contiguous, cosine, strided, transposed

# "detectron2_agssp.ops.min_cosine_distance" as an attribute is the function.
MODULE = "detectron2_agssp.ops.min_cosine_distance"
pytestmark = pytest.mark.usefixtures("implementation")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def by_hand(queries, memory):
    """(..., D), (M, D) -> (...), by loops over Python floats."""
    rows = memory.double().tolist()
    nearest = [
        1 - max(cosine(query, row) for row in rows)
        for query in queries.double().reshape(-1, queries.shape[-1]).tolist()
    ]
    return torch.tensor(nearest).reshape(queries.shape[:-1])


def expanded(tensor):
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [contiguous, strided, transposed, expanded])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (2, 3, 4, 5), (1, 1)])
def test_against_loops(shape, layout, dtype):
    queries = layout(random(*shape, dtype=dtype))
    memory = layout(random(6, shape[-1], seed=1, dtype=dtype))
    before = queries.clone(), memory.clone()
    result = min_cosine_distance(queries, memory)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, by_hand(queries, memory), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((queries, memory), before, rtol=0, atol=0)


def test_queries_and_memory_of_different_types():
    queries, memory = random(4, 8, dtype=torch.float16), random(9, 8, seed=1, dtype=torch.float64)
    expected = by_hand(queries, memory)
    torch.testing.assert_close(min_cosine_distance(queries, memory), expected, rtol=0, atol=1e-5)


@only_reference
@pytest.mark.parametrize("tiles", [(1, 1), (3, 4), (5, 100), (100, 5), (13, 17)])
def test_tiles_change_nothing(monkeypatch, tiles):
    """Also where the last tile is a part, or one tile is all there is."""
    queries, memory = random(13, 6), random(17, 6, seed=1)
    shapes = []
    matmul = torch.Tensor.__matmul__

    def recorded(a, b):
        shapes.append((len(a), b.shape[1]))
        return matmul(a, b)

    expected = min_cosine_distance(queries, memory)
    set_tiles(monkeypatch, *tiles)
    monkeypatch.setattr(torch.Tensor, "__matmul__", recorded)
    torch.testing.assert_close(min_cosine_distance(queries, memory), expected)
    assert len(shapes) == math.ceil(13 / tiles[0]) * math.ceil(17 / tiles[1])
    assert max(a for a, _ in shapes) <= tiles[0]
    assert max(b for _, b in shapes) <= tiles[1]


def set_tiles(monkeypatch, queries, memory):
    monkeypatch.setattr(sys.modules[MODULE], "QUERY_TILE", queries)
    monkeypatch.setattr(sys.modules[MODULE], "MEMORY_TILE", memory)


def test_more_than_one_of_its_own_tiles():
    queries, memory = random(1500, 4), random(5000, 4, seed=1)
    a, b = (torch.nn.functional.normalize(x.double(), dim=1) for x in (queries, memory))
    expected = (1 - (a @ b.T).amax(dim=1)).float()
    torch.testing.assert_close(min_cosine_distance(queries, memory), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_no_queries(shape):
    result = min_cosine_distance(torch.zeros(shape), random(3, 5))
    assert result.shape == shape[:-1]
    assert result.dtype == torch.float32


def test_same_opposite_and_zero():
    memory = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    queries = torch.tensor([[1e-3, 0], [0, 1e3], [-1, -1], [-1, 0], [0, 0]])
    expected = torch.tensor([0, 0, 1 + math.sqrt(0.5), 1, 1])
    torch.testing.assert_close(min_cosine_distance(queries, memory), expected)
    torch.testing.assert_close(min_cosine_distance(-memory, memory[:1]), torch.tensor([2.0, 1.0]))
    # A zero in the memory is nearer than what points away.
    torch.testing.assert_close(
        min_cosine_distance(queries, torch.zeros(1, 2)), torch.ones(len(queries))
    )


def test_rounding_stays_in_range():
    rows = random(200, 16, dtype=torch.bfloat16)
    result = min_cosine_distance(rows, rows)
    assert result.min() >= 0
    assert result.max() <= 1e-6


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("channels", [3, 131])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_query_that_is_not_finite_spoils_itself_only(bad, channels, precision):
    queries, memory = random(5, channels), random(4, channels, seed=1)
    expected = min_cosine_distance(queries, memory, precision=precision)
    queries[2, 1] = bad
    result = min_cosine_distance(queries, memory, precision=precision)
    assert result[2].isnan()
    torch.testing.assert_close(result[[0, 1, 3, 4]], expected[[0, 1, 3, 4]], rtol=0, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("row", [0, 5])
def test_a_memory_that_is_not_finite_is_refused(monkeypatch, row, bad):
    set_tiles(monkeypatch, 2, 3)
    memory = random(6, 3)
    memory[row, 0] = bad
    with pytest.raises(ValueError, match=r"memory \(6, 3\).*not finite.*leave them out"):
        min_cosine_distance(random(5, 3), memory)


def test_no_gradients():
    queries = random(3, 4).requires_grad_()
    assert not min_cosine_distance(queries, random(2, 4)).requires_grad


@pytest.mark.parametrize(
    ("queries", "memory", "received"),
    [
        (random(2, 3), random(0, 3), r"\(0, 3\)"),
        (random(2, 0), random(4, 0), r"\(4, 0\)"),
        (random(2, 3), random(4, 5), r"\(2, 3\).*\(4, 5\)"),
        (random(2, 3), random(3), r"and \(3,\)"),
        (torch.tensor(1.0), random(4, 1), r"got \(\)"),
        (torch.ones(2, 3, dtype=torch.int64), random(4, 3), "torch.int64"),
        (random(2, 3), torch.ones(4, 3, dtype=torch.uint8), "torch.uint8"),
        (random(2, 3), random(4, 3).to("meta"), "on cpu and .* on meta"),
    ],
)
def test_bad_arguments(queries, memory, received):
    with pytest.raises(ValueError, match=rf"floating-point queries.*{received}"):
        min_cosine_distance(queries, memory)


def exactly(queries, memory):
    """(Q, D), (M, D) -> distance and index, in float64 at once."""
    a, b = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (queries, memory))
    cosines, index = (a @ b.T).max(dim=-1)
    return 1 - cosines, index


# Around the tiles of the compiled search: 16 lanes, 64 queries, 64 rows, blocks of 2048 rows.
@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("memory", [1, 15, 16, 17, 63, 65, 127, 129, 2048, 2049, 4500])
@pytest.mark.parametrize(("queries", "channels"), [(1, 3), (63, 128), (130, 131)])
def test_index_and_precision(queries, channels, memory, precision):
    queries, memory = random(queries, channels), random(memory, channels, seed=1)
    distance, index = min_cosine_distance(queries, memory, precision=precision, return_index=True)
    expected, _ = exactly(queries, memory)
    assert index.dtype == torch.int64
    # What was found is scored exactly, and is near the nearest.
    pairs = torch.cosine_similarity(queries.double(), memory[index].double())
    torch.testing.assert_close(distance, (1 - pairs).float(), rtol=0, atol=2e-6)
    bound = 2e-3 if precision == "high" else 2e-6
    torch.testing.assert_close(distance, expected.float(), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [152, 640])
def test_high_precision_is_within_two_thousandths(channels, dtype):
    """Crowded: all rows share a direction, so that many are nearly the nearest."""
    centre = 2 * random(1, channels)
    queries = (centre + random(300, channels, seed=1)).to(dtype)
    memory = (centre + random(3000, channels, seed=2)).to(dtype)
    expected, _ = exactly(queries, memory)
    result = min_cosine_distance(queries, memory, precision="high")
    assert (result - expected).abs().max() < 2e-3
    exact = min_cosine_distance(queries, memory, precision="highest")
    assert (exact - expected).abs().max() < 2e-6


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("places", [(3, 4), (3, 200), (100, 2100), (2047, 2048), (0, 4100)])
def test_the_lowest_of_equally_near_rows(places, precision):
    queries = random(2, 130)
    queries[1] = 0
    memory = -queries[:1].repeat(4200, 1)
    memory[list(places)] = queries[0]
    queries = queries.repeat(40, 1)
    _, index = min_cosine_distance(queries, memory, precision=precision, return_index=True)
    assert index.tolist() == [places[0], 0] * 40


def test_index_keeps_the_shape():
    queries, memory = random(2, 3, 4, 5), random(6, 5, seed=1)
    distance, index = min_cosine_distance(queries, memory, return_index=True)
    assert distance.shape == index.shape == (2, 3, 4)
    queries[1, 2, 3] = torch.nan
    distance, index = min_cosine_distance(queries, memory, return_index=True)
    assert distance[1, 2, 3].isnan()
    assert index[1, 2, 3] == 0


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_lengths_do_not_matter(precision):
    queries, memory = random(40, 129), random(50, 129, seed=1)
    expected = min_cosine_distance(queries, memory, precision=precision)
    for small, large in ((1e-10, 1e15), (1e15, 1e-10)):
        result = min_cosine_distance(queries * small, memory * large, precision=precision)
        torch.testing.assert_close(
            result, expected, rtol=0, atol=2e-3 if precision == "high" else 2e-6
        )


def test_unknown_precision():
    with pytest.raises(ValueError, match=r"Unknown precision 'medium'. Choices: highest, high"):
        min_cosine_distance(random(2, 3), random(4, 3), precision="medium")


@only_compiled
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_threads_change_nothing(threads, precision):
    queries, memory = random(300, 140), random(2500, 140, seed=1)
    results = [
        min_cosine_distance(queries, memory, precision=precision, return_index=True)
        for _ in threads((1, 2, 1, 2))
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_torch_compile():
    def search(queries, memory):
        return min_cosine_distance(queries, memory, return_index=True)

    queries, memory = random(4, 7, 5), random(9, 5, seed=1)
    compiled = torch.compile(search, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(queries, memory), search(queries, memory))
    memory[3, 2] = torch.nan
    assert compiled(queries, memory)[0].isnan().all()


@only_compiled
def test_opcheck():
    operator = torch.ops.detectron2_agssp.min_cosine_distance.default
    for high in (False, True):
        for queries in (random(3, 130), random(0, 130), random(130, 6).T.half()):
            torch.library.opcheck(operator, (queries, random(4, 130, seed=1), high))


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((3,), (4, 3)), ((2, 3), (0, 3))])
@only_compiled
def test_the_operator_itself_refuses(shapes):
    with pytest.raises(ValueError, match="min_cosine_distance: queries must be"):
        torch.ops.detectron2_agssp.min_cosine_distance(*(torch.ones(x) for x in shapes), False)


@pytest.mark.slow
@only_compiled
def test_more_than_2_to_the_31_elements():
    """4 GiB of memory, its last row the nearest."""
    memory = torch.ones((1, 1), dtype=torch.bfloat16).repeat(2**21 + 3, 1025)
    memory[-1, :512] = -1
    distance, index = min_cosine_distance(memory[-1:], memory, return_index=True)
    assert index.item() == len(memory) - 1
    assert distance.item() < 1e-6
