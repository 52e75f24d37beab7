"""Weight files in float16: what they hold, and Detectron2 without this package on them."""

import subprocess
import sys

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from detectron2_agssp.checkpoint import export_backbone, load_weights
from detectron2_agssp.checkpoint.half import write_half
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from tests.child_process import run_script
from tests.docs.blocks import read_blocks
from tests.tiny_models import ROOT, SMALL_R50, SMALL_TIMM, make_cfg, make_model, randomize

SMALL_MOBILE = {**SMALL_TIMM, "AGSSP.TIMM.MODEL": "mobilenetv3_small_050"}
DETECTORS = {
    "stock": ("agdp/faster_rcnn_R50_fpn.yaml", SMALL_R50),
    "timm": ("agdp/faster_rcnn_lite0_fpn.yaml", SMALL_MOBILE),
}
WITHOUT_AGSSP = """
import sys
sys.modules["detectron2_agssp"] = None
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
BACKBONE
cfg = get_cfg()
cfg.merge_from_file("plain.yaml")
model = build_model(cfg).eval()
DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
torch.save(model.state_dict(), "loaded.pth")
found, = model([{"image": torch.zeros(3, 64, 96)}])
assert found["instances"].image_size == (64, 96)
"""


@pytest.fixture(scope="module", params=DETECTORS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def trained(kind, tmp_path_factory):
    """A detector of AGDP, one class, all of whose tensors have numbers of their own, and the
    checkpoint that a training leaves."""
    folder = tmp_path_factory.mktemp("agdp")
    model = make_model(*DETECTORS[kind])
    randomize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpointer = CheckedCheckpointer(model, str(folder), optimizer=optimizer)
    checkpointer.save("model_final", iteration=7)
    return model, folder / "model_final.pth"


def documented_backbone() -> str:
    """What docs/zoo.md gives to those who have timm and not this package, on a smaller model."""
    (block,) = (
        block
        for block in read_blocks(ROOT / "docs" / "zoo.md")
        if block.argument == "timm_backbone.py"
    )
    return block.text.replace("tf_efficientnet_lite0", SMALL_MOBILE["AGSSP.TIMM.MODEL"])


def rounded(weights):
    return {
        name: tensor.half().float() if tensor.dim() > 1 else tensor
        for name, tensor in weights.items()
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_a_detector_is_its_weights_and_its_record_alone(trained, tmp_path):
    model, checkpoint = trained
    made = write_half(checkpoint, tmp_path / "deep" / "detector.pth")
    content = torch.load(made.path, weights_only=True)
    assert content.keys() == {"model", "matching_heuristics", "__author__", "agssp"}
    assert content["matching_heuristics"] is False
    assert content["agssp"] == torch.load(checkpoint, weights_only=True)["agssp"]
    state = model.state_dict()
    assert content["model"].keys() == state.keys()
    for name, tensor in content["model"].items():
        assert tensor.dtype == (torch.float16 if state[name].dim() > 1 else state[name].dtype)
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # not a view of a larger one
    assert made.halved == sum(tensor.dim() > 1 for tensor in state.values())
    assert made.halved + made.kept == len(state)
    assert made.size == made.path.stat().st_size
    # Of 16 bits a number, and some hundred bytes a tensor.
    numbers = sum(tensor.nbytes for tensor in content["model"].values())
    assert numbers < made.size < numbers + 600 * len(state) + 10_000


def test_a_backbone_has_bare_names(trained, tmp_path):
    model, checkpoint = trained
    whole = export_backbone(model, tmp_path / "whole.pth")
    expected = rounded(torch.load(whole, weights_only=True)["model"])
    for source in (checkpoint, whole):
        made = write_half(source, tmp_path / "backbone.pth", backbone=True)
        content = torch.load(made.path, weights_only=True)
        assert content["matching_heuristics"] is True
        assert content["agssp"]["settings"]["backbone"]
        found = {name: tensor.to(expected[name].dtype) for name, tensor in content["model"].items()}
        assert_same(found, expected)


@pytest.mark.parametrize("part", ["detector", "backbone"])
def test_detectron2_loads_it_without_this_package(kind, trained, tmp_path, part):
    model, checkpoint = trained
    write_half(checkpoint, tmp_path / "half.pth", backbone=part == "backbone")
    cfg = make_cfg(*DETECTORS[kind], {"MODEL.WEIGHTS": str(tmp_path / "half.pth")})
    if kind == "timm":
        cfg.MODEL.BACKBONE.NAME = "build_plain_lite0_fpn_backbone"
    del cfg["AGSSP"]
    (tmp_path / "plain.yaml").write_text(cfg.dump())
    code = WITHOUT_AGSSP.replace("BACKBONE", documented_backbone() if kind == "timm" else "")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    loaded = torch.load(tmp_path / "loaded.pth")
    expected = rounded(model.state_dict())
    if part == "backbone":
        prefix = "backbone.bottom_up."
        expected = {name: of for name, of in expected.items() if name.startswith(prefix)}
        loaded = {name: loaded[name] for name in loaded if name.startswith(prefix)}
    # A batch norm that trains counts batches; a fixed one has nothing to count.
    loaded = {name: of for name, of in loaded.items() if not name.endswith("batches_tracked")}
    assert_same(loaded, expected)


def test_our_own_loading_counts_it_as_complete(kind, trained, tmp_path):
    model, checkpoint = trained
    made = write_half(checkpoint, tmp_path / "half.pth")
    loaded = make_model(*DETECTORS[kind], seed=1)
    parts = load_weights(loaded, made.path, complete=True)
    assert [of.missing for of in parts.values()] == [(), (), ()]
    assert_same(loaded.state_dict(), rounded(model.state_dict()))


def test_what_float16_cannot_hold_stays(tmp_path):
    weights = {
        "large": torch.tensor([[1e5, 1.0]]),
        "small": torch.tensor([[0.1, 1.0]]),
        "bias": torch.tensor([0.1]),
        "count": torch.tensor([[3]]),
    }
    torch.save({"model": weights}, tmp_path / "model.pth")
    made = write_half(tmp_path / "model.pth", tmp_path / "half.pth")
    content = torch.load(made.path, weights_only=True)
    assert "agssp" not in content
    kinds = {name: tensor.dtype for name, tensor in content["model"].items()}
    assert kinds == {**{name: of.dtype for name, of in weights.items()}, "small": torch.float16}
    assert (made.halved, made.kept) == (1, 3)
    assert torch.equal(content["model"]["large"], weights["large"])


def test_errors(tmp_path):
    source, target = tmp_path / "model.pth", tmp_path / "half.pth"
    torch.save({"model": {"weight": torch.tensor([[1.0, float("nan")]])}}, source)
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 tensors, such as weight.*diverged"):
        write_half(source, target)
    with pytest.raises(ValueError, match="does not record which of its weights are the backbone's"):
        write_half(source, target, backbone=True)
    with pytest.raises(ValueError, match=r"must end in \.pth.*half\.pkl"):
        write_half(source, tmp_path / "half.pkl")
    with pytest.raises(FileNotFoundError, match=r"nosuch\.pth"):
        write_half(tmp_path / "nosuch.pth", target)
    assert not target.exists()


def test_the_tool(tmp_path):
    model = make_model(*DETECTORS["timm"])
    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    source, target = tmp_path / "model_final.pth", tmp_path / "backbone.pth"
    tool = ROOT / "tools" / "half_weights.py"
    done = run_script(tool, source, target, "--backbone", output=tmp_path)
    assert (done.code, done.stdout[:6]) == (0, "Wrote "), done.stderr
    assert str(target) in done.stdout
    assert torch.load(target, weights_only=True)["matching_heuristics"] is True
    done = run_script(tool, tmp_path / "nosuch.pth", target, output=tmp_path)
    assert done.code == 2
    assert done.stderr.startswith("error: There is no weight file")
    assert done.stderr.count("\n") == 1
