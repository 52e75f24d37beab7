"""The bounded sample of a stream, and the greedy k-centre, against plain ones."""

import itertools

import pytest
import torch

from detectron2_agssp.scoring.coreset import PROJECTED, VectorReservoir, greedy_k_center


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample(vectors, size, seed=0, batch=None):
    reservoir = VectorReservoir(size, seed)
    for part in vectors.split(batch or len(vectors)):
        reservoir.add(part)
        assert len(reservoir.vectors()) == min(size, reservoir.seen)
    assert reservoir.seen == len(vectors)
    return reservoir.vectors()


@pytest.mark.parametrize("batch", [1, 7, 15, 16, 17, 64, 200])
def test_sample_does_not_depend_on_batches(batch):
    vectors = torch.arange(200.0).view(100, 2).repeat(2, 1)
    expected = sample(vectors, 30, seed=3)
    assert expected.shape == (30, 2)
    torch.testing.assert_close(sample(vectors, 30, seed=3, batch=batch), expected, rtol=0, atol=0)
    assert not torch.equal(sample(vectors, 30, seed=4, batch=batch), expected)


def test_sample_keeps_the_order_and_takes_nothing_twice():
    kept = sample(torch.arange(500.0)[:, None], 100, batch=33)[:, 0]
    assert (kept.diff() > 0).all()


def test_short_streams_are_kept_whole():
    vectors = random(5, 3)
    torch.testing.assert_close(sample(vectors, 5, batch=2), vectors)
    torch.testing.assert_close(sample(vectors, 50, batch=2), vectors)


def test_sample_is_uniform():
    """Early, middle and late vectors are kept equally often."""
    counts = torch.zeros(40)
    vectors = torch.arange(40)[:, None]
    for seed in range(400):
        counts[sample(vectors, 10, seed=seed, batch=6)[:, 0]] += 1
    chi_square = ((counts - 100) ** 2 / 100).sum()
    # 39 degrees of freedom, and less than that without replacement: 72.1 at 0.1 %. And not too
    # even to be random.
    assert 10 < chi_square < 72.1


def test_nothing_offered():
    reservoir = VectorReservoir(3)
    assert reservoir.vectors() is None
    reservoir.add(torch.zeros(0, 2))
    reservoir.add(torch.ones(1, 2))
    reservoir.add(torch.zeros(0, 2))
    torch.testing.assert_close(reservoir.vectors(), torch.ones(1, 2))
    with pytest.raises(ValueError, match="positive size, got 0"):
        VectorReservoir(0)


def naive_k_center(vectors, first, count):
    chosen = [first]
    while len(chosen) < count:
        distances = torch.cdist(vectors.double(), vectors[chosen].double()).amin(dim=1)
        chosen.append(int(distances.argmax()))
    return chosen


def radius(vectors, chosen):
    return torch.cdist(vectors.double(), vectors[chosen].double()).amin(dim=1).max().item()


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (20, 2), (79, 3)])
def test_against_a_naive_one(count, seed):
    vectors = random(80, 6, seed=seed)
    chosen = greedy_k_center(vectors, count, seed=seed)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == naive_k_center(vectors, int(chosen[0]), count)


@pytest.mark.parametrize("seed", range(5))
def test_at_most_twice_the_best_radius(seed):
    vectors = random(10, 2, seed=seed)
    chosen = greedy_k_center(vectors, 3, seed=seed)
    best = min(radius(vectors, list(some)) for some in itertools.combinations(range(10), 3))
    assert best <= radius(vectors, chosen) <= 2 * best


def test_nothing_twice_among_equals():
    vectors = random(3, 4).repeat(10, 1)
    chosen = greedy_k_center(vectors, 20)
    assert len(set(chosen.tolist())) == 20
    assert radius(vectors, chosen[:3]) < 1e-6


@pytest.mark.parametrize("count", [7, 8, 100])
def test_all(count):
    assert greedy_k_center(random(7, 3), count).tolist() == list(range(7))


def test_of_many_numbers_by_projection():
    """Ten clusters in more dimensions than are kept: each gets a centre."""
    centers = 10 * random(10, 4 * PROJECTED)
    vectors = centers.repeat_interleave(20, dim=0) + 0.1 * random(200, 4 * PROJECTED, seed=1)
    chosen = greedy_k_center(vectors, 10)
    assert sorted((chosen // 20).tolist()) == list(range(10))
    assert greedy_k_center(vectors, 10).tolist() == chosen.tolist()


def test_seed_chooses_the_first():
    vectors = random(100, 3)
    assert len({int(greedy_k_center(vectors, 1, seed=seed)) for seed in range(10)}) > 5


@pytest.mark.parametrize("count", [0, -1])
def test_bad_count(count):
    with pytest.raises(ValueError, match=f"got count {count}"):
        greedy_k_center(random(5, 2), count)


def test_progress_shows_the_time_left(capsys):
    greedy_k_center(random(50, 2), 10, progress=True)
    assert "coreset: 100%" in capsys.readouterr().err
    greedy_k_center(random(50, 2), 10)
    assert capsys.readouterr().err == ""
