"""DINO's transformer (Zhang et al., ICLR 2023): an encoder of tokens, the choice of queries among
them, and a decoder that refines boxes.

Shapes: N images, S tokens, Q queries, D channels, C classes. Boxes are x, y of the centre, width
and height, as shares of the image's.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectron2_agssp.modeling.detectors.deformable_attention import DeformableAttention
from detectron2_agssp.modeling.detectors.dino_tokens import Tokens, sine_embedding

# Of boxes before they are refined: width and height at the finest level, doubled at each further.
SMALLEST_BOX = 0.05
# Shares are kept so far from 0 and 1 before their logit is taken: of boxes that are read, and of
# those that the next layer starts from.
MARGIN, START_MARGIN = 1e-5, 1e-3
# Tokens whose middle is nearer to the image's edge, as a share of its side, are not chosen.
EDGE = 0.01


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    Attributes:
        content: (N, Q, D).
        boxes: (N, Q, 4).
        groups: (Q,) int64; a query sees group 0 and its own.
        valid: (N, Q) bool; others fill a batch up, and no query but themselves sees them.
    """

    content: Tensor
    boxes: Tensor
    groups: Tensor
    valid: Tensor

    def mask(self) -> Tensor:
        """(N, 1, Q, Q) bool: whether a query (row) sees another."""
        same = (self.groups == 0) | (self.groups[:, None] == self.groups)
        place = torch.arange(self.groups.shape[0], device=self.groups.device)
        itself = place == place[:, None]
        return ((same & self.valid[:, None]) | itself)[:, None]


def inverse_sigmoid(shares: Tensor, margin: float = MARGIN) -> Tensor:
    """Logits of shares in [0, 1]."""
    return (shares.clamp(min=margin) / (1 - shares).clamp(min=margin)).log()


def perceptron(*channels: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inside, outside in pairwise(channels):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class FeedForward(nn.Module):
    """Two linear layers, added to what comes in, and a norm."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.layers = perceptron(dim, hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, content: Tensor) -> Tensor:
        return self.norm(content + self.layers(content))


class SelfAttention(nn.Module):
    """Of queries among each other, added to what comes in, and a norm; values have no position."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(dim, 2 * dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, content: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(N, Q, D) twice, and (N, 1, Q, Q) bool: whether a query (row) sees another."""
        parts = (*self.query_key(content + positions).chunk(2, dim=-1), self.value(content))
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.norm(content + self.output(seen.transpose(1, 2).flatten(2)))


class EncoderLayer(nn.Module):
    """Deformable attention among tokens, and a feed-forward part."""

    def __init__(self, dim: int, hidden: int, **attention: int):
        super().__init__()
        self.attention = DeformableAttention(dim=dim, **attention)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden)

    def forward(self, content: Tensor, tokens: Tokens) -> Tensor:
        """(N, S, D) -> (N, S, D)."""
        seen = self.attention(
            content + tokens.positions,
            content,
            tokens.valid,
            tokens.shapes,
            tokens.scales,
            tokens.centers,
        )
        return self.feed_forward(self.norm(content + seen))


class DecoderLayer(nn.Module):
    """Attention among queries, deformable attention to tokens, and a feed-forward part."""

    def __init__(self, dim: int, hidden: int, *, num_heads: int, **attention: int):
        super().__init__()
        self.self_attention = SelfAttention(dim, num_heads)
        self.attention = DeformableAttention(dim=dim, num_heads=num_heads, **attention)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden)

    def forward(
        self,
        content: Tensor,
        positions: Tensor,
        mask: Tensor,
        boxes: Tensor,
        memory: Tensor,
        tokens: Tokens,
    ) -> Tensor:
        """(N, Q, D) -> (N, Q, D); ``memory`` (N, S, D) is the encoder's output."""
        content = self.self_attention(content, positions, mask)
        seen = self.attention(
            content + positions, memory, tokens.valid, tokens.shapes, tokens.scales, boxes
        )
        return self.feed_forward(self.norm(content + seen))


