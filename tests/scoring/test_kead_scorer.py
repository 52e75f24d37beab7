"""KeAD by its name in a config: modes, precisions, sizes."""

import pytest
import torch
from torch.nn.functional import normalize

from detectron2_agssp.scoring.kead.clip_features import ClipEncoder
from detectron2_agssp.scoring.kead.descriptions import choose_object, objects_by_source
from detectron2_agssp.scoring.kead.scorer import KeadScorer

pytest.importorskip("open_clip")

MODES = ("zero_shot", "few_shot", "both")
T = 0.07


def images(count: int = 2, height: int = 96, width: int = 96, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(count, 3, height, width, generator=generator)


def text_side(scorer, features):
    """The anomalous share of features (..., D), by the definition."""
    texts = torch.stack([scorer.text_normal, scorer.text_anomaly]) - scorer.text_empty
    cosines = normalize(features, dim=-1) @ normalize(texts, dim=-1).T
    return (cosines / T).softmax(dim=-1)[..., 1]


def nearest_normal(patches, memory):
    """Half the cosine distance to the nearest of ``memory`` (R, 1 + h*w, D), loops and all."""
    rows = normalize(memory[:, 1:].flatten(0, 1), dim=-1)
    return torch.stack(
        [
            torch.stack([0.5 * (1 - max(rows @ patch)) for patch in normalize(image, dim=-1)])
            for image in patches[:, 1:]
        ]
    )


def expected_of(scorer, pixels, normal):
    """Maps and scores by the formulas, from the encoder's outputs."""
    embedding, patches, grid = scorer.encoder(pixels)
    _, memory, _ = scorer.encoder(normal)
    few_shot = torch.stack([nearest_normal(*pair) for pair in zip(patches, memory, strict=True)])
    few_shot = few_shot.mean(dim=0)
    if not scorer.uses_text:
        return few_shot.unflatten(1, grid), few_shot.amax(dim=1)
    zero_shot = torch.stack([text_side(scorer, p[:, 1:]) for p in patches]).mean(dim=0)
    score = text_side(scorer, embedding)
    if not scorer.uses_memory:
        return zero_shot.unflatten(1, grid), score
    both = zero_shot + few_shot
    return both.unflatten(1, grid), (score + both.amax(dim=1)) / 2


@pytest.mark.parametrize("shape", [(96, 96), (64, 128)])
@pytest.mark.parametrize("mode", MODES)
def test_maps_and_scores_are_the_formulas(build, mode, shape):
    scorer = build(MODE=mode)
    normal, pixels = images(3, *shape, seed=1), images(2, *shape)
    assert scorer.fit_sample == ("none" if mode == "zero_shot" else "normal")
    assert scorer.fit([normal[:1], normal[1:]]) is scorer
    result = scorer(pixels)
    maps, scores = expected_of(scorer, pixels, normal)
    assert result.maps.shape == (2, shape[0] // 16, shape[1] // 16)
    assert result.maps.dtype == result.scores.dtype == torch.float32
    torch.testing.assert_close(result.maps, maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.scores, scores, rtol=1e-4, atol=1e-5)
    assert result.maps.std() > 1e-4


def test_pixels_are_normalised_as_clip_wants(build):
    scorer = build()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    pixels = images(1)
    embedding, _, _ = scorer.encoder(pixels)
    expected = scorer.encoder.encoder.visual((pixels / 255 - mean) / std)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)


def test_clip_is_not_trained(build):
    scorer = build()
    assert not any(parameter.requires_grad for parameter in scorer.parameters())
    assert not scorer.training


@pytest.mark.parametrize("mode", MODES)
def test_few_shot_modes_have_to_be_fitted(build, mode):
    scorer = build(MODE=mode)
    if mode == "zero_shot":
        before = scorer(images())
        scorer.fit(images(seed=3))
        torch.testing.assert_close(scorer(images()).maps, before.maps, rtol=0, atol=0)
        return
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(normal_images\)"):
        scorer(images())
    with pytest.raises(ValueError, match=r"no normal images.*NORMAL_SAMPLE.*zero_shot"):
        scorer.fit([])
    with pytest.raises(ValueError, match=r"no normal images"):
        scorer.fit(images(0))
    with pytest.raises(ValueError, match=r"patches of the normal images are not finite"):
        scorer.fit(images(1) * torch.nan)
    scorer.fit(images(1))
    # A normal image is at no distance from itself.
    if mode == "few_shot":
        assert scorer(images(1)).maps.abs().max() < 1e-5


# ---- layers, sizes, precisions -------------------------------------------------------------------


def test_published_layers(build):
    """Every layer after the first is the last one."""
    scorer = build(FEATURE_LAYERS=(3, 12, 12, 12))
    _, patches, _ = scorer.encoder(images())
    third, last = build(FEATURE_LAYERS=(3, 12)).encoder(images())[1]
    for layer, expected in zip(patches, (third, last, last, last), strict=True):
        torch.testing.assert_close(layer, expected, rtol=0, atol=0)
    share = text_side(scorer, third[:, 1:]) + 3 * text_side(scorer, last[:, 1:])
    torch.testing.assert_close(scorer(images()).maps.flatten(1), share / 4)
    assert not torch.allclose(scorer(images()).maps, build()(images()).maps, atol=1e-4)


@pytest.mark.parametrize("keys", [{"RESIDUAL": False}, {"NUM_VV_BLOCKS": 4}, {"TEMPERATURE": 0.2}])
def test_settings_matter(build, keys):
    assert not torch.allclose(build(**keys)(images()).maps, build()(images()).maps, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 192), (208, 48), (16, 16), (96, 112)])
