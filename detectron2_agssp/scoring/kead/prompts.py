"""Prompts of an object, and CLIP's features of them: the text side of KeAD (AGSSP,
arXiv 2509.18919; the generic states are WinCLIP's, arXiv 2303.14814).

Shapes: P prompts, D channels of CLIP's joint space.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2_agssp.scoring.kead.descriptions import PLACEHOLDER, Defect, ObjectDescription

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = (
    "damaged {}",
    "defective {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
)
# No "a {}": names are of mass nouns and plurals too, and states begin with any letter.
TEMPLATES = (
    "a photo of {}.",
    "a photo of the {}.",
    "a close-up photo of {}.",
    "a close-up photo of the {}.",
    "a macro photo of the {}.",
    "a cropped photo of {}.",
    "a cropped photo of the {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a blurry photo of the {}.",
    "a grainy photo of the {}.",
    "a low-contrast photo of the {}.",
    "a black and white photo of {}.",
    "a photo of one part of the {}.",
    "an inspection camera's image of the {}.",
    "an image of the {} for visual inspection.",
    "an image of {} on a production line.",
)


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of ``open_clip.get_tokenizer`` have it.

    It is called as ``tokenizer(texts, context_length=77)`` and returns int64 (P, context_length).
    To count tokens before they are cut it has either ``encode(text)``, the ids without start and
    end (open_clip's SimpleTokenizer), or ``tokenizer(text)["input_ids"]`` as an attribute, the ids
    with both (open_clip's HFTokenizer).
    """

    def __call__(self, texts: list[str], context_length: int = 77) -> Tensor: ...


class TextFeatures(NamedTuple):
    """Unit vectors, float32, of one object's prompts.

    Attributes:
        normal: (D,), of :func:`normal_prompts`.
        anomaly: (D,), of :func:`anomaly_prompts`.
        empty: (D,), of :func:`empty_prompts`; not yet subtracted from the others.
    """

    normal: Tensor
    anomaly: Tensor
    empty: Tensor


# ---- prompts -------------------------------------------------------------------------------------


def normal_prompts(obj: ObjectDescription) -> list[str]:
    """Generic and described sound states, each in each of ``TEMPLATES``."""
    described = [
        state if PLACEHOLDER in state else f"{{}} with {state}" for state in obj.normal_states
    ]
    return _in_templates(obj, [*NORMAL_STATES, *described])


def anomaly_prompts(obj: ObjectDescription) -> list[str]:
    """Generic and described defective states, each in each of ``TEMPLATES``."""
    return _in_templates(obj, [*ANOMALOUS_STATES, *map(_described, obj.defects)])


def empty_prompts() -> list[str]:
    """The prompt of nothing: nothing in each of ``TEMPLATES``."""
    return [template.format("") for template in TEMPLATES]


def _described(defect: Defect) -> str:
    if PLACEHOLDER in defect.appearance:
        return defect.appearance
    return f"{{}} with {defect.name.replace('_', ' ')}, it appears as {defect.appearance}"


def _in_templates(obj: ObjectDescription, states: Sequence[str]) -> list[str]:
    name = obj.name.replace("_", " ")
    phrases = [state.replace(PLACEHOLDER, name) for state in states]
    return [template.format(phrase) for phrase in phrases for template in TEMPLATES]


# ---- their length --------------------------------------------------------------------------------


def count_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text including start and end, uncut.

    Raises:
        TypeError: the tokenizer has none of the two ways that :class:`Tokenizer` names.
    """
    encode = getattr(tokenizer, "encode", None)
    if callable(encode):
        return len(encode(text)) + 2
    inner = getattr(tokenizer, "tokenizer", None)
    if callable(inner):
        clean = getattr(tokenizer, "clean_fn", None)
        return len(inner(clean(text) if callable(clean) else text)["input_ids"])
    raise TypeError(
        f"Cannot count the tokens of {type(tokenizer).__name__}: give it `encode(text)`, the ids "
        "without start and end, or take the tokenizer from open_clip.get_tokenizer."
    )


def check_prompt_lengths(
    prompts: Sequence[str], tokenizer: Tokenizer, context_length: int = 77
) -> None:
    """Refuses prompts that CLIP would silently cut.

    Args:
        prompts: any number.
        tokenizer: see :class:`Tokenizer`.
        context_length: tokens that fit, start and end included.

    Raises:
        ValueError: one or more are longer; each is named with its number of tokens.
    """
    counts = {prompt: count_tokens(tokenizer, prompt) for prompt in prompts}
    long = {prompt: count for prompt, count in counts.items() if count > context_length}
    if long:
        listing = "\n".join(f"  {count} tokens: {prompt!r}" for prompt, count in long.items())
        raise ValueError(
            f"{len(long)} of {len(counts)} prompts have more than the {context_length} tokens "
            f"that CLIP reads (start and end included); the rest would be cut. Shorten these "
            f"descriptions by {max(long.values()) - context_length} tokens (a word has 1 or 2):\n"
            f"{listing}"
        )


# ---- their features ------------------------------------------------------------------------------


@torch.no_grad()
def encode_text_side(
    prompts: Sequence[str],
    encode: Callable[[Tensor], Tensor],
    tokenizer: Tokenizer,
    batch_size: int = 64,
) -> Tensor:
    """One vector of many prompts: encoded, unit-normalised, averaged, normalised.

    Args:
        prompts: one or more.
        encode: tokens (B, context_length) -> embeddings (B, D), of any floating type.
        tokenizer: called with a list of texts.
        batch_size: prompts encoded at a time.

    Returns:
        (D,), float32, a unit vector.

    Raises:
        ValueError: no prompts, or embeddings that are not finite.
    """
    if not prompts:
        raise ValueError("No prompts to encode: give one or more.")
    batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    embeddings = torch.cat([encode(tokenizer(list(batch))).float() for batch in batches])
    if not torch.isfinite(embeddings).all():
        raise ValueError(
            "CLIP's text features are not finite: its weights are damaged, or the text tower runs "
            "at a precision that overflows. Load it in float32."
        )
    return F.normalize(F.normalize(embeddings, dim=-1).mean(dim=0), dim=0)


def build_text_features(
    clip_model: nn.Module,
    tokenizer: Tokenizer,
    obj: ObjectDescription,
    *,
    context_length: int = 77,
) -> TextFeatures:
    """CLIP's features of an object's prompts, on the model's device.

    Args:
        clip_model: an open_clip CLIP, or anything with ``encode_text(tokens)`` -> (P, D).
        tokenizer: the model's.
        obj: what it looks like.
        context_length: the model's, tokens.

    Raises:
        ValueError: prompts that do not fit (see :func:`check_prompt_lengths`), another context
            length than the model's, or features that are not finite.
    """
    own_length = getattr(clip_model, "context_length", context_length)
    if own_length != context_length:
        raise ValueError(
            f"context_length is {context_length}, but the CLIP model reads {own_length} tokens. "
            f"Give context_length={own_length}."
        )
    sides = (normal_prompts(obj), anomaly_prompts(obj), empty_prompts())
    check_prompt_lengths([prompt for side in sides for prompt in side], tokenizer, context_length)
    device = next(clip_model.parameters()).device
    return TextFeatures(
        *(
            encode_text_side(
                side,
                lambda tokens: clip_model.encode_text(tokens.to(device)),
                partial(tokenizer, context_length=context_length),
            )
            for side in sides
        )
    )
