"""The scorer `ensemble`: its members' maps, combined."""

import pytest
import torch
import torch.nn.functional as F

from detectron2_agssp.maps.fitted_scorer import load_fitted_scorer, recorded_config
from detectron2_agssp.maps.generate import generate_anomaly_maps
from detectron2_agssp.maps.store import MapStore
from detectron2_agssp.scoring import EnsembleScorer, build_anomaly_scorer
from detectron2_agssp.scoring.base import AnomalyScorer, AnomalyScores, as_batches, strongest_cells
from tests.scoring.tiny_features import make_images


class Brightness(AnomalyScorer):
    """Distance of a cell's brightness from the mean of the images fitted on."""

    def __init__(self, *, stride=4, image_size=32, fit_sample="unlabeled", sign=1.0):
        super().__init__()
        self.stride = self.size_divisor = stride
        self.image_size, self.fit_sample, self.sign = image_size, fit_sample, sign
        self.images_per_source = 2
        self.sizes, self.sources = [], []
        self.register_buffer("mean", torch.full((), torch.nan))

    def fit(self, images):
        if self.fit_sample == "per_source":
            self.sources = list(images)
            images = [batch for batches in images.values() for batch in as_batches(batches)]
        batches = list(as_batches(images))
        self.sizes = [tuple(batch.shape[2:]) for batch in batches]
        self.mean = torch.cat([batch.mean(dim=(1, 2, 3)) for batch in batches]).mean()
        return self

    def forward(self, images, source=""):
        cells = F.avg_pool2d(images.mean(dim=1, keepdim=True), self.stride)[:, 0]
        maps = self.sign * (cells - self.mean)
        return AnomalyScores(maps, strongest_cells(maps))


def by_hand(ensemble, images):
    """The members' maps on the finest grid."""
    grid = [side // ensemble.stride for side in images.shape[2:]]
    return [
        F.interpolate(member(images).maps[:, None], size=grid, mode="bilinear")[:, 0]
        for member in ensemble.members
    ]


@pytest.fixture
def images():
    return make_images(6, 32, 48)


def test_product(images):
    members = [Brightness(), Brightness(stride=8, sign=-1)]
    ensemble = EnsembleScorer(members=members, combine="product").fit(images)
    result = ensemble(images)
    assert result.maps.shape == (6, 8, 12)
    expected = 1
    for maps in by_hand(ensemble, images):
        ordered = maps.flatten().sort().values
        low, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.5, 0.999))
        expected = expected * ((maps - low) / (high - low)).clamp(min=0)
    torch.testing.assert_close(result.maps, expected)
    torch.testing.assert_close(result.scores, result.maps.flatten(1).amax(dim=1))


def test_ranks(images):
    members = [Brightness(), Brightness(stride=8, sign=-1)]
    ensemble = EnsembleScorer(members=members, combine="ranks").fit(images)
    surprise = []
    for maps in by_hand(ensemble, images):
        cells = maps.flatten()
        as_much = (cells >= cells[:, None]).double().sum(dim=1)
        surprise.append(-((as_much + 1) / (len(cells) + 1)).log())
    expected = (sum(surprise) / 2).view(6, 8, 12).float()
    torch.testing.assert_close(ensemble(images).maps, expected)


def test_members_get_images_of_their_size(images):
    members = [Brightness(image_size=64), Brightness(image_size=32, stride=8)]
    ensemble = EnsembleScorer(members=members)
    assert (ensemble.image_size, ensemble.stride, ensemble.size_divisor) == (64, 4, 8)
    ensemble.fit(make_images(2, 64, 96))
    assert (members[0].sizes, members[1].sizes) == ([(64, 96)], [(32, 48)])
    assert ensemble(make_images(1, 64, 96)).maps.shape == (1, 16, 24)
    # Sides are whole cells of the member's.
    assert ensemble(make_images(1, 40, 24)).maps.shape == (1, 10, 6)


def test_a_stride_is_of_the_largest_image():
    """64 cells of 384 pixels where the other has 48."""
    members = [Brightness(image_size=384, stride=8), Brightness(image_size=256, stride=4)]
    ensemble = EnsembleScorer(members=members)
    assert (ensemble.stride, ensemble.size_divisor) == (6, 24)


def test_batches_fit_the_same(images):
    members = [[Brightness(), Brightness(stride=8)] for _ in range(2)]
    whole = EnsembleScorer(members=members[0]).fit(images)
    parts = EnsembleScorer(members=members[1]).fit(iter(images.split(4)))
    torch.testing.assert_close(whole(images), parts(images))


def test_each_image_is_scored_by_itself(images):
    for combine in ("product", "ranks"):
        members = [Brightness(), Brightness(stride=8, sign=-1)]
        ensemble = EnsembleScorer(members=members, combine=combine).fit(images)
        together = ensemble(images).maps
        for index in range(3):
            torch.testing.assert_close(ensemble(images[index : index + 1]).maps[0], together[index])
        damaged = images.clone()
        damaged[1] = torch.nan
        maps = ensemble(damaged).maps
        assert maps[1].isnan().all()
        torch.testing.assert_close(maps[[0, 2]], together[[0, 2]])
        assert ensemble(images[:0]).maps.shape == (0, 8, 12)


def test_what_is_beyond_all_that_was_seen_scores_highest(images):
    members = [Brightness(), Brightness(stride=8)]
    ensemble = EnsembleScorer(members=members).fit(images / 2)
    maps = ensemble(torch.full_like(images, 255)).maps
    assert (maps == ensemble(torch.full_like(images, 254)).maps).all()
    assert (maps >= ensemble(images / 2).maps.max()).all()
    assert maps.isfinite().all()


