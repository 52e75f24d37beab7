"""mmyolo's YOLOv8: outputs equal those of a second implementation under its names."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from detectron2_agssp.checkpoint.loading import load_weights
from detectron2_agssp.checkpoint.openmmlab import convert_checkpoint, convert_openmmlab
from detectron2_agssp.checkpoint.openmmlab_detector import convert_detector
from detectron2_agssp.checkpoint.openmmlab_files import convert_file
from detectron2_agssp.cli.main import main
from tests.tiny_models import make_model, randomize

STEM, WIDTHS, DEPTHS, CLASSES, BOX_WIDTH = 16, (32, 64, 128, 256), (1, 2, 2, 1), 6, 24
NANO = ("finetune/yolo_cspdarknet_n.yaml", {"AGSSP.YOLO.BOX_CHANNELS": BOX_WIDTH})


class ConvModule(nn.Module):
    def __init__(self, into, out, kernel=1, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width, identity):
        super().__init__()
        self.conv1, self.conv2 = ConvModule(width, width, 3), ConvModule(width, width, 3)
        self.identity = identity

    def forward(self, x):
        out = self.conv2(self.conv1(x))
        return x + out if self.identity else out


class CSPLayer(nn.Module):
    def __init__(self, into, out, depth, identity):
        super().__init__()
        self.main_conv = ConvModule(into, out)
        self.blocks = nn.ModuleList(Bottleneck(out // 2, identity) for _ in range(depth))
        self.final_conv = ConvModule((2 + depth) * out // 2, out)

    def forward(self, x):
        out = self.main_conv(x)
        kept = torch.split(out, out.shape[1] // 2, dim=1)[1]
        for block in self.blocks:
            kept = block(kept)
            out = torch.cat((out, kept), 1)
        return self.final_conv(out)


class Pooling(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.conv2 = ConvModule(width, width // 2), ConvModule(2 * width, width)

    def forward(self, x):
        x = self.conv1(x)
        windows = [x] + [F.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13)]
        return self.conv2(torch.cat(windows, 1))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = ConvModule(3, STEM, 3, 2)
        widths = (STEM, *WIDTHS)
        for stage, depth in enumerate(DEPTHS, start=1):
            into, out = widths[stage - 1 : stage + 1]
            layers = [ConvModule(into, out, 3, 2), CSPLayer(out, out, depth, True)]
            layers += [Pooling(out)] if stage == 4 else []
            self.add_module(f"stage{stage}", nn.Sequential(*layers))

    def forward(self, x):
        outs = [self.stem(x)]
        for stage in range(1, 5):
            outs.append(self.get_submodule(f"stage{stage}")(outs[-1]))
        return outs[1:]


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        c3, c4, c5 = WIDTHS[1:]
        layers = [CSPLayer(c5 + c4, c4, 1, False), CSPLayer(c4 + c3, c3, 1, False)]
        self.top_down_layers = nn.ModuleList(layers)
        self.downsample_layers = nn.ModuleList(ConvModule(c, c, 3, 2) for c in (c3, c4))
        layers = [CSPLayer(c3 + c4, c4, 1, False), CSPLayer(c4 + c5, c5, 1, False)]
        self.bottom_up_layers = nn.ModuleList(layers)

    def forward(self, c3, c4, c5):
        def doubled(x):
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

        middle = self.top_down_layers[0](torch.cat((doubled(c5), c4), 1))
        outs = [self.top_down_layers[1](torch.cat((doubled(middle), c3), 1))]
        for level, high in enumerate((middle, c5)):
            low = self.downsample_layers[level](outs[-1])
            outs.append(self.bottom_up_layers[level](torch.cat((low, high), 1)))
        return outs


class HeadModule(nn.Module):
    def __init__(self):
        super().__init__()
        branches = {"cls_preds": (WIDTHS[1], CLASSES), "reg_preds": (BOX_WIDTH, 64)}
        for name, (width, out) in branches.items():
            levels = [
                nn.Sequential(
                    ConvModule(c, width, 3), ConvModule(width, width, 3), nn.Conv2d(width, out, 1)
                )
                for c in WIDTHS[1:]
            ]
            self.add_module(name, nn.ModuleList(levels))
        self.register_buffer("proj", torch.arange(16.0))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck = Backbone(), Neck()
        self.bbox_head = nn.Module()
        self.bbox_head.head_module = HeadModule()


@pytest.fixture(scope="module")
def theirs():
    model = Detector().eval()
    randomize(model)
    return model


@torch.no_grad()
def test_detector_computes_the_same(theirs, tmp_path):
    torch.save({"meta": {}, "state_dict": theirs.state_dict()}, tmp_path / "mm.pth")
    assert convert_file(tmp_path / "mm.pth", tmp_path / "d2.pth").backbone == "cspdarknet YOLO"
    model = make_model(*NANO, seed=1).eval()
    load_weights(model, tmp_path / "d2.pth", complete=True)
    images = torch.rand(2, 3, 64, 96)
    features = theirs.backbone(images)
    for ours, expected in zip(model.backbone.bottom_up(images).values(), features, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    levels = theirs.neck(*features[1:])
    for ours, expected in zip(model.backbone(images).values(), levels, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    logits, bins = model.head(levels)
    head, start = theirs.bbox_head.head_module, 0
    for level, (cls_pred, reg_pred) in enumerate(zip(head.cls_preds, head.reg_preds, strict=True)):
        scores, sides = cls_pred(levels[level]), reg_pred(levels[level])
        for row in range(scores.shape[2]):
            points = slice(start, start + scores.shape[3])
            close = {"rtol": 1e-4, "atol": 1e-4}
            torch.testing.assert_close(logits[:, points], scores[:, :, row].mT, **close)
            torch.testing.assert_close(bins[:, points].flatten(2), sides[:, :, row].mT, **close)
            start += scores.shape[3]
    assert start == logits.shape[1]


def test_backbone_of_a_classifier(theirs, tmp_path):
    """As AGBP's release leaves it: with a linear head, in half precision."""
    state = {f"backbone.{name}": t.half() for name, t in theirs.backbone.state_dict().items()}
    state["head.fc.weight"] = torch.zeros(2, WIDTHS[-1])
    conversion = convert_checkpoint({"state_dict": state, "optimizer": {"state": {}}})
    assert (conversion.backbone, conversion.missing) == ("cspdarknet", [])
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert sorted(conversion.left_out) == sorted([*counters, "head.fc.weight"])
    assert {tensor.dtype for tensor in conversion.weights.values()} == {torch.float32}
    model = make_model("agbp/cspdarknet_n.yaml", {"AGSSP.PRETEXT.NAME": ""})
    model.backbone.load_state_dict(conversion.weights, strict=False)
    own = model.backbone.state_dict()
    assert {name for name in own if "num_batches" not in name} == conversion.weights.keys()


