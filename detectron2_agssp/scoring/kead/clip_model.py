"""CLIP models of open_clip, from a file or a tag, without surprising downloads."""

import difflib
import logging
import os
import tempfile

from torch import nn

logger = logging.getLogger(__name__)

# Where open_clip puts what it downloads from an address that is not the hub's.
_URL_CACHE = "~/.cache/clip"
_HUB_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load_clip(model: str, pretrained: str, *, allow_download: bool = False) -> nn.Module:
    """Creates an open_clip model with its weights, in evaluation mode, on the CPU, float32.

    Its ``visual`` has the ``image_mean`` and ``image_std`` (RGB, in [0, 1]) of the weights.

    Args:
        model: an open_clip model name, such as "ViT-B-16-plus-240".
        pretrained: a path, a tag of open_clip such as "laion400m_e32", or "" for random weights.
        allow_download: a tag that is not in the local cache is downloaded.

    Raises:
        ImportError: open_clip is not installed.
        FileNotFoundError: ``pretrained`` is neither a file nor a tag (the tags are listed), or its
            weights are not here and must not, or cannot, be downloaded.
        ValueError: unknown model, a file that is damaged or of another model, or an activation
            (QuickGELU) that does not fit the tag.
    """
    open_clip = import_open_clip()
    # Not get_model_config alone, which looks names with "hf-hub:" up online.
    if model not in open_clip.list_models():
        close = difflib.get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"AGSSP.SCORER.KEAD.MODEL is {model!r}, which open_clip {open_clip.__version__} does "
            f"not have. Close: {', '.join(close) or 'none; open_clip.list_models() has all'}."
        )
    check_text_tower(model, "hf_model_name", allow_download)
    path, tag = _weights(open_clip, model, pretrained, allow_download)
    try:
        clip = open_clip.create_model(
            model,
            pretrained=path or None,
            precision="fp32",
            device="cpu",
            pretrained_text=False,
            force_preprocess_cfg=_pixel_statistics(open_clip, model, tag),
        )
    except Exception as error:  # torch's, pickle's and safetensors' share no base class
        if not path:
            raise
        # What torch says of a pickle is advice to let the file run code.
        reason = type(error).__name__
        if isinstance(error, RuntimeError):
            reason += f": {' '.join(str(error).split())[:400]}"
        raise ValueError(
            f"The CLIP weights {path!r} cannot be loaded into open_clip's {model!r} ({reason}). Is "
            "it the model that they are of (AGSSP.SCORER.KEAD.MODEL)? Is the file whole, and a "
            "checkpoint of tensors as open_clip saves it (.pt, .bin, .safetensors)?"
        ) from error
    return clip.eval().requires_grad_(False)


def load_tokenizer(model: str, *, allow_download: bool = False):
    """The tokenizer of the open_clip model named ``model``.

    Raises:
        FileNotFoundError: it comes from the hub, and ``allow_download`` is False.
    """
    check_text_tower(model, "hf_tokenizer_name", allow_download)
    return import_open_clip().get_tokenizer(model)


def import_open_clip():
    """The module; ImportError, with what to install, where there is none."""
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "CLIP needs open_clip: `pip install -e '.[kead]'`, or `pip install "
            "'open_clip_torch>=3' ftfy`. Scorers without it: mahalanobis, mutual, memory."
        ) from error
    return open_clip


def check_text_tower(model: str, key: str, allow_download: bool) -> None:
    """Raises FileNotFoundError where a model's text tower ("hf_model_name") or tokenizer
    ("hf_tokenizer_name") is looked up on the hub, and that is not allowed."""
    name = import_open_clip().get_model_config(model)["text_cfg"].get(key)
    if name and not allow_download:
        what = "text tower" if key == "hf_model_name" else "tokenizer"
        raise FileNotFoundError(
            f"The {what} of {model!r} is {name!r} of the Hugging Face hub. Set "
            "AGSSP.SCORER.KEAD.ALLOW_DOWNLOAD True, or choose an AGSSP.SCORER.KEAD.MODEL with "
            "CLIP's own, such as ViT-B-16-plus-240."
        )


