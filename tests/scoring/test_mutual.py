"""Mutual scoring against plain loops, its reference bank, and the folders it makes."""

import shutil
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from detectron2_agssp.maps import MapStore, generate_anomaly_maps
from detectron2_agssp.scoring import MutualScorer, build_anomaly_scorer, mutual
from tests.scoring.tiny_features import CellFeatures, make_images, make_surfaces


def make_scorer(**settings):
    return MutualScorer(features=CellFeatures(), **settings)


def by_hand(levels, references, lowest, sides):
    """One image's levels [(C, h, w)] and its references' [[(C, h, w)]] -> (h, w) of the finest
    level, by loops over cells, references, levels and neighbourhoods in float64."""
    grid = levels[0].shape[-2:]
    total = torch.zeros(grid, dtype=torch.float64)
    for number, level in enumerate(levels):
        for side in sides:
            cells = neighbourhoods(level, side)
            others = [neighbourhoods(image[number], side) for image in references]
            scores = torch.zeros(level.shape[-2:], dtype=torch.float64)
            for (y, x), cell in cells.items():
                distances = sorted(
                    min(1 - float(cell @ other) for other in image.values()) for image in others
                )
                kept = distances[: max(1, round(lowest * len(distances)))]
                scores[y, x] = sum(kept) / len(kept)
            total += F.interpolate(scores[None, None], grid, mode="bilinear")[0, 0]
    return total / (len(levels) * len(sides))


def neighbourhoods(level, side):
    """(C, h, w) -> {(y, x): unit vector of the mean over the cells around that exist}."""
    unit = level.double() / level.double().norm(dim=0)
    reach, means = side // 2, {}
    for y in range(level.shape[1]):
        for x in range(level.shape[2]):
            rows = slice(max(0, y - reach), y + reach + 1)
            columns = slice(max(0, x - reach), x + reach + 1)
            mean = unit[:, rows, columns].mean(dim=(1, 2))
            means[y, x] = mean / mean.norm()
    return means


def levels_of(images):
    return list(zip(*CellFeatures().levels(images), strict=True))


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (5, {}),
        (5, {"lowest": 1.0, "neighbourhoods": (3,)}),
        (4, {"lowest": 1e-9, "neighbourhoods": (1, 5)}),
        (2, {}),
    ],
)
def test_against_loops(count, settings):
    images = make_images(count)
    result = make_scorer(**settings).fit(images)(images)
    lowest, sides = settings.get("lowest", 0.3), settings.get("neighbourhoods", (1, 3, 5))
    levels = levels_of(images)
    assert result.maps.shape == (count, 4, 6)
    assert result.maps.dtype == torch.float32
    for index in range(count):
        others = [image for other, image in enumerate(levels) if other != index]
        expected = by_hand(levels[index], others, lowest, sides).float()
        # The references are kept in float16.
        torch.testing.assert_close(result.maps[index], expected, rtol=0, atol=5e-4)
    torch.testing.assert_close(result.scores, result.maps.flatten(1).amax(dim=1))


def test_new_images_are_compared_with_all_references():
    images, new = make_images(4), make_images(1, seed=1)
    levels = levels_of(images)
    expected = by_hand(levels_of(new)[0], levels, 0.3, (1, 3, 5)).float()
    result = make_scorer().fit(images)(new)
    torch.testing.assert_close(result.maps[0], expected, rtol=0, atol=5e-4)


def test_references_and_images_of_other_sizes():
    """Aspect ratios may differ within a source."""
    wide, tall = make_images(2), make_images(2, 32, 8, seed=1)
    scorer = make_scorer(lowest=1.0).fit([wide, tall])
    others = [*levels_of(wide)[1:], *levels_of(tall)]
    expected = by_hand(levels_of(wide)[0], others, 1.0, (1, 3, 5)).float()
    torch.testing.assert_close(scorer(wide).maps[0], expected, rtol=0, atol=5e-4)
    assert scorer(tall).maps.shape == (2, 8, 2)
    assert scorer(make_images(1, 8, 16)).maps.shape == (1, 2, 4)


@pytest.mark.parametrize("limit", [1, 60, 100, 200])
def test_references_in_parts(monkeypatch, limit):
    """However few similarities are held at once; with equal and with unequal references."""
    queries = make_images(2, seed=5)
    for references in ([make_images(5)], [make_images(3), make_images(2, 32, 8, seed=1)]):
        scorer = make_scorer(lowest=0.6).fit(references)
        expected = scorer(queries).maps
        monkeypatch.setattr(mutual, "MAX_SIMILARITIES", limit * 24)
        torch.testing.assert_close(scorer(queries).maps, expected)
        monkeypatch.undo()


