"""Which images a scorer is fitted on."""

import shutil

import pytest

from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps.fit import fit_scorer
from detectron2_agssp.maps.generate import image_loader
from detectron2_agssp.maps.normal import normal_images
from detectron2_agssp.scoring import AnomalyScorer, build_anomaly_scorer

LINE = ["line 1/Kratzer ü 划痕.jpg", "line 1/a.png"]


@pytest.fixture
def chosen(tiny_cfg, image_folder):
    def choose(*entries, sample=0, seed=0, root=image_folder):
        scorer = tiny_cfg.AGSSP.SCORER
        scorer.NAME = "memory"
        scorer.NORMAL_IMAGES, scorer.NORMAL_SAMPLE, scorer.SEED = entries, sample, seed
        return normal_images(tiny_cfg, str(root))

    return choose


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["a.png"], ["a.png"]),
        (["z/c.JPG", "a.bmp"], ["z/c.JPG", "a.bmp"]),
        (["line 1"], LINE),
        (["line 1/"], LINE),
        (["./line 1", "z/../a.png"], [*LINE, "a.png"]),
        (["line 1/*.jpg"], LINE[:1]),
        (["*/a.png"], LINE[1:]),
        (["*.png"], ["a.png", "line 1/a.png"]),
        (["a.*"], ["a.bmp", "a.png"]),
        (["./z/*"], ["z/b.tif", "z/c.JPG"]),
        (["*划痕*"], LINE[:1]),
    ],
)
def test_entries_below_the_image_folder(chosen, entries, expected):
    assert chosen(*entries) == expected


def test_everything(chosen, image_folder):
    everything = list(list_images(image_folder))
    assert chosen(".") == chosen("*") == chosen(sample=100) == everything
    assert chosen("*", sample=100) == everything


def test_each_image_once(chosen, image_folder):
    """However it is named."""
    named = ["line 1/a.png", "./line 1/a.png", f"{image_folder}/line 1/a.png"]
    assert chosen(*named, "*/a.png", f"{image_folder}/*/a.png") == ["line 1/a.png"]
    assert chosen(*named, "line 1") == [LINE[1], LINE[0]]


def test_absolute_entries(chosen, image_folder, tmp_path):
    other = tmp_path / "good [1]"
    shutil.copytree(image_folder / "z", other / "deep")
    shutil.copy(image_folder / "a.png", other / "a.png")
    everything = [f"{other}/a.png", f"{other}/deep/b.tif", f"{other}/deep/c.JPG"]
    assert chosen(str(other)) == everything
    assert chosen(f"{other}/*") == everything
    assert chosen(f"{other}/*.png") == everything[:1]
    assert chosen(f"{other}/d*/b*") == everything[1:2]
    assert chosen(f"{other}/a.png", "a.png") == [everything[0], "a.png"]
    # From the other folder's side: brackets in a pattern are the names' own.
    assert chosen("good [1]/*.png", root=tmp_path) == ["good [1]/a.png"]


def test_lists(chosen, image_folder, tmp_path, monkeypatch):
    """Below the image folder, absolute, or in the working folder."""
    root = tmp_path / "images"
    shutil.copytree(image_folder, root)
    (root / "normal.txt").write_text("\ufeffa.png\n\n  line 1  \nz/*.tif\n", encoding="utf-8")
    expected = ["a.png", *LINE, "z/b.tif"]
    assert chosen("normal.txt", root=root) == expected
    assert chosen(str(root / "normal.txt"), root=image_folder) == expected
    monkeypatch.chdir(root)
    assert chosen("normal.txt", "a.bmp", root=image_folder) == [*expected, "a.bmp"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"names 'normal.txt', which exists neither in .*working"):
        chosen("normal.txt", root=image_folder)


def test_samples(chosen, image_folder):
    everything = list(list_images(image_folder))
    samples = {tuple(chosen(sample=2, seed=seed)) for seed in range(8)}
    assert len(samples) > 3
    assert all(len(sample) == 2 and set(sample) < set(everything) for sample in samples)
    assert chosen(sample=2, seed=3) == chosen(sample=2, seed=3)
    both = chosen("z", sample=3)
    assert both[:2] == ["z/b.tif", "z/c.JPG"]
    assert set(both) == {"z/b.tif", "z/c.JPG", *chosen(sample=3)}
    assert len(both) == len(set(both))


@pytest.mark.parametrize("entry", ["missing.png", "line 2", "line 1/*.gif", "nowhere/*", "/no/*"])
def test_an_entry_that_matches_nothing(chosen, entry):
    with pytest.raises(ValueError, match=r"has '.*', which matches no image in .*images") as error:
        chosen("a.png", entry)
    assert repr(entry) in str(error.value)


