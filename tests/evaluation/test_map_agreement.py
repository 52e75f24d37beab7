"""How far two map folders agree, on maps whose figures are known."""

import dataclasses
import math

import numpy as np
import pytest
from detectron2.config import get_cfg
from scipy import stats

from detectron2_agssp.evaluation.map_agreement import agreement, format_agreements

NOTHING = np.zeros((4, 6))


@pytest.fixture
def cfg():
    """The threshold is 0.5."""
    cfg = get_cfg()
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "fixed"
    return cfg


@pytest.fixture
def make_folder(write_maps, tmp_path):
    """A function: maps by image -> folder."""
    return lambda name, maps, **kwargs: write_maps(tmp_path / name, maps, **kwargs)


def compare(cfg, *roots, **kwargs):
    return agreement(cfg, *roots, progress=False, **kwargs)


def test_agreement_of_known_maps(cfg, make_folder):
    ramp, rng = np.tile(np.linspace(0, 1, 6), (4, 1)), np.random.default_rng(1)
    noise = [rng.random((4, 6)), rng.random((4, 6))]
    a = {"1.png": ramp, "2.png": ramp, "3/4.png": noise[0], "3/5.png": 0 * ramp, "x.png": ramp}
    b = {"0.png": ramp, "1.png": ramp, "2.png": 1 - ramp, "3/4.png": noise[1], "3/5.png": ramp}
    scores_a = {"1.png": 1.0, "2.png": 2.0, "3/4.png": 3.0, "3/5.png": 4.0, "x.png": 9.0}
    scores_b = {"0.png": 9.0, "1.png": 10.0, "2.png": 30.0, "3/4.png": 20.0, "3/5.png": 40.0}
    roots = make_folder("a", a, scores=scores_a), make_folder("b", b, scores=scores_b)
    found = compare(cfg, *roots)
    counts = (found.images_a, found.images_b, found.images_common, found.images_judged)
    assert counts == (5, 5, 4, 4)
    assert found.constant == 1
    stored = [one.astype(np.float16).astype(float) for one in noise]
    of_noise = np.corrcoef(stored[0].ravel(), stored[1].ravel())[0, 1]
    assert found.map_correlation == pytest.approx((1 - 1 + of_noise) / 3, abs=1e-3)
    assert found.score_correlation == pytest.approx(stats.spearmanr(range(4), [0, 2, 1, 3])[0])
    above = [one > 0.5 for one in stored]
    iou_of_noise = (above[0] & above[1]).sum() / (above[0] | above[1]).sum()
    assert found.binary_iou == pytest.approx((1 + 0 + iou_of_noise + 0) / 4)
    swapped = dataclasses.asdict(compare(cfg, *roots[::-1]))
    for name in ("map_correlation", "score_correlation", "binary_iou", "constant"):
        assert swapped[name] == pytest.approx(getattr(found, name))


def test_each_folder_has_its_own_threshold(cfg, make_folder):
    """Maps that differ by a factor mark the same cells."""
    cfg.AGSSP.BOXES.THRESHOLD_MODE = "quantile"
    cfg.AGSSP.BOXES.QUANTILE = 0.8
    maps = {f"{i}.png": np.random.default_rng(i).random((8, 5)) for i in range(4)}
    weaker = {image: anomaly_map / 4 for image, anomaly_map in maps.items()}
    found = compare(cfg, make_folder("a", maps), make_folder("b", weaker))
    assert found.binary_iou == pytest.approx(1, abs=0.05)
    assert found.map_correlation == pytest.approx(1, abs=1e-3)
    assert found.score_correlation is None  # the scores are all equal


@pytest.mark.parametrize("grids", [((4, 6), (8, 12)), ((12, 6), (4, 18))])
def test_maps_on_different_grids(cfg, make_folder, grids):
    """Of the same slope, on the larger height and the larger width."""
    roots = []
    for number, (height, width) in enumerate(grids):
        y, x = np.mgrid[:height, :width]
        slope = (x + 0.5) / width * 0.5 + (y + 0.5) / height * 0.5
        roots.append(make_folder(f"maps{number}", {"1.png": slope}))
    found = compare(cfg, *roots)
    assert found.map_correlation > 0.98
    assert found.binary_iou > 0.85
    assert found.score_correlation is None  # of one image


def test_maps_that_mark_nothing_agree(cfg, make_folder):
    roots = [make_folder(name, {"1.png": NOTHING}) for name in "ab"]
    found = compare(cfg, *roots)
    assert (found.constant, found.map_correlation, found.binary_iou) == (1, None, 1)
    assert "-" in format_agreements([found])


def test_no_common_images(cfg, make_folder):
    roots = make_folder("a", {"1.png": NOTHING}), make_folder("b", {"1.jpg": NOTHING})
    with pytest.raises(ValueError, match=r"a \(1 images\) and .*b \(1\) have no image in common"):
        compare(cfg, *roots)


def test_the_order_of_the_manifests_does_not_matter(cfg, make_folder):
    a = make_folder("a", {"a/1.png": NOTHING, "a-b.png": NOTHING, "b.png": NOTHING})
    b = make_folder("b", {"a-b.png": NOTHING, "a/2.png": NOTHING, "a/1.png": NOTHING})
    assert compare(cfg, a, b).images_common == 2


def test_sample(cfg, make_folder):
    """Of the images that are common."""
    rng = np.random.default_rng(0)
    names = sorted(f"{number}.png" for number in range(40))
    scores = {name: float(name[:-4]) for name in names}
    first = make_folder("a", {name: rng.random((4, 6)) for name in names[:30]}, scores=scores)
    second = make_folder("b", {name: rng.random((4, 6)) for name in names[10:]}, scores=scores)
    found = compare(cfg, first, second, max_images=5)
    assert (found.images_common, found.images_judged) == (20, 5)
    assert found.score_correlation == pytest.approx(1)
    assert found == compare(cfg, first, second, max_images=5)
    assert found != compare(cfg, first, second, max_images=5, seed=1)
    assert compare(cfg, first, second, max_images=99) == compare(cfg, first, second)


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_score_that_is_no_number(cfg, make_folder, score):
    roots = [
        make_folder(name, {"1.png": NOTHING}, scores={"1.png": of_it})
        for name, of_it in (("a", 1.0), ("b", score))
    ]
    with pytest.raises(ValueError, match=r"b.manifest.*'1.png' has score (nan|inf|None).*again"):
        compare(cfg, *roots)


def test_map_with_nan(cfg, make_folder):
    roots = make_folder("a", {"1.png": NOTHING}), make_folder("b", {"1.png": NOTHING * np.nan})
    with pytest.raises(ValueError, match=r"b.maps.1\.png\.npy' has values from nan"):
        compare(cfg, *roots)


def test_no_images(cfg, make_folder, tmp_path):
    root = make_folder("a", {"1.png": NOTHING})
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"\(1 images\) and .* \(0\) have no image in common"):
        compare(cfg, root, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent has no manifest\.jsonl"):
        compare(cfg, root, tmp_path / "absent")


def test_bad_arguments(cfg, make_folder):
    root = make_folder("a", {"1.png": NOTHING})
    with pytest.raises(ValueError, match=r"max_images must be 0 .*got -1"):
        compare(cfg, root, root, max_images=-1)