def test_an_odd_patch_stands_out():
    images = make_surfaces(6)
    images[2, :, 8:16, 16:32] = torch.tensor([10.0, 250.0, 10.0]).view(3, 1, 1)
    result = make_scorer().fit(images)(images)
    assert result.scores.argmax() == 2
    assert result.scores[2] > 5 * result.scores[[0, 1, 3, 4, 5]].max()
    peak = result.maps[2].flatten().argmax().item()
    assert 2 <= peak // 12 < 4
    assert 4 <= peak % 12 < 8


def test_neither_itself_nor_its_copies_count():
    images = make_images(3)
    expected = make_scorer(lowest=1.0).fit(images)(images).maps
    assert expected.min() > 0.001
    scorer = make_scorer(lowest=1.0).fit(images[[0, 1, 0, 2, 2]])
    assert len(scorer.sources) == 3
    torch.testing.assert_close(scorer(images).maps, expected)
    copies = scorer(images[[0, 0]]).maps
    torch.testing.assert_close(copies, expected[[0, 0]])
    # One that differs in one pixel is another image.
    images[0, 0, 0, 0] = (images[0, 0, 0, 0] + 1) % 256
    share = scorer(images).maps[0].mean() / expected[0].mean()
    assert share.item() == pytest.approx(2 / 3, rel=0.1)


def test_content_hashes():
    images = make_images(50)
    hashes = mutual.content_hashes(images)
    assert len(set(hashes.tolist())) == 50
    torch.testing.assert_close(mutual.content_hashes(images.double())[::7], hashes[::7])
    torch.testing.assert_close(mutual.content_hashes(images[3:5].mT.contiguous().mT), hashes[3:5])
    changed = images[:1].repeat(8, 1, 1, 1)
    for index, change in enumerate([1, -1, 2, 0.5, 1 / 256, 64, 128]):
        changed[index, 2, 3, 4] += change
    assert len(set(mutual.content_hashes(changed).tolist())) == 8
    assert mutual.content_hashes(images[:0]).shape == (0,)


def test_each_source_is_judged_by_its_own():
    a, b = make_surfaces(4), 255 - make_surfaces(3, seed=1)
    scorer = make_scorer().fit({"a": [a[:3], a[3:]], "b": iter([b])})
    torch.testing.assert_close(scorer(a, "a"), make_scorer().fit(a)(a))
    torch.testing.assert_close(scorer(b, "b"), make_scorer().fit(b)(b))
    # A "b" among those of "a" is odd.
    assert scorer(b, "a").scores.min() > 2 * scorer(b, "b").scores.max()
    # Images of an unknown source are compared with all.
    everything = make_scorer().fit([a, b])
    torch.testing.assert_close(scorer(b, "c"), everything(b))
    torch.testing.assert_close(scorer(a, "a"), make_scorer().fit(a)(a))


def test_bank_is_bounded_and_seeded():
    images = make_images(20)
    contents = {}
    for seed in (0, 1):
        scorers = [
            make_scorer(references=4, seed=seed).fit(batches)
            for batches in (
                images,
                images.flip(0),
                images.split(3),
                images[torch.randperm(20)].split(7),
                images.repeat(2, 1, 1, 1),
            )
        ]
        for scorer in scorers:
            assert scorer.bank0.shape == (4 * 24, 5)
            assert scorer.bank1.shape == (4 * 6, 3)
            torch.testing.assert_close(scorer.learned_state(), scorers[0].learned_state())
        contents[seed] = set(scorers[0].contents.tolist())
    assert contents[0] != contents[1]
    assert contents[0] < set(mutual.content_hashes(images).tolist())


def test_sample_is_uniform():
    """Every image is kept about equally often."""
    images = make_images(10, 8, 8)
    hashes = mutual.content_hashes(images).tolist()
    counts = dict.fromkeys(hashes, 0)
    for seed in range(300):
        for content in make_scorer(references=3, seed=seed).fit(images).contents.tolist():
            counts[content] += 1
    chi_square = sum((count - 90) ** 2 / 90 for count in counts.values())
    # 9 degrees of freedom, and less than that without replacement: 27.9 at 0.1 %.
    assert chi_square < 27.9