def test_fits_on_one_image(images):
    ensemble = EnsembleScorer(members=[Brightness(), Brightness(stride=8)]).fit(images[:1])
    assert ensemble(images).maps.isfinite().all()


def test_a_member_per_source(images):
    members = [Brightness(), Brightness(fit_sample="per_source")]
    ensemble = EnsembleScorer(members=members)
    assert (ensemble.fit_sample, ensemble.images_per_source) == ("per_source", 2)
    ensemble.fit({"a": images[:2], "b": iter(images[2:].split(3))})
    assert members[1].sources == ["a", "b"]
    assert members[0].sizes == [(32, 48)] * 3
    assert ensemble.score(images, "a").maps.shape == (6, 8, 12)


def test_learned_state_is_the_members_too(images):
    ensembles = [EnsembleScorer(members=[Brightness(), Brightness(stride=8)]) for _ in range(2)]
    ensembles[0].fit(images)
    state = ensembles[0].learned_state()
    assert set(state) == {"members.0.mean", "members.1.mean", "sample"}
    ensembles[1].load_learned_state(state)
    torch.testing.assert_close(ensembles[1](images), ensembles[0](images), rtol=0, atol=0)
    del state["members.1.mean"]
    with pytest.raises(ValueError, match="scorer's state has"):
        ensembles[1].load_learned_state(state)


def test_unfit_images(images):
    ensemble = EnsembleScorer(members=[Brightness(fit_sample="none"), Brightness()])
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(images\)"):
        ensemble(images)
    ensemble = EnsembleScorer(members=[Brightness(fit_sample="none") for _ in range(2)])
    with pytest.raises(ValueError, match="no images to fit on"):
        ensemble.fit([])
    with pytest.raises(ValueError, match="members' scores are not finite"):
        ensemble.fit(images)


@pytest.fixture
def ensemble_cfg(tiny_cfg):
    tiny_cfg.AGSSP.SCORER.NAME = "ensemble"
    tiny_cfg.AGSSP.SCORER.ENSEMBLE.MEMBERS = (
        "mahalanobis",
        "synthetic IMAGE_SIZE 32 STRIDES (4,16) SYNTHETIC.ITERATIONS 2 SYNTHETIC.WIDTH 4",
    )
    return tiny_cfg


def test_built_from_the_config(ensemble_cfg):
    scorer = build_anomaly_scorer(ensemble_cfg)
    first, second = scorer.members
    assert (first.image_size, first.stride) == (64, min(ensemble_cfg.AGSSP.SCORER.STRIDES))
    assert (second.image_size, second.stride, second.iterations) == (32, 4, 2)
    assert scorer.image_size == 64
    assert not scorer.training


@pytest.mark.parametrize("combine", ["product", "ranks"])
def test_a_map_folder_keeps_it(ensemble_cfg, image_folder, tmp_path, combine):
    ensemble_cfg.AGSSP.SCORER.ENSEMBLE.COMBINE = combine
    generate_anomaly_maps(ensemble_cfg, image_folder, tmp_path, progress=False)
    assert len(list(MapStore(tmp_path).entries())) == 6
    loaded, _ = load_fitted_scorer(ensemble_cfg, tmp_path)
    again, _ = load_fitted_scorer(recorded_config(ensemble_cfg, tmp_path), tmp_path)
    images = make_images(2, 64, 64)
    assert torch.equal(loaded(images).maps, again(images).maps)
    assert loaded(images).maps.isfinite().all()


def test_other_settings_of_a_member_are_noticed(ensemble_cfg, image_folder, tmp_path):
    generate_anomaly_maps(ensemble_cfg, image_folder, tmp_path, progress=False, fit_only=True)
    # A key of no member does not count, that of one does.
    ensemble_cfg.AGSSP.SCORER.MEMORY.SIZE = 5
    load_fitted_scorer(ensemble_cfg, tmp_path)
    ensemble_cfg.AGSSP.SCORER.MAHALANOBIS.SHRINKAGE = 0.7
    with pytest.raises(ValueError, match=r"SHRINKAGE: 0\.3 there, 0\.7 now"):
        load_fitted_scorer(ensemble_cfg, tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("mahalanobis",), "two scorers or more, got 1"),
        (("mahalanobis", "synthetik"), "MEMBERS is 'synthetik'.*'synthetic'"),
        (("mahalanobis", ""), "MEMBERS is ''"),
        (("mahalanobis", "ensemble"), "must not name an ensemble"),
        (("mahalanobis", "mutual STRIDES"), "'mutual STRIDES': a scorer's name is followed by"),
        (("mahalanobis", "mutual DEVICE cpu"), r"STRIDES or MUTUAL\.\*, and its value"),
    ],
)
def test_bad_members(ensemble_cfg, members, message):
    ensemble_cfg.AGSSP.SCORER.ENSEMBLE.MEMBERS = members
    with pytest.raises(ValueError, match=message):
        build_anomaly_scorer(ensemble_cfg)


def test_unknown_combination(ensemble_cfg):
    ensemble_cfg.AGSSP.SCORER.ENSEMBLE.COMBINE = "sum"
    with pytest.raises(ValueError, match=r"COMBINE is 'sum'\. Choices: product, ranks"):
        build_anomaly_scorer(ensemble_cfg)