def test_images_that_are_not_square(build, height, width):
    scorer = build(MODE="both").fit(images(1))
    assert scorer(images(2, height, width)).maps.shape == (2, height // 16, width // 16)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(build, precision):
    exact, half = (build(MODE="both", precision=p).fit(images(1)) for p in ("fp32", precision))
    assert half.encoder.encoder.visual.proj.dtype != torch.float32
    for name in ("text_normal", "memory"):
        assert getattr(half, name).dtype == torch.float32
    torch.testing.assert_close(half.text_normal, exact.text_normal, rtol=0, atol=0)
    expected, result = exact(images(2, seed=1)), half(images(2, seed=1))
    assert result.maps.dtype == result.scores.dtype == torch.float32
    tolerance = {"bf16": 0.1, "fp16": 0.02}[precision]
    torch.testing.assert_close(result.maps, expected.maps, rtol=0, atol=tolerance)
    torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=tolerance)
    correlation = torch.corrcoef(torch.stack([result.maps.flatten(), expected.maps.flatten()]))
    assert correlation[0, 1] > 0.95


@pytest.mark.parametrize("mode", MODES)
def test_batches_of_one_and_none(build, mode):
    scorer = build(MODE=mode).fit(images(1, seed=1))
    whole = scorer(images(3))
    for index in range(3):
        single = scorer(images(3)[index : index + 1])
        torch.testing.assert_close(single.maps[0], whole.maps[index], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(single.scores[0], whole.scores[index], rtol=1e-4, atol=1e-5)
    none = scorer(images(0))
    assert none.maps.shape == (0, 6, 6)
    assert none.scores.shape == (0,)


def test_nan_stays_in_its_image(build):
    """It is not hidden: the map generator skips such an image and says so."""
    scorer, pixels = build(MODE="both").fit(images(1)), images(2)
    pixels[0, 0, 5, 5] = torch.nan
    maps = scorer(pixels).maps
    assert maps[0].isnan().any()
    assert maps[1].isfinite().all()


# ---- wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODE", "zeroshot", r"MODE is 'zeroshot'\. Choices: zero_shot, few_shot, both"),
        ("TEMPERATURE", 0.0, r"TEMPERATURE must be positive, got 0\.0"),
        ("FEATURE_LAYERS", (3, 13), r"FEATURE_LAYERS must be .* blocks 1 to 12, got \[3, 13\]"),
        ("FEATURE_LAYERS", (), r"FEATURE_LAYERS must be one or more"),
        ("NUM_VV_BLOCKS", 13, r"NUM_VV_BLOCKS must be in 0 to 12 .* got 13"),
        ("OBJECT", "brass", r"OBJECT is 'brass'\. Choose one .* describes: 'steel strip'"),
    ],
)
def test_wrong_settings(build, key, value, message):
    with pytest.raises(ValueError, match=message):
        build(**{key: value})


def test_other_wrong_settings(build):
    with pytest.raises(ValueError, match=r"PRECISION is 'half'\. Choices: fp32, bf16, fp16"):
        build(precision="half")
    encoder = build().encoder
    with pytest.raises(ValueError, match=r"IMAGE_SIZE is 100, not a multiple of the patch size 16"):
        KeadScorer(encoder=encoder, text=None, mode="few_shot", image_size=100)
    with pytest.raises(ValueError, match="'both' needs texts; got none"):
        KeadScorer(encoder=encoder, text=None, image_size=96, mode="both")


def test_object_of_several(tmp_path):
    path = tmp_path / "two.yaml"
    described = "{normal: [even], defects: [{name: pit, appearance: dark}]}"
    path.write_text(f"rail: {described}\nstrip: {described}")
    assert choose_object(str(path), "strip").name == "strip"
    with pytest.raises(
        ValueError, match=r"OBJECT is ''\. Choose one .*two\.yaml.* 'rail', 'strip'"
    ):
        choose_object(str(path), "")


# ---- texts by source -----------------------------------------------------------------------------

TWO = """
rail: {normal: [even], defects: [{name: crack, appearance: a thin line}]}
strip: {normal: [bright], defects: [{name: hole, appearance: dark and round}]}
"""
ONE = "plate: {normal: [grey], defects: [{name: dent, appearance: a shadow}]}"