def test_fitting_keeps_no_batch(monkeypatch):
    """Neither the images nor their batch's features."""
    seen = []
    levels = CellFeatures.levels

    def recorded(self, images):
        result = levels(self, images)
        seen.extend(weakref.ref(level.untyped_storage()) for level in result)
        return result

    monkeypatch.setattr(CellFeatures, "levels", recorded)
    scorer = make_scorer(references=2).fit(make_images(8).split(4))
    assert not any(reference() is not None for reference in seen)
    assert scorer.bank0.untyped_storage().nbytes() == 2 * 24 * 5 * 2


def test_batches_change_nothing():
    scorer = make_scorer().fit(make_images(5))
    images = make_images(4, seed=1)
    together = scorer(images)
    for index in range(4):
        alone = scorer(images[index : index + 1])
        torch.testing.assert_close(alone.maps[0], together.maps[index])
    images[2] = torch.nan
    maps = scorer(images).maps
    assert maps[2].isnan().all()
    torch.testing.assert_close(maps[[0, 1, 3]], together.maps[[0, 1, 3]])


def test_none():
    empty = make_scorer().fit(make_images(2))(make_images(0))
    assert empty.maps.shape == (0, 4, 6)
    assert empty.scores.shape == (0,)


def test_fitting_again_forgets():
    first, second = make_images(3), make_images(4, seed=1)
    again = make_scorer().fit({"a": [first]})
    again(first, "a")
    again.fit({"a": [second]})
    torch.testing.assert_close(again(second, "a"), make_scorer().fit(second)(second))


def test_learned_state_is_all_there_is_to_keep():
    a, b = make_images(3), make_images(3, 8, 32, seed=1)
    scorer = make_scorer().fit({"a": [a], "b": [b]})
    other = make_scorer().fit(make_images(2, seed=7))
    other(a, "a")
    other.load_learned_state(scorer.learned_state())
    for images, source in ((a, "a"), (b, "b"), (a, "c")):
        torch.testing.assert_close(other(images, source), scorer(images, source), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"expected \['bank0', 'bank1', 'contents', 'grids0'"):
        other.load_learned_state({"mean": a})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (make_images(1), r"source '' has one image only.*two or more.*mahalanobis or memory"),
        (make_images(1).repeat(3, 1, 1, 1), "copies of one"),
        ({"a": [], "b": [make_images(1)]}, "source 'b' has one image only"),
        (make_images(0), "no images to fit on"),
        ([], "no images to fit on"),
        ({}, "no images to fit on"),
        ({"a": []}, "no images to fit on"),
        (make_images(2) * torch.nan, "not finite: check the network's weights.*PRECISION"),
        (make_images(2)[:, :1], r"got shape \(2, 1, 16, 24\)"),
    ],
)
def test_unfit_images(images, message):
    scorer = make_scorer()
    with pytest.raises(ValueError, match=message):
        scorer.fit(images)
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(images\)"):
        scorer(make_images(1))


