"""Prompts and their features, against a small random CLIP and loops by hand."""

import re

import pytest
import torch
from torch import nn

from detectron2_agssp.scoring.kead.descriptions import (
    Defect,
    ObjectDescription,
    builtin_descriptions,
    load_descriptions,
)
from detectron2_agssp.scoring.kead.prompts import (
    ANOMALOUS_STATES,
    NORMAL_STATES,
    TEMPLATES,
    TextFeatures,
    anomaly_prompts,
    build_text_features,
    check_prompt_lengths,
    count_tokens,
    empty_prompts,
    encode_text_side,
    normal_prompts,
)
from tests.scoring.kead_texts import STRIP

# ---- prompts -------------------------------------------------------------------------------------


def test_states_and_wording():
    normal, anomaly = normal_prompts(STRIP), anomaly_prompts(STRIP)
    assert "a photo of steel strip." in normal
    assert "a photo of the flawless steel strip." in normal
    assert "a photo of the steel strip with an even face." in normal
    assert "a photo of the new steel strip." in normal
    assert "a photo of the damaged steel strip." in anomaly
    described = "steel strip with deep pit, it appears as a dark hole"
    assert f"a photo of the {described}." in anomaly
    assert "a photo of the old steel strip with crust." in anomaly
    assert not set(normal) & set(anomaly)


def test_every_state_is_in_every_template():
    assert 10 <= len(TEMPLATES) <= 20
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    for prompts, states in (
        (normal_prompts(STRIP), len(NORMAL_STATES) + 2),
        (anomaly_prompts(STRIP), len(ANOMALOUS_STATES) + 2),
    ):
        assert len(prompts) == len(set(prompts)) == states * len(TEMPLATES)
        assert not any("{" in prompt or "_" in prompt for prompt in prompts)
    phrase = "steel strip with deep pit, it appears as a dark hole"
    assert {template.format(phrase) for template in TEMPLATES} < set(anomaly_prompts(STRIP))


def test_templates_fit_any_noun():
    """Nothing but "the" or "of" before the object: "a aluminium" and "a rails" would be wrong."""
    for template in TEMPLATES:
        assert re.search(r"\b(of|the) \{\}", template), template


def test_empty_prompt():
    """Through the templates like every other prompt."""
    assert empty_prompts()[0] == "a photo of ."
    assert empty_prompts() == [template.replace("{}", "") for template in TEMPLATES]


# ---- their length --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", builtin_descriptions())
def test_builtin_prompts_fit(name, tokenizer):
    for described in load_descriptions(name).values():
        prompts = normal_prompts(described) + anomaly_prompts(described)
        check_prompt_lengths(prompts, tokenizer, 77)
        # By what the tokenizer itself makes of them, without counting by hand.
        long = tokenizer(prompts, context_length=200)
        assert (long[:, 77:] == 0).all()


def test_prompts_that_do_not_fit_are_named(tokenizer):
    fits, cut, far = ("pit " * count for count in (75, 76, 90))
    assert count_tokens(tokenizer, fits) == 77
    assert (tokenizer([fits], context_length=100) != 0).sum() == 77
    check_prompt_lengths([fits, "short"], tokenizer, 77)
    with pytest.raises(ValueError, match=r"2 of 4 prompts .* 77 tokens") as caught:
        check_prompt_lengths([fits, cut, "short", far], tokenizer, 77)
    message = str(caught.value)
    assert "by 15 tokens" in message
    assert f"78 tokens: {cut!r}" in message
    assert f"92 tokens: {far!r}" in message
    assert "'short'" not in message
    assert repr(fits) not in message
    with pytest.raises(ValueError, match="3 tokens: 'pit'"):
        check_prompt_lengths(["pit"], tokenizer, 2)


def test_counting_with_other_tokenizers():
    class Inner:
        def __call__(self, text):
            return {"input_ids": [0, *text.split(), 1]}

    class HuggingFaceLike:
        tokenizer = Inner()

        def clean_fn(self, text):
            return text.replace("-", " ")

    assert count_tokens(HuggingFaceLike(), "a-b c") == 5
    with pytest.raises(TypeError, match="Cannot count the tokens of object"):
        count_tokens(object(), "a")