def test_an_empty_folder(chosen, tmp_path):
    (tmp_path / "good").mkdir()
    with pytest.raises(ValueError, match="'good', which matches no image"):
        chosen("good", root=tmp_path)


@pytest.mark.parametrize("sample", [0, -1])
def test_neither_key(chosen, tmp_path, sample):
    message = (
        rf"'memory' needs a few normal images.*NORMAL_IMAGES is \(\) and NORMAL_SAMPLE {sample}"
        ".*mahalanobis or mutual"
    )
    with pytest.raises(ValueError, match=message):
        chosen(sample=sample)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"NORMAL_IMAGES is \('empty.txt',\) and NORMAL_SAMPLE"):
        chosen("empty.txt", sample=sample, root=tmp_path)


@pytest.fixture
def fit(tiny_cfg, image_folder, tmp_path):
    """A function that fits a scorer on a copy of the images, of which ``broken`` are."""
    tiny_cfg.AGSSP.SCORER.MODEL, tiny_cfg.AGSSP.SCORER.STRIDES = "resnet10t", (16,)
    root = tmp_path / "images"
    shutil.copytree(image_folder, root)

    def run(name, *broken, **settings):
        for image in broken:
            (root / image).write_bytes(b"broken")
        for key, value in {"NAME": name, **settings}.items():
            tiny_cfg.AGSSP.SCORER[key] = value
        scorer = build_anomaly_scorer(tiny_cfg)
        seen = []

        def record(batches):
            for batch in batches:
                seen.append(len(batch))
                yield batch

        original = scorer.fit
        scorer.fit = lambda images: original(
            {source: record(batches) for source, batches in images.items()}
            if isinstance(images, dict)
            else record(images)
        )
        loader = image_loader(tiny_cfg, scorer, str(root))
        return fit_scorer(tiny_cfg, scorer, loader, 6, progress=False), sum(seen), scorer

    return run


def test_unreadable_normal_images_are_left_out(fit):
    calibration, seen, scorer = fit("memory", "line 1/a.png", NORMAL_IMAGES=("line 1", "a.bmp"))
    assert seen == 2
    assert len(scorer.memory) == 2 * 16
    assert calibration.high > calibration.low


@pytest.mark.parametrize("settings", [{"NORMAL_IMAGES": ("line 1",)}, {"NORMAL_SAMPLE": 99}])
def test_no_readable_normal_image(fit, settings):
    broken = ["a.bmp", "a.png", *LINE, "z/b.tif", "z/c.JPG"]
    with pytest.raises(ValueError, match=r"None of the images could be read\. The first: .*'line"):
        fit("memory", *(broken if "NORMAL_SAMPLE" in settings else LINE), **settings)


@pytest.mark.parametrize(("images", "expected"), [(0, 6), (4, 4), (6, 6), (99, 6)])
def test_sample_of_unlabelled_images(fit, images, expected):
    assert fit("mahalanobis", FIT_IMAGES=images)[1] == expected


def test_by_source(fit):
    """At most as many of each source as the scorer keeps."""
    scorer = fit("mutual")[2]
    assert len(scorer.sources) == 6
    assert len(scorer.sources.unique()) == 3


@pytest.mark.parametrize("name", ["mahalanobis", "mutual"])
def test_nothing_readable(fit, name):
    with pytest.raises(ValueError, match=r"None of the images could be read\. The first: .*a\.bmp"):
        fit(name, "a.bmp", "a.png", *LINE, "z/b.tif", "z/c.JPG")


def test_one_image_of_a_source_left(fit):
    """It is compared with the other sources' references; the run goes on."""
    scorer = fit("mutual", "z/c.JPG")[2]
    assert len(set(scorer.sources.tolist())) == 2


@pytest.mark.parametrize(("key", "value"), [("FIT_IMAGES", -1), ("MAX_IMAGES", 0)])
def test_bad_settings(tiny_cfg, image_folder, key, value):
    node = tiny_cfg.AGSSP.SCORER if key == "FIT_IMAGES" else tiny_cfg.AGSSP.CALIBRATION
    node[key] = value
    scorer = AnomalyScorer()
    scorer.image_size = 1
    loader = image_loader(tiny_cfg, scorer, str(image_folder))
    with pytest.raises(ValueError, match=rf"AGSSP\.[A-Z.]*{key} .*got .*{value}"):
        fit_scorer(tiny_cfg, scorer, loader, 6, progress=False)
