"""mmdet's DINO: outputs equal those of a second implementation under its names."""

import math

import pytest
import torch
import torchvision
from torch import nn

from detectron2_agssp.checkpoint.loading import load_weights
from detectron2_agssp.checkpoint.openmmlab_detector import convert_detector
from detectron2_agssp.checkpoint.openmmlab_files import convert_file
from tests.tiny_models import R18, make_model

DIM, HIDDEN, HEADS, POINTS, LEVELS, QUERIES, CLASSES, ENCODERS, DECODERS = (
    64,
    48,
    8,
    4,
    4,
    12,
    3,
    2,
    3,
)
DETECTOR = (
    "finetune/dino_R50.yaml",
    R18,
    {
        "AGSSP.DINO.HIDDEN_DIM": DIM,
        "AGSSP.DINO.FEEDFORWARD_DIM": HIDDEN,
        "AGSSP.DINO.ENCODER_LAYERS": ENCODERS,
        "AGSSP.DINO.DECODER_LAYERS": DECODERS,
        "AGSSP.DINO.NUM_QUERIES": QUERIES,
        "AGSSP.DINO.NUM_CLASSES": CLASSES,
    },
)


def named(**modules: nn.Module) -> nn.Module:
    """A module of these names."""
    parent = nn.Module()
    for name, module in modules.items():
        parent.add_module(name, module)
    return parent


def listed(count: int, make) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(count))


def conv_module(into: int, kernel: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(into, DIM, kernel, stride, kernel // 2, bias=False)
    return named(conv=conv, gn=nn.GroupNorm(32, DIM))


def deformable() -> nn.Module:
    return named(
        sampling_offsets=nn.Linear(DIM, 2 * HEADS * LEVELS * POINTS),
        attention_weights=nn.Linear(DIM, HEADS * LEVELS * POINTS),
        value_proj=nn.Linear(DIM, DIM),
        output_proj=nn.Linear(DIM, DIM),
    )


def feed_forward() -> nn.Module:
    first = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.ReLU())
    return named(layers=nn.Sequential(first, nn.Linear(HIDDEN, DIM)))


def encoder_layer() -> nn.Module:
    norms = listed(2, lambda: nn.LayerNorm(DIM))
    return named(self_attn=deformable(), ffn=feed_forward(), norms=norms)


def decoder_layer() -> nn.Module:
    attention = named(attn=nn.MultiheadAttention(DIM, HEADS, batch_first=True))
    norms = listed(3, lambda: nn.LayerNorm(DIM))
    return named(self_attn=attention, cross_attn=deformable(), ffn=feed_forward(), norms=norms)


def box_branch() -> nn.Module:
    linears = nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, 4)
    return nn.Sequential(*linears)


