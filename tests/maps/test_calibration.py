"""From raw scores to [0, 1]."""

import numpy as np
import pytest

from detectron2_agssp.maps import Calibration
from detectron2_agssp.maps.calibration import border_excess, without_border


def test_quantiles_go_to_the_ends():
    raw = np.random.default_rng(0).normal(30, 4, (7, 9, 11))
    calibration = Calibration.from_samples(raw, 0.25, 0.95)
    low, high = np.quantile(raw, [0.25, 0.95])
    assert (calibration.low, calibration.high) == pytest.approx((low, high))
    np.testing.assert_allclose(
        calibration(np.array([[low, high, (low + high) / 2]])), [[0, 1, 0.5]]
    )
    assert (calibration(raw) == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert (calibration(raw) == 1).mean() == pytest.approx(0.05, abs=0.01)


def test_clipped_and_not():
    calibration = Calibration(low=10, high=20)
    values = calibration(np.array([0.0, 10, 15, 20, 99]))
    assert values.tolist() == [0, 0, 0.5, 1, 1]
    assert values.dtype == np.float32
    assert calibration.unclipped(99.0) == pytest.approx(8.9)


@pytest.mark.parametrize(
    ("raw", "quantiles", "message"),
    [
        (np.full((3, 4), 7.5), (0.5, 0.999), r"are 7\.5.*images are not blank"),
        (np.zeros(0), (0.5, 0.999), "no scores"),
        (np.array([1, 2, np.nan, np.inf]), (0.5, 0.999), r"50\.0% .*not finite"),
        (np.arange(9.0), (0.9, 0.1), "0.9 and 0.1"),
        (np.arange(9.0), (0.5, 1.5), r"LOW_QUANTILE < HIGH_QUANTILE <= 1"),
    ],
)
def test_refused(raw, quantiles, message):
    with pytest.raises(ValueError, match=message):
        Calibration.from_samples(raw, *quantiles)


def test_rounding_is_not_stretched(caplog):
    """Copies of normal images: distances of some 1e-7. Nothing is an anomaly, and a warning says
    so."""
    raw = np.random.default_rng(0).uniform(-4e-7, 4e-7, (5, 6))
    calibration = Calibration.from_samples(raw)
    assert calibration(raw).max() < 1e-5
    assert "differ by rounding alone" in caplog.text
    assert "blank or copies" in caplog.text


def test_differences_beyond_the_quantiles(caplog):
    """A few cells of many differ: they are what there is to see."""
    raw = np.full(10_000, 3.0)
    raw[:4] = 5
    calibration = Calibration.from_samples(raw)
    assert (calibration.low, calibration.high) == (3, 5)
    assert caplog.records


@pytest.mark.parametrize(("scale", "warns"), [(1e-3, False), (1, False), (1e-9, True)])
def test_noise_is_the_scorers_to_say(scale, warns, caplog):
    raw = scale * np.linspace(1, 2, 100)
    Calibration.from_samples(raw)
    assert bool(caplog.records) is warns
    caplog.clear()
    assert Calibration.from_samples(raw, noise=1e-12).high == pytest.approx(scale * 1.999, rel=1e-3)
    assert not caplog.records


def test_what_a_border_has_more_is_found_and_taken_off():
    rng = np.random.default_rng(0)
    maps = [rng.normal(5, 0.1, (400, 8, 12)), rng.normal(5, 0.1, (300, 10, 9))]
    # Two cells are a quarter of the smallest side.
    for batch in maps:
        batch[:, [0, -1]] += 3
        batch[:, :, [0, -1]] += 3
        batch[:, [0, 0, -1, -1], [0, -1, 0, -1]] -= 3
    border = border_excess(maps)
    assert border == pytest.approx((3, 0), abs=0.02)
    for batch in maps:
        mean = without_border(batch, border).mean(axis=0)
        np.testing.assert_allclose(mean, np.full(batch.shape[1:], 5), atol=0.05)
    # Those of one image too, and of a smaller one.
    assert without_border(maps[0][0], border).shape == (8, 12)
    assert without_border(np.zeros((1, 1), np.float32), border) == pytest.approx(-3, abs=0.02)


def test_a_border_against_a_loop():
    maps = np.random.default_rng(7).exponential(2, (5, 9, 13))
    rings = [[] for _ in range(3)]
    for image in maps:
        for y in range(9):
            for x in range(13):
                rings[min(y, x, 8 - y, 12 - x, 2)].append(image[y, x])
    means = [np.mean(ring) for ring in rings]
    # Others than the first are below the inside.
    assert means[1] < means[2] < means[0]
    assert border_excess([maps[:2], maps[2:]]) == pytest.approx((means[0] - means[2], 0))


def test_no_border_where_there_is_nothing_to_tell_it_from():
    assert border_excess([np.ones((2, 3, 40))]) == ()
    assert border_excess([np.full((2, 9, 9), np.nan)]) == ()
    raw = np.ones((4, 4))
    assert without_border(raw, ()) is raw


def test_calibrated_without_its_border():
    calibration = Calibration(low=10, high=20, border=(5.0,))
    raw = np.full((2, 3, 3), 15, np.float32)
    raw[:, 1, 1] = 20
    assert calibration(raw)[1].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
