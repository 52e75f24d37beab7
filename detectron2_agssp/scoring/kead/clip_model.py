"""CLIP models of open_clip, from a file or a tag, without surprising downloads."""

import difflib
import logging
import os
import pickle
import tempfile

from torch import nn

logger = logging.getLogger(__name__)

# What torch, pickle and open_clip raise on a file that is damaged, or of another model.
_UNUSABLE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    pickle.PickleError,
)
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
    config = open_clip.get_model_config(model)
    check_text_tower(model, config, "hf_model_name", allow_download)
    path, tag = _weights(open_clip, model, config, pretrained, allow_download)
    try:
        clip = open_clip.create_model(
            model,
            pretrained=path or None,
            precision="fp32",
            device="cpu",
            pretrained_text=False,
            force_preprocess_cfg=_pixel_statistics(open_clip, model, tag),
        )
    except _unusable() as error:
        if not path:
            raise
        raise ValueError(
            f"The CLIP weights {path!r} cannot be loaded into open_clip's {model!r} "
            f"({_reason(error)}). Is it the model that they are of "
            "(AGSSP.SCORER.KEAD.MODEL)? Is the file whole, and a checkpoint as open_clip saves it "
            "(.pt, .bin, .safetensors)?"
        ) from error
    return clip.eval().requires_grad_(False)


def load_tokenizer(model: str, *, allow_download: bool = False):
    """The tokenizer of the open_clip model named ``model``.

    Raises:
        FileNotFoundError: it comes from the hub, and ``allow_download`` is False.
    """
    open_clip = import_open_clip()
    config = open_clip.get_model_config(model)
    check_text_tower(model, config, "hf_tokenizer_name", allow_download)
    return open_clip.get_tokenizer(model)


def import_open_clip():
    """The module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "CLIP needs open_clip: `pip install -e '.[kead]'`, or `pip install "
            "'open_clip_torch>=3' ftfy`. Scorers without it: mahalanobis, mutual, memory."
        ) from error
    return open_clip


def check_text_tower(model: str, config: dict, key: str, allow_download: bool) -> None:
    """Raises FileNotFoundError where a model's text tower ("hf_model_name") or tokenizer
    ("hf_tokenizer_name") is looked up on the hub, and that is not allowed."""
    name = config["text_cfg"].get(key)
    if name and not allow_download:
        what = "text tower" if key == "hf_model_name" else "tokenizer"
        raise FileNotFoundError(
            f"The {what} of {model!r} is {name!r} of the Hugging Face hub. Set "
            "AGSSP.SCORER.KEAD.ALLOW_DOWNLOAD True, or choose an AGSSP.SCORER.KEAD.MODEL with "
            "CLIP's own, such as ViT-B-16-plus-240."
        )


def check_activation(open_clip, model: str, config: dict, pretrained: str, tag: dict) -> None:
    """Raises ValueError where a tag's weights were trained with another activation than the
    model's: the numbers would be wrong without a sign of it."""
    wanted, has = bool(tag.get("quick_gelu", False)), bool(config.get("quick_gelu", False))
    if wanted == has:
        return
    fitting = f"{model}-quickgelu" if wanted else model.removesuffix("-quickgelu")
    is_there = fitting != model and fitting in open_clip.list_models()
    way_out = (
        f"Set AGSSP.SCORER.KEAD.MODEL to {fitting!r}."
        if is_there
        else f"Choose another tag: {_tags(open_clip, model)}."
    )
    raise ValueError(
        f"The weights {pretrained!r} were trained with {'QuickGELU' if wanted else 'GELU'}, but "
        f"{model!r} has {'QuickGELU' if has else 'GELU'}. {way_out}"
    )