@pytest.fixture
def descriptions(tmp_path):
    (tmp_path / "two.yaml").write_text(TWO)
    (tmp_path / "one.yaml").write_text(ONE)
    return {"two": str(tmp_path / "two.yaml"), "one": str(tmp_path / "one.yaml")}


@pytest.mark.parametrize("mode", ["zero_shot", "both"])
def test_each_source_by_its_own_texts(build, descriptions, mode):
    two, one = descriptions["two"], descriptions["one"]
    by_source = ("line=1=strip", f"b = {one}")
    scorer = build(MODE=mode, DESCRIPTIONS=two, OBJECT="rail", OBJECTS_BY_SOURCE=by_source)
    assert scorer.told_source
    alone = {
        "line=1": build(MODE=mode, DESCRIPTIONS=two, OBJECT="strip"),
        "b": build(MODE=mode, DESCRIPTIONS=one),
        "another": build(MODE=mode, DESCRIPTIONS=two, OBJECT="rail"),
    }
    scorer.fit(images(seed=1))
    found = []
    for source, expected in alone.items():
        assert not expected.told_source
        result = scorer.score(images(), source)
        wanted = expected.fit(images(seed=1))(images())
        torch.testing.assert_close(result.maps, wanted.maps, rtol=0, atol=0)
        torch.testing.assert_close(result.scores, wanted.scores, rtol=0, atol=0)
        found.append(result.maps)
    assert all((found[a] - found[b]).abs().max() > 1e-4 for a in range(3) for b in range(a))


def test_without_sources_nothing_is_kept_of_them(build, descriptions):
    settings = {"DESCRIPTIONS": descriptions["two"], "OBJECT": "rail"}
    plain, own = build(**settings), build(**settings, OBJECTS_BY_SOURCE=("a=strip", "c=rail"))
    assert set(plain.learned_state()) == {"text_normal", "text_anomaly", "text_empty", "memory"}
    restored = build(**settings, OBJECTS_BY_SOURCE=("a=strip", "c=rail"))
    restored.load_learned_state(own.learned_state())
    expected = own.score(images(), "a").maps
    torch.testing.assert_close(restored.score(images(), "a").maps, expected, rtol=0, atol=0)
    changed = build(**settings, OBJECTS_BY_SOURCE=("a=rail", "c=rail"))
    with pytest.raises(ValueError, match=r"other descriptions \(text_normal_0 differs"):
        changed.load_learned_state(own.learned_state())
    assert not build(MODE="few_shot", OBJECTS_BY_SOURCE=("a=strip",)).told_source


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["strip"], r"has 'strip': expected source=object, each source once"),
        (["=strip"], r"has '=strip': expected source=object"),
        (["a="], r"has 'a=': expected source=object"),
        (["a=rail", "a=strip"], r"has 'a=strip': expected .* each source once"),
        (["a=brass"], r"'brass' is neither an object of .* \('rail', 'strip'\) nor .*rails, "),
        (["a={two}"], r"two\.yaml' describes several objects: 'rail', 'strip'"),
    ],
)
def test_wrong_objects_by_source(descriptions, entries, message):
    entries = [entry.format(**descriptions) for entry in entries]
    with pytest.raises(ValueError, match=rf"KEAD\.OBJECTS_BY_SOURCE .*{message}"):
        objects_by_source(entries, descriptions["two"])


# ---- what it learned -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_learned_state_round_trip(build, mode):
    first, second = build(MODE=mode).fit(images(2, seed=1)), build(MODE=mode)
    state = {name: tensor.clone() for name, tensor in first.learned_state().items()}
    assert not any(name.startswith("encoder") for name in state)
    second.load_learned_state(state)
    torch.testing.assert_close(second(images()).maps, first(images()).maps, rtol=0, atol=0)
    assert all(torch.equal(second.state_dict()[name], t) for name, t in first.state_dict().items())
    with pytest.raises(ValueError, match="expected"):
        second.load_learned_state({"mean": state["memory"]})


def test_state_of_other_descriptions_is_refused(build):
    """The texts of a map folder are those of its descriptions; rounding apart."""
    scorer = build()
    state = scorer.learned_state()
    scorer.load_learned_state({**state, "text_normal": state["text_normal"] + 1e-7})
    with pytest.raises(ValueError, match=r"other descriptions \(text_empty differs.*\(47,\)"):
        scorer.load_learned_state({**state, "text_empty": state["text_empty"][:47]})
    with pytest.raises(ValueError, match=r"other descriptions \(text_anomaly differs"):
        scorer.load_learned_state({**state, "text_anomaly": state["text_normal"]})


def test_encoder_of_another_clips_pixels(build):
    """Mean and standard deviation are the model's."""
    visual = build().encoder.encoder.visual
    visual.image_mean, visual.image_std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    clip = torch.nn.Module()
    clip.visual = visual
    encoder = ClipEncoder(clip)
    torch.testing.assert_close(encoder.mean.flatten(), torch.tensor([127.5, 102.0, 76.5]))
    torch.testing.assert_close(encoder.std.flatten(), torch.tensor([51.0, 51.0, 25.5]))