class Detector(nn.Module):
    """On torchvision's ResNet-18, which names its tensors as mmdet does; float64."""

    def __init__(self):
        super().__init__()
        self.backbone = torchvision.models.resnet18()
        del self.backbone.fc
        convs = nn.ModuleList(conv_module(width, 1) for width in (128, 256, 512))
        self.neck = named(convs=convs, extra_convs=nn.ModuleList([conv_module(512, 3, 2)]))
        self.encoder = named(layers=listed(ENCODERS, encoder_layer))
        perceptron = nn.ModuleList([nn.Linear(2 * DIM, DIM), nn.Linear(DIM, DIM)])
        self.decoder = named(
            layers=listed(DECODERS, decoder_layer),
            ref_point_head=named(layers=perceptron),
            norm=nn.LayerNorm(DIM),
        )
        self.level_embed = nn.Parameter(torch.empty(LEVELS, DIM))
        self.query_embedding = nn.Embedding(QUERIES, DIM)
        self.memory_trans_fc = nn.Linear(DIM, DIM)
        self.memory_trans_norm = nn.LayerNorm(DIM)
        self.bbox_head = named(
            cls_branches=listed(DECODERS + 1, lambda: nn.Linear(DIM, CLASSES)),
            reg_branches=listed(DECODERS + 1, box_branch),
        )
        self.dn_query_generator = named(label_embedding=nn.Embedding(CLASSES, DIM))

    def levels(self, images):
        net = self.backbone
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images)))))
        features = []
        for layer in (net.layer2, net.layer3, net.layer4):
            x = layer(x)
            features.append(x)
        pairs = zip([*self.neck.convs, *self.neck.extra_convs], [*features, x], strict=True)
        return [module.gn(module.conv(feature)) for module, feature in pairs]

    def forward(self, images):
        """Logits and boxes of the last layer, of one image."""
        levels = self.levels(images)
        shapes = [tuple(level.shape[-2:]) for level in levels]
        memory = torch.cat([level[0].flatten(1).T for level in levels])
        places, sines = [], []
        for index, (height, width) in enumerate(shapes):
            for row in range(height):
                for column in range(width):
                    y, x = (row + 0.5) / height, (column + 0.5) / width
                    places.append((x, y, 0.05 * 2**index, 0.05 * 2**index))
                    sines.append(sine(y) + sine(x))
        level = torch.cat([torch.full((h * w,), i) for i, (h, w) in enumerate(shapes)])
        positions = torch.tensor(sines).double() + self.level_embed[level]
        places = torch.tensor(places).double()
        for layer in self.encoder.layers:
            seen = attend(layer.self_attn, memory + positions, memory, shapes, places[:, :2])
            memory = layer.norms[0](memory + seen)
            memory = layer.norms[1](memory + layer.ffn.layers(memory))
        inside = ((places > 0.01) & (places < 0.99)).all(dim=1)
        encoded = self.memory_trans_norm(self.memory_trans_fc(memory * inside[:, None]))
        scores = self.bbox_head.cls_branches[-1](encoded).amax(dim=1)
        best = scores.masked_fill(~inside, -torch.inf).topk(QUERIES).indices
        start = logit(places[best], 1e-5) + self.bbox_head.reg_branches[-1](encoded[best])
        reference = before = start.sigmoid()
        content = self.query_embedding.weight
        for index, layer in enumerate(self.decoder.layers):
            rows = [sine(y) + sine(x) + sine(w) + sine(h) for x, y, w, h in reference.tolist()]
            first, second = self.decoder.ref_point_head.layers
            query_pos = second(first(torch.tensor(rows).double()).relu())
            query = (content + query_pos)[None]
            seen = layer.self_attn.attn(query, query, content[None], need_weights=False)[0][0]
            content = layer.norms[0](content + seen)
            seen = attend(layer.cross_attn, content + query_pos, memory, shapes, reference)
            content = layer.norms[1](content + seen)
            content = layer.norms[2](content + layer.ffn.layers(content))
            normed, branch = self.decoder.norm(content), self.bbox_head.reg_branches[index]
            logits = self.bbox_head.cls_branches[index](normed)
            boxes = (branch(normed) + logit(before, 1e-5)).sigmoid()
            reference = before = (branch(content) + logit(reference, 1e-3)).sigmoid()
        return logits, boxes