# ---- their features ------------------------------------------------------------------------------


def side_by_hand(prompts, clip_model, tokenizer):
    with torch.no_grad():
        embeddings = clip_model.encode_text(tokenizer(prompts))
    units = [embedding / embedding.norm() for embedding in embeddings]
    mean = torch.stack(units).mean(dim=0)
    return mean / mean.norm()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_side(clip_model, tokenizer, batch_size):
    prompts = [f"a photo of {word}." for word in ("steel", "a dark pit", "rust", "", "a rail")]
    sizes = []

    def encode(tokens):
        sizes.append(len(tokens))
        return clip_model.encode_text(tokens)

    result = encode_text_side(prompts, encode, tokenizer, batch_size)
    assert result.shape == (48,)
    assert not result.requires_grad
    assert max(sizes) <= batch_size
    assert sum(sizes) == 5
    torch.testing.assert_close(result, side_by_hand(prompts, clip_model, tokenizer))


def test_each_prompt_counts_the_same():
    """Normalised before the average: a long embedding outweighs none."""

    def encode(tokens):
        return torch.tensor([[100.0, 0.0], [0.0, 1.0]])[tokens]

    def tokenizer(texts):
        return torch.tensor([int(text) for text in texts])

    result = encode_text_side(["0", "1"], encode, tokenizer)
    torch.testing.assert_close(result, torch.full((2,), 0.5**0.5))


def test_half_precision_models_give_float32(tokenizer):
    result = encode_text_side(["a"], lambda tokens: torch.ones(1, 4).bfloat16(), tokenizer)
    assert result.dtype == torch.float32


def test_sides_that_cannot_be_encoded(tokenizer):
    with pytest.raises(ValueError, match="No prompts"):
        encode_text_side([], lambda tokens: tokens, tokenizer)
    with pytest.raises(ValueError, match="not finite"):
        encode_text_side(["a"], lambda tokens: torch.full((1, 4), torch.inf), tokenizer)


def test_features_of_an_object(clip_model, tokenizer):
    features = build_text_features(clip_model, tokenizer, STRIP)
    expected = TextFeatures(
        side_by_hand(normal_prompts(STRIP), clip_model, tokenizer),
        side_by_hand(anomaly_prompts(STRIP), clip_model, tokenizer),
        side_by_hand(empty_prompts(), clip_model, tokenizer),
    )
    for tensor, reference in zip(features, expected, strict=True):
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
        torch.testing.assert_close(tensor, reference)


def test_an_object_without_defects(clip_model, tokenizer):
    """The generic states are there all the same."""
    features = build_text_features(clip_model, tokenizer, ObjectDescription("rail", (), ()))
    torch.testing.assert_close(features.anomaly.norm(), torch.tensor(1.0))


def test_long_descriptions_are_refused_before_encoding(clip_model, tokenizer):
    wordy = ObjectDescription("rail", ("even",), (Defect("pit", "dark " * 80),))
    with pytest.raises(ValueError, match="it appears as dark dark"):
        build_text_features(clip_model, tokenizer, wordy)


def test_context_length_must_be_the_models(clip_model, tokenizer):
    with pytest.raises(ValueError, match=r"reads 77 tokens\. Give context_length=77"):
        build_text_features(clip_model, tokenizer, STRIP, context_length=64)


def test_context_length_reaches_the_tokenizer():
    class Model(nn.Linear):
        context_length = 40

        def encode_text(self, tokens):
            assert tokens.shape[1] == 40
            return torch.nn.functional.one_hot(tokens[:, 0], 5).float()

    class Words:
        def encode(self, text):
            return text.split()

        def __call__(self, texts, context_length=77):
            return torch.tensor([[len(text) % 5] * context_length for text in texts])

    features = build_text_features(Model(1, 1), Words(), STRIP, context_length=40)
    assert features.normal.shape == (5,)