def test_a_source_without_images_is_left_out():
    images = make_images(3)
    scorer = make_scorer().fit({"empty": [], "a": [images]})
    torch.testing.assert_close(scorer(images, "a"), make_scorer().fit(images)(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"references": 1}, "REFERENCES of 2 or more.*got 1 and 0.3"),
        ({"lowest": 0.0}, "got 32 and 0.0"),
        ({"lowest": 1.1}, "got 32 and 1.1"),
        ({"neighbourhoods": ()}, r"odd and positive, got \(\)"),
        ({"neighbourhoods": (1, 2)}, r"odd and positive, got \(1, 2\)"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_scorer(**settings)


@pytest.fixture
def mutual_cfg(tiny_cfg):
    scorer = tiny_cfg.AGSSP.SCORER
    scorer.NAME, scorer.MODEL, scorer.STRIDES = "mutual", "resnet10t", (8, 16)
    scorer.MUTUAL.REFERENCES = 3
    return tiny_cfg


@pytest.fixture
def two_sources(tmp_path, surface):
    """Five and four images, not square, of two sources."""
    for source, count in (("a", 5), ("b b", 4)):
        (tmp_path / "images" / source).mkdir(parents=True)
        for index in range(count):
            image = surface(40, 72, 10 * count + index)
            Image.fromarray(image).save(tmp_path / "images" / source / f"{index}.png")
    return tmp_path / "images"


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("resize", ["square", "aspect", "tile"])
def test_a_folder_of_two_sources(mutual_cfg, two_sources, tmp_path, resize):
    mutual_cfg.AGSSP.SCORER.RESIZE = resize
    maps = tmp_path / "maps"

    def generate():
        return generate_anomaly_maps(mutual_cfg, two_sources, maps, progress=False)

    assert generate().scored == 9
    made = files(maps)
    learned = MapStore(maps).read_scorer_state()
    assert len(learned["sources"]) == 2 * 3
    assert len(set(learned["sources"].tolist())) == 2
    assert generate().kept == 9
    assert files(maps) == made
    # The others of its batch, and one of the other source.
    for name in ("a/0.png", "b b/3.png"):
        (maps / f"maps/{name}.npy").unlink()
    assert generate().scored == 2
    assert files(maps) == made
    for name in ("scorer.json", "scorer.npz", "manifest.jsonl"):
        (maps / name).unlink()
    shutil.rmtree(maps / "maps")
    generate()
    assert files(maps) == made


def test_maps_are_what_the_scorer_says(mutual_cfg, two_sources, tmp_path):
    """Of each image by the references of its own source, though batches mix the sources."""
    mutual_cfg.AGSSP.SCORER.BATCH_SIZE = 4
    # The border of both is not that of one.
    mutual_cfg.AGSSP.CALIBRATION.BORDER = False
    generate_anomaly_maps(mutual_cfg, two_sources, tmp_path / "maps", progress=False)
    for source, other in (("a", "b b"), ("b b", "a")):
        alone = tmp_path / f"alone {source}"
        shutil.copytree(two_sources, alone)
        shutil.rmtree(alone / other)
        generate_anomaly_maps(mutual_cfg, alone, tmp_path / f"maps {source}", progress=False)
        together, apart = MapStore(tmp_path / "maps"), MapStore(tmp_path / f"maps {source}")
        x, y = (
            np.concatenate(
                [
                    np.load(store.root / "maps" / f"{source}/{index}.png.npy").ravel()
                    for index in range(4)
                ]
            ).astype(np.float64)
            for store in (together, apart)
        )
        # Calibrated together or apart: linear in one another where neither is clipped.
        inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
        assert inside.sum() > 20
        assert np.corrcoef(x[inside], y[inside])[0, 1] > 0.9999


def test_one_image_in_a_folder(mutual_cfg, surface, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(surface(40, 72)).save(tmp_path / "images/only.png")
    with pytest.raises(ValueError, match=r"source 'images' has one image only.*mahalanobis"):
        generate_anomaly_maps(mutual_cfg, tmp_path / "images", tmp_path / "maps", progress=False)


def test_unreadable_images(mutual_cfg, two_sources, tmp_path):
    """A source of which none can be read stops nothing; a folder of which none can, says why."""
    (two_sources / "c").mkdir()
    (two_sources / "c/broken.png").write_bytes(b"broken")
    summary = generate_anomaly_maps(mutual_cfg, two_sources, tmp_path / "maps", progress=False)
    assert (summary.scored, summary.skipped) == (9, 1)
    for path in two_sources.glob("*/?.png"):
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"None of the images could be read.*a/\d.png"):
        generate_anomaly_maps(mutual_cfg, two_sources, tmp_path / "other", progress=False)


def test_by_the_registry(mutual_cfg):
    mutual_cfg.AGSSP.SCORER.MUTUAL.NEIGHBOURHOODS = (1,)
    scorer = build_anomaly_scorer(mutual_cfg)
    assert isinstance(scorer, MutualScorer)
    assert (scorer.images_per_source, scorer.lowest, scorer.neighbourhoods) == (3, 0.3, (1,))
    assert (scorer.image_size, scorer.stride, scorer.size_divisor) == (64, 8, 16)
    images = make_surfaces(3, 64, 64)
    assert scorer.fit(images)(images).maps.shape == (3, 8, 8)


def test_a_lone_image_of_a_source_is_compared_with_all_references():
    """One stray image must not stop a run over many sources."""
    scorer = make_scorer()
    scorer.fit({"a": [make_images(2)], "b": [make_images(1, seed=7)]})
    assert len(scorer.sources) == 2
    lone = make_images(1, seed=7)
    torch.testing.assert_close(scorer(lone, "b").maps, scorer(lone, "never seen").maps)