def sine(share: float) -> list[float]:
    """Of DIM / 2 channels."""
    angles = [2 * math.pi * share / 10_000 ** (2 * k / (DIM / 2)) for k in range(DIM // 4)]
    return [value for angle in angles for value in (math.sin(angle), math.cos(angle))]


def logit(shares, margin):
    return shares.clamp(min=margin).log() - (1 - shares).clamp(min=margin).log()


def attend(module, queries, tokens, shapes, references):
    """Deformable attention, its sums by gathering the four cells round each point."""
    number = len(queries)
    offsets = module.sampling_offsets(queries).view(number, HEADS, LEVELS, POINTS, 2)
    weights = module.attention_weights(queries).view(number, HEADS, -1).softmax(-1)
    weights = weights.view(number, HEADS, LEVELS, POINTS)
    values = module.value_proj(tokens).view(-1, HEADS, DIM // HEADS)
    total, start = torch.zeros(number, HEADS, DIM // HEADS, dtype=torch.float64), 0
    heads = torch.arange(HEADS)[None, :, None]
    for level, (height, width) in enumerate(shapes):
        size = torch.tensor([width, height], dtype=torch.float64)
        own = values[start : start + height * width]
        start += height * width
        if references.shape[1] == 2:
            points = references[:, None, None] + offsets[:, :, level] / size
        else:
            extent = references[:, None, None, 2:] / (2 * POINTS)
            points = references[:, None, None, :2] + offsets[:, :, level] * extent
        x, y = (points * size - 0.5).unbind(-1)
        for column in (x.floor(), x.floor() + 1):
            for row in (y.floor(), y.floor() + 1):
                share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                cells = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
                found = own[cells, heads.expand_as(cells)]
                total = total + (found * (share * there * weights[:, :, level])[..., None]).sum(2)
    return module.output_proj(total.flatten(1))


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = Detector().double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point() and not name.startswith("backbone"):
                noise = torch.randn_like(tensor)
                if tensor.dim() == 1:
                    tensor.add_(noise * 0.1)
                else:
                    tensor.copy_(noise / tensor[0].numel() ** 0.5)
    return model


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 128), (448, 64)])
def test_detector_computes_the_same(theirs, tmp_path, size):
    """Also where middles of cells are nearer to an edge than 1 % of the image."""
    state = {f"module.{name}": tensor.float() for name, tensor in theirs.state_dict().items()}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "mm.pth")
    conversion = convert_file(tmp_path / "mm.pth", tmp_path / "d2.pth")
    assert (conversion.backbone, conversion.missing) == ("resnet DINO", [])
    model = make_model(*DETECTOR, seed=1).eval()
    load_weights(model, tmp_path / "d2.pth", complete=True)
    images = torch.randn(1, 3, *size)
    logits, boxes = theirs(images.double())
    tokens = model.tokenizer(list(model.backbone(images).values()), [size])
    memory = model.transformer.encode(tokens)
    queries, *_ = model.transformer.choose(memory, tokens)
    found = [output[-1, 0].double() for output in model.transformer.decode(queries, memory, tokens)]
    assert logits.std() > 0.1
    assert boxes.std() > 0.05
    torch.testing.assert_close(found[0], logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1], boxes, rtol=1e-3, atol=1e-3)


def test_every_tensor_has_its_place(theirs):
    """And nothing but counters is left out."""
    state = theirs.state_dict()
    conversion = convert_detector(state)
    assert all(name.endswith("num_batches_tracked") for name in conversion.left_out)
    own = make_model(*DETECTOR).state_dict()
    expected = {name: tensor.shape for name, tensor in own.items() if not name.startswith("pixel_")}
    assert {name: tensor.shape for name, tensor in conversion.weights.items()} == expected


def test_settings_are_told(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "mm.pth")
    convert_file(tmp_path / "mm.pth", tmp_path / "d2.pth")
    record = torch.load(tmp_path / "d2.pth", weights_only=True)["agssp"]
    heads = {key: value for key, value in DETECTOR[-1].items() if not key.endswith("CLASSES")}
    assert record["settings"] == {"heads": heads}


def test_what_has_no_counterpart_is_named(theirs):
    """Five scales have a second further level."""
    state = theirs.state_dict()
    state["neck.extra_convs.1.conv.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"No counterpart.*neck\.extra_convs\.1\.conv"):
        convert_detector(state)


def test_parts_that_are_not_there_are_missing(theirs):
    state = {n: t for n, t in theirs.state_dict().items() if not n.startswith("encoder.")}
    assert convert_detector(state).missing == ["transformer.encoder"]


def test_swin_without_the_norm_of_its_first_stage():
    """mmdet's DINO takes the levels from stride 8."""
    names = ["patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"]
    names += [f"norm{index}.weight" for index in (1, 2, 3)]
    state = {f"backbone.{name}": torch.zeros(32) for name in names}
    state["backbone.norm1.weight"], state["backbone.norm2.weight"] = (
        torch.zeros(64),
        torch.zeros(128),
    )
    state["backbone.norm3.weight"] = torch.zeros(256)
    detector = Detector().state_dict()
    state |= {name: t for name, t in detector.items() if not name.startswith("backbone.")}
    conversion = convert_detector(state)
    assert conversion.backbone == "swin DINO"
    assert "backbone.norm0" not in conversion.missing
    assert "backbone.layers.1" in conversion.missing