def _weights(open_clip, model, config, pretrained, allow_download) -> tuple[str, dict]:
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
    check_activation(open_clip, model, config, pretrained, tag)
    tag = _without_another_tags_hub(open_clip, model, pretrained, tag)
    path = _cached(tag)
    if not path and not allow_download:
        raise FileNotFoundError(
            f"The CLIP weights {pretrained!r} of {model!r} are not on this machine. Set "
            "AGSSP.SCORER.KEAD.PRETRAINED to the path of a file that you have, or "
            "AGSSP.SCORER.KEAD.ALLOW_DOWNLOAD True; or choose a scorer without CLIP: mahalanobis, "
            "mutual, memory."
        )
    if not path:
        try:
            path = _download(open_clip, tag)
        except Exception as error:  # the hub's and urllib's errors share no base class
            raise FileNotFoundError(
                f"The CLIP weights {pretrained!r} of {model!r} could not be downloaded "
                f"({type(error).__name__}: {error}). Without a network, set "
                "AGSSP.SCORER.KEAD.PRETRAINED to the path of a file that you have, or choose a "
                "scorer without CLIP: mahalanobis, mutual, memory."
            ) from error
    return path, tag


def _tags(open_clip, model: str) -> str:
    return ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"


def _without_another_tags_hub(open_clip, model: str, pretrained: str, tag: dict) -> dict:
    """The tag's entry, less a hub address that is another tag's.

    open_clip 3.3.0 has, under ViT-B-16-plus-240's laion400m_e32, the address of e31's weights on
    the hub, which it prefers, beside e32's own address on GitHub. The paper's weights are e32's.
    """
    hub_tag = tag.get("hf_hub", "").rstrip("/").rpartition(".")[2]
    others = set(open_clip.list_pretrained_tags_by_model(model)) - {pretrained}
    if tag.get("url") and hub_tag in others:
        return {key: value for key, value in tag.items() if key != "hf_hub"}
    return tag


def _cached(tag: dict) -> str:
    """The file of a tag that was downloaded before, "" if it was not."""
    if tag.get("hf_hub"):
        from huggingface_hub import hf_hub_download

        repository, filename = os.path.split(tag["hf_hub"])
        safe = os.path.splitext(filename)[0] + ".safetensors"
        for name in (safe, filename) if filename else _HUB_NAMES:
            try:
                return hf_hub_download(repository, name, local_files_only=True)
            except OSError:
                continue
    url = tag.get("url", "")
    path = os.path.join(os.path.expanduser(_URL_CACHE), os.path.basename(url))
    return path if url and os.path.isfile(path) else ""


def _download(open_clip, tag: dict) -> str:
    if tag.get("hf_hub"):
        return open_clip.download_pretrained(tag)
    cache = os.path.expanduser(_URL_CACHE)
    os.makedirs(cache, exist_ok=True)
    # open_clip writes straight to the final name: what was interrupted, or is being written by
    # another process, would pass for the whole.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        part = open_clip.download_pretrained(tag, cache_dir=folder)
        path = os.path.join(cache, os.path.basename(part))
        os.replace(part, path)
    return path


def _pixel_statistics(open_clip, model: str, tag: dict) -> dict:
    """Mean and standard deviation that the weights were trained with; {} takes open_clip's
    default (OpenAI's). A file does not say: those that the model's tags share."""
    names = open_clip.list_pretrained_tags_by_model(model)
    tags = [tag] if tag else [open_clip.get_pretrained_cfg(model, name) for name in names]
    found = {(entry["mean"], entry["std"]) for entry in tags if "mean" in entry and "std" in entry}
    if len(found) > 1:
        logger.warning(
            "The weights of %s were trained with different pixel means, and a file does not say "
            "with which. OpenAI's are taken; if that is wrong, set AGSSP.SCORER.KEAD.PRETRAINED to "
            "the tag instead (%s).",
            model,
            _tags(open_clip, model),
        )
    return dict(zip(("mean", "std"), found.pop(), strict=True)) if len(found) == 1 else {}


def _reason(error: Exception) -> str:
    # What torch says here is advice to let the file run code.
    if isinstance(error, pickle.PickleError):
        return "it does not hold tensors alone"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _unusable() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (*_UNUSABLE, SafetensorError)