class Transformer(nn.Module):
    """Encoder, decoder, and the branches that read classes and boxes from their outputs: one of
    each per decoder layer, and one for the choice of queries.

    Args:
        dim, feedforward_dim: D, and the channels between two linear layers.
        num_heads, num_levels, num_points: of deformable attention.
        num_queries: of the decoder, denoising apart; fewer where images have fewer tokens.
        num_encoder_layers, num_decoder_layers: at least one decoder layer.
        num_classes: C.
        prior_prob: score of every class before training, in (0, 1).
    """

    def __init__(
        self,
        *,
        dim: int,
        feedforward_dim: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        num_queries: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        num_classes: int,
        prior_prob: float,
    ):
        super().__init__()
        sizes = {"num_heads": num_heads, "num_levels": num_levels, "num_points": num_points}
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, feedforward_dim, **sizes) for _ in range(num_encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(dim, feedforward_dim, **sizes) for _ in range(num_decoder_layers)
        )
        self.choice = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.content = nn.Embedding(num_queries, dim)
        self.position = perceptron(2 * dim, dim, dim)
        self.norm = nn.LayerNorm(dim)
        branches = range(num_decoder_layers + 1)
        self.class_branches = nn.ModuleList(nn.Linear(dim, num_classes) for _ in branches)
        self.box_branches = nn.ModuleList(perceptron(dim, dim, dim, 4) for _ in branches)
        self._initialize(prior_prob)

    def _initialize(self, prior_prob: float) -> None:
        for module in self.modules():
            # Deformable attention has its own start.
            if isinstance(module, FeedForward | SelfAttention):
                for child in module.modules():
                    if isinstance(child, nn.Linear):
                        nn.init.xavier_uniform_(child.weight)
                        nn.init.zeros_(child.bias)
        prior = torch.tensor(prior_prob).logit().item()
        for branch in self.class_branches:
            nn.init.constant_(branch.bias, prior)
        for branch in self.box_branches:
            # Boxes start as they are.
            nn.init.zeros_(branch[-1].weight)
            nn.init.zeros_(branch[-1].bias)

    def encode(self, tokens: Tokens) -> Tensor:
        """(N, S, D)."""
        content = tokens.content
        for layer in self.encoder:
            content = layer(content, tokens)
        return content

    def choose(self, memory: Tensor, tokens: Tokens) -> tuple[Queries, Tensor, Tensor]:
        """The queries: the tokens with the best class score, of those whose middle lies on the
        image and not at its very edge; their boxes are where decoding starts, their contents are
        learned ones.

        Args:
            memory: (N, S, D), the encoder's output.

        Returns:
            queries, and the logits (N, Q, C) and boxes (N, Q, 4) of the choice, which learn.
        """
        inside = (tokens.centers > EDGE) & (tokens.centers < 1 - EDGE)
        eligible = tokens.valid & inside.all(dim=-1)
        encoded = self.choice(memory.masked_fill(~eligible[..., None], 0))
        logits = self.class_branches[-1](encoded).float()
        best = logits.detach().amax(dim=-1).masked_fill(~eligible, -torch.inf)
        number, most = best.shape[1], self.content.num_embeddings
        # Not min, which a traced model would keep as the number of one image.
        number = number.clamp(max=most) if isinstance(number, Tensor) else min(number, most)
        chosen = best.topk(number, dim=1).indices
        sizes = [
            tokens.centers.new_full((height * width, 2), SMALLEST_BOX * 2**level)
            for level, (height, width) in enumerate(tokens.shapes)
        ]
        around = torch.cat([tokens.centers, torch.cat(sizes).expand_as(tokens.centers)], dim=-1)
        deltas = self.box_branches[-1](_rows(encoded, chosen)).float()
        boxes = (deltas + inverse_sigmoid(_rows(around, chosen))).sigmoid()
        queries = Queries(
            self.content.weight[:number].expand(len(memory), -1, -1),
            boxes.detach(),
            torch.zeros(number, dtype=torch.int64, device=memory.device),
            eligible.gather(1, chosen),
        )
        return queries, _rows(logits, chosen), boxes

    def decode(self, queries: Queries, memory: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (layers, N, Q, C) and boxes (layers, N, Q, 4).

        A layer's box is refined by the next one, which sees it without gradient; its loss reaches
        back to the layer before (look forward twice).
        """
        content, reference, before = queries.content, queries.boxes, queries.boxes
        mask, channels = queries.mask(), content.shape[-1] // 2
        all_logits, all_boxes = [], []
        for index, layer in enumerate(self.decoder):
            # y before x, as published weights have it.
            places = sine_embedding(reference[..., [1, 0, 2, 3]], channels)
            content = layer(content, self.position(places), mask, reference, memory, tokens)
            normed, branch = self.norm(content), self.box_branches[index]
            all_logits.append(self.class_branches[index](normed).float())
            all_boxes.append((branch(normed).float() + inverse_sigmoid(before)).sigmoid())
            # What the next layer starts from is read without the norm, as in DINO's own code.
            start = inverse_sigmoid(reference, START_MARGIN)
            before = (branch(content).float() + start).sigmoid()
            reference = before.detach()
        return torch.stack(all_logits), torch.stack(all_boxes)


def _rows(tensor: Tensor, indices: Tensor) -> Tensor:
    """(N, S, K), (N, Q) -> (N, Q, K)."""
    return tensor.gather(1, indices[..., None].expand(-1, -1, tensor.shape[-1]))
