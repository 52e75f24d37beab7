"""CLIP's weights: what is missing or wrong is said, and nothing is downloaded unasked."""

import logging
import sys
from pathlib import Path

import pytest
import torch

from detectron2_agssp.scoring.kead import clip_model
from detectron2_agssp.scoring.kead.clip_model import load_clip, load_tokenizer
from tests.small_clip import NAME, make_small_clip, register_clip

open_clip = pytest.importorskip("open_clip")

PAPER = "ViT-B-16-plus-240"


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No weights of this machine, and no network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def refuse(*arguments, **settings):
        raise OSError("no network here")

    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


@pytest.fixture
def weights(tmp_path):
    return make_small_clip(tmp_path)


@pytest.fixture
def small_models(monkeypatch):
    """Every model is the small one, so that none of full size is made; its settings are kept."""
    seen = []
    create = open_clip.create_model

    def created(model, **settings):
        seen.append({"model": model, **settings})
        return create(NAME, **settings)

    monkeypatch.setattr(open_clip, "create_model", created)
    return seen


def test_a_file(weights, monkeypatch):
    clip = load_clip(NAME, str(weights))
    assert not clip.training
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in clip.parameters())
    stored = torch.load(weights)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in clip.state_dict().items())
    monkeypatch.setenv("HOME", str(weights.parent))
    again = load_clip(NAME, f"~/{weights.name}")
    assert torch.equal(again.visual.proj, clip.visual.proj)
    assert not torch.equal(load_clip(NAME, "").visual.proj, clip.visual.proj)


def test_safetensors(weights, tmp_path):
    from safetensors.torch import save_file

    save_file(torch.load(weights), tmp_path / "clip.safetensors")
    clip = load_clip(NAME, str(tmp_path / "clip.safetensors"))
    assert torch.equal(clip.visual.proj, torch.load(weights)["visual.proj"])


def test_open_clip_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"\[kead\].*without it: mahalanobis, mutual, memory"):
        load_clip(PAPER, "")


def test_unknown_models():
    with pytest.raises(ValueError, match=r"MODEL is 'ViT-B-16-plus240'.*Close: .*-plus-240"):
        load_clip("ViT-B-16-plus240", "")
    # open_clip would look this one up online.
    with pytest.raises(ValueError, match=r"which open_clip .* does not have"):
        load_clip("hf-hub:laion/clip", "")


@pytest.mark.parametrize("pretrained", ["laion400m", "/weights/clip.pt"])
def test_neither_file_nor_tag(pretrained):
    with pytest.raises(FileNotFoundError) as caught:
        load_clip(PAPER, pretrained)
    message = str(caught.value)
    assert f"PRETRAINED is {pretrained!r}: no such file, and no tag" in message
    assert "laion400m_e31, laion400m_e32" in message
    with pytest.raises(FileNotFoundError, match=r"Its tags: none\."):
        load_clip("ViT-S-16", pretrained)


def test_a_tag_that_is_not_here(small_models):
    with pytest.raises(FileNotFoundError) as caught:
        load_clip(PAPER, "laion400m_e32")
    message = str(caught.value)
    for part in ("'laion400m_e32'", "not on this machine", "path of a file", "ALLOW_DOWNLOAD True"):
        assert part in message
    assert "mahalanobis, mutual, memory" in message
    with pytest.raises(FileNotFoundError) as caught:
        load_clip(PAPER, "laion400m_e32", allow_download=True)
    message = str(caught.value)
    assert "could not be downloaded (OSError: no network here)" in message
    assert "path of a file" in message
    assert not small_models


# ---- downloads -----------------------------------------------------------------------------------


@pytest.fixture
def downloads(monkeypatch, weights):
    """What open_clip was asked for; it writes the small weights to where it should."""
    asked = []

    def download(tag, prefer_hf_hub=True, cache_dir=None):
        asked.append(tag["hf_hub"] if prefer_hf_hub and "hf_hub" in tag else tag["url"])
        folder = weights.parent if cache_dir is None else Path(cache_dir)
        path = folder / (asked[-1].rstrip("/").split("/")[-1])
        path.write_bytes(weights.read_bytes())
        return str(path)

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    return asked


def test_a_download_is_found_again(downloads, small_models, tmp_path):
    clip = load_clip(PAPER, "laion400m_e32", allow_download=True)
    assert len(downloads) == 1
    again = load_clip(PAPER, "laion400m_e32")
    assert len(downloads) == 1
    assert torch.equal(clip.visual.proj, again.visual.proj)
    files = [path.name for path in (tmp_path / "home" / ".cache" / "clip").iterdir()]
    assert files == ["vit_b_16_plus_240-laion400m_e32-699c4b84.pt"]


def test_an_interrupted_download_leaves_nothing(downloads, small_models, tmp_path, monkeypatch):
    download = open_clip.download_pretrained

    def interrupted(tag, **settings):
        download(tag, **settings)
        raise OSError("connection reset")

    monkeypatch.setattr(open_clip, "download_pretrained", interrupted)
    with pytest.raises(FileNotFoundError, match="connection reset"):
        load_clip(PAPER, "laion400m_e32", allow_download=True)
    assert not list((tmp_path / "home" / ".cache" / "clip").iterdir())
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        load_clip(PAPER, "laion400m_e32")