def test_what_is_left_out_and_missing_is_said(theirs, tmp_path, capsys):
    state = {name: t for name, t in theirs.state_dict().items() if ".stage4." not in name}
    state["ema_backbone_stem_conv_weight"] = state["backbone.stem.conv.weight"]
    source = tmp_path / "mm.pth"
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, source)
    main(["convert", str(source), str(tmp_path / "d2.pth")])
    printed = capsys.readouterr().out
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert f"Left out: {counters} num_batches_tracked, 1 bbox_head, 1 ema\n" in printed
    assert "Missing: backbone.bottom_up.res5\n" in printed


def test_widths_of_the_head_are_named(theirs, tmp_path, caplog):
    torch.save(theirs.state_dict(), tmp_path / "mm.pth")
    convert_file(tmp_path / "mm.pth", tmp_path / "d2.pth")
    DetectionCheckpointer(make_model(NANO[0])).load(str(tmp_path / "d2.pth"))
    assert "AGSSP.YOLO.BOX_CHANNELS: 24" in caplog.text
    record = torch.load(tmp_path / "d2.pth", weights_only=True)["agssp"]
    assert record["settings"]["neck"] == {"AGSSP.PAFPN.OUT_CHANNELS": list(WIDTHS[1:])}
    assert (record["pixel_mean"], record["pixel_std"]) == ([0.0] * 3, [255.0] * 3)


def test_blocks_with_a_second_branch_are_refused(theirs):
    state = theirs.backbone.state_dict()
    state["stage1.1.short_conv.conv.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"YOLOv5's and YOLOX's.*only YOLOv8's.*AGBP"):
        convert_openmmlab(state)


def test_a_part_without_a_counterpart_is_named(theirs):
    state = theirs.state_dict()
    state["neck.reduce_layers.2.conv.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"No counterpart.*neck\.reduce_layers"):
        convert_detector(state)