def _weights(open_clip, model: str, pretrained: str, allow_download: bool) -> tuple[str, dict]:
    """The local file that ``pretrained`` names, "" for random weights; and the tag's entry, {}
    where it is none."""
    if not pretrained:
        return "", {}
    path = os.path.abspath(os.path.expanduser(pretrained))
    if os.path.isfile(path):
        return path, {}
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        raise FileNotFoundError(
            f"AGSSP.SCORER.KEAD.PRETRAINED is {pretrained!r}: no such file, and no tag of "
            f"open_clip for {model!r}. Its tags: {_tags(open_clip, model)}."
        )
    _check_activation(open_clip, model, pretrained, tag)
    if path := _cached(tag):
        return path, tag
    reason = "are not on this machine"
    if allow_download:
        try:
            return _download(open_clip, tag), tag
        except Exception as error:  # the hub's and urllib's errors share no base class
            reason = f"could not be downloaded ({type(error).__name__}: {error})"
    raise FileNotFoundError(
        f"The CLIP weights {pretrained!r} of {model!r} {reason}. Set AGSSP.SCORER.KEAD.PRETRAINED "
        "to the path of a file that you have, or AGSSP.SCORER.KEAD.ALLOW_DOWNLOAD True where there "
        "is a network; or choose a scorer without CLIP: mahalanobis, mutual, memory."
    )


def _check_activation(open_clip, model: str, pretrained: str, tag: dict) -> None:
    """Raises ValueError where a tag's weights were trained with another activation than the
    model's: the numbers would be wrong without a sign of it."""
    trained, own = (
        "QuickGELU" if settings.get("quick_gelu", False) else "GELU"
        for settings in (tag, open_clip.get_model_config(model))
    )
    if trained != own:
        raise ValueError(
            f"The weights {pretrained!r} were trained with {trained}, but {model!r} has {own}. Set "
            "AGSSP.SCORER.KEAD.MODEL to the model's other name (with or without '-quickgelu'), or "
            f"choose another tag: {_tags(open_clip, model)}."
        )


def _tags(open_clip, model: str) -> str:
    return ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"


def _cached(tag: dict) -> str:
    """The file of a tag that was downloaded before, "" if it was not."""
    if url := tag.get("url"):
        path = os.path.join(os.path.expanduser(_URL_CACHE), os.path.basename(url))
        return path if os.path.isfile(path) else ""
    from huggingface_hub import hf_hub_download

    repository, filename = os.path.split(tag["hf_hub"])
    for name in (filename,) if filename else _HUB_NAMES:
        try:
            return hf_hub_download(repository, name, local_files_only=True)
        except OSError:
            continue
    return ""


def _download(open_clip, tag: dict) -> str:
    if not tag.get("url"):
        return open_clip.download_pretrained(tag)
    cache = os.path.expanduser(_URL_CACHE)
    os.makedirs(cache, exist_ok=True)
    # open_clip writes straight to the final name: what was interrupted, or is being written by
    # another process, would pass for the whole.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        # Not the hub, where open_clip 3.3.0 has e31's weights under ViT-B-16-plus-240's
        # laion400m_e32, the paper's.
        part = open_clip.download_pretrained(tag, prefer_hf_hub=False, cache_dir=folder)
        path = os.path.join(cache, os.path.basename(part))
        os.replace(part, path)
    return path


def _pixel_statistics(open_clip, model: str, tag: dict) -> dict:
    """Mean and standard deviation that the weights were trained with; {} takes open_clip's
    default (OpenAI's). A file does not say: those that the model's tags share."""
    names = open_clip.list_pretrained_tags_by_model(model)
    tags = [tag] if tag else [open_clip.get_pretrained_cfg(model, name) for name in names]
    known = {(entry["mean"], entry["std"]) for entry in tags if "mean" in entry and "std" in entry}
    if len(known) > 1:
        logger.warning(
            "The weights of %s were trained with different pixel means, and a file does not say "
            "with which: OpenAI's are taken. Set AGSSP.SCORER.KEAD.PRETRAINED to the tag instead "
            "(%s) if that is wrong.",
            model,
            ", ".join(names),
        )
    return dict(zip(("mean", "std"), known.pop(), strict=True)) if len(known) == 1 else {}