def test_the_hub_has_another_tags_weights(downloads, small_models):
    """open_clip 3.3.0 has e31's under e32: a tag's own address goes first."""
    assert "e31" in open_clip.get_pretrained_cfg(PAPER, "laion400m_e32")["hf_hub"]
    load_clip(PAPER, "laion400m_e32", allow_download=True)
    assert downloads[0].endswith("vit_b_16_plus_240-laion400m_e32-699c4b84.pt")
    load_clip("ViT-L-14", "datacomp_xl_s13b_b90k", allow_download=True)
    assert downloads[1].startswith("laion/CLIP-ViT-L-14-DataComp")


def test_the_hubs_cache(small_models, weights, monkeypatch):
    asked = []

    def cached(repository, name, local_files_only):
        asked.append((repository, name))
        assert local_files_only
        if name.endswith(".bin"):
            return str(weights)
        raise FileNotFoundError(name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", cached)
    load_clip("ViT-L-14", "datacomp_xl_s13b_b90k")
    repository = "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"
    assert asked == [
        (repository, "open_clip_model.safetensors"),
        (repository, "open_clip_pytorch_model.bin"),
    ]


@pytest.mark.parametrize("model", ["xlm-roberta-base-ViT-B-32", "roberta-ViT-B-32"])
def test_a_text_tower_of_the_hub(model, small_models):
    with pytest.raises(
        FileNotFoundError, match=r"text tower .*roberta-base' .*ALLOW_DOWNLOAD True"
    ):
        load_clip(model, "")
    assert not small_models


def test_a_tokenizer_of_the_hub(tmp_path):
    """Only where there are texts."""
    text = {"context_length": 8, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1}
    text["hf_tokenizer_name"] = "bert-base-uncased"
    register_clip(tmp_path, "agssp-tokenizer", text_cfg=text)
    load_clip("agssp-tokenizer", "")
    with pytest.raises(
        FileNotFoundError, match=r"tokenizer .*'bert-base-uncased' .*ALLOW_DOWNLOAD"
    ):
        load_tokenizer("agssp-tokenizer")


# ---- weights that do not fit ---------------------------------------------------------------------


def test_weights_of_another_model(weights, tmp_path):
    register_clip(tmp_path, "agssp-narrow", embed_dim=32)
    with pytest.raises(ValueError, match=r"into open_clip's 'agssp-narrow'.*size mismatch.*MODEL"):
        load_clip("agssp-narrow", str(weights))
    other = tmp_path / "resnet.pt"
    torch.save({"fc.weight": torch.zeros(3)}, other)
    with pytest.raises(ValueError, match=r"Missing key.*AGSSP\.SCORER\.KEAD\.MODEL"):
        load_clip(NAME, str(other))


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
@pytest.mark.parametrize("kind", ["half", "garbage", "empty", "no_dict", "empty_dict", "text"])
def test_damaged_files(weights, tmp_path, kind, suffix):
    path = tmp_path / f"damaged.{suffix}"
    whole = weights.read_bytes()
    content = {"half": whole[: len(whole) // 2], "garbage": bytes(range(7, 256)) * 9, "empty": b""}
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == "text":
        path.write_text("<html>404: not found</html>")
    else:
        torch.save({} if kind == "empty_dict" else [1, 2], path)
    with pytest.raises(ValueError, match=r"damaged\.\w+' cannot be loaded .* Is the file whole"):
        load_clip(NAME, str(path))


@pytest.mark.parametrize(
    ("model", "tag", "message"),
    [
        ("ViT-B-16", "openai", r"with QuickGELU, but .* has GELU\. Set .*MODEL .*'-quickgelu'"),
        ("agssp-quickgelu", "e1", r"with GELU, but .* has QuickGELU\. .*choose another tag: e1"),
    ],
)
def test_activation_that_does_not_fit(model, tag, message, tmp_path, monkeypatch):
    register_clip(tmp_path, "agssp-quickgelu", quick_gelu=True)
    # No shipped tag errs this way round.
    tags = {"agssp-quickgelu": {"e1": {"url": "none"}}}
    monkeypatch.setattr(
        open_clip.pretrained, "_PRETRAINED", open_clip.pretrained._PRETRAINED | tags
    )
    with pytest.raises(ValueError, match=message):
        load_clip(model, tag, allow_download=True)


def test_activation_that_fits(downloads, small_models):
    load_clip("ViT-B-16-quickgelu", "openai", allow_download=True)
    load_clip("ViT-B-16", "laion400m_e32", allow_download=True)
    assert len(small_models) == 2


# ---- pixels --------------------------------------------------------------------------------------


def test_pixel_statistics_are_the_weights(downloads, small_models, weights, caplog):
    """Not always OpenAI's; a file has those that all tags of its model share."""
    openai = (0.48145466, 0.4578275, 0.40821073)
    halves = (0.5, 0.5, 0.5)

    def mean(*arguments):
        return tuple(load_clip(*arguments, allow_download=True).visual.image_mean)

    assert mean(PAPER, "laion400m_e32") == openai
    assert mean("ViT-L-14", "laion2b_s32b_b82k") == halves
    assert mean("ViT-L-14-CLIPA", str(weights)) == (0.485, 0.456, 0.406)
    assert mean(NAME, str(weights)) == openai
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger=clip_model.__name__):
        assert mean("ViT-L-14", str(weights)) == openai
    assert "different pixel means" in caplog.text
