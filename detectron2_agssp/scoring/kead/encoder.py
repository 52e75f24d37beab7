"""V-V attention beside the ordinary blocks of an open_clip vision transformer (KeAD).

Shapes: N images, h x w patches, L = 1 + h * w tokens (the class token first), C channels of the
transformer, A attention heads, D channels of the embedding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VVAttentionEncoder(nn.Module):
    """Patch embeddings whose attention compares values with values (AGSSP, section on KeAD; the
    dual path of CLIP Surgery, Li et al. 2023).

    In each of the last ``num_vv_blocks`` blocks a local path runs beside the ordinary one. Its
    attention uses the ordinary path's values as queries and keys too, and it skips the MLP:

        local <- local + out_proj(softmax(V V^T / sqrt(d)) V)

    starting from the ordinary path. Without the residual, each block's term replaces the local
    path. The transformer's modules are used as they are; nothing is copied or changed.

    Args:
        visual: an ``open_clip`` ``VisionTransformer`` (a CLIP model's ``visual``).
        feature_layers: blocks, counted from 1, whose local path is given out; in that order,
            repeats allowed. [3, 12, 12, 12] is what the published code computes: its in-place sum
            makes the layers after the first one tensor. A block before the first V-V block gives
            the ordinary path.
        num_vv_blocks: blocks with a local path, counted from the end.
        residual: the local path accumulates.

    Raises:
        ValueError: ``visual`` is not such a transformer, or a layer is out of range.
    """

    def __init__(
        self,
        visual: nn.Module,
        feature_layers: Sequence[int] = (3, 6, 9, 12),
        num_vv_blocks: int = 9,
        residual: bool = True,
    ):
        super().__init__()
        check_visual(visual)
        depth = len(visual.transformer.resblocks)
        if not feature_layers or not all(1 <= layer <= depth for layer in feature_layers):
            raise ValueError(
                "AGSSP.SCORER.KEAD.FEATURE_LAYERS must be one or more of the blocks 1 to "
                f"{depth}, got {list(feature_layers)}."
            )
        if not 0 <= num_vv_blocks <= depth:
            raise ValueError(
                f"AGSSP.SCORER.KEAD.NUM_VV_BLOCKS must be in 0 to {depth} (the transformer's "
                f"depth), got {num_vv_blocks}."
            )
        self.visual = visual
        self.feature_layers = tuple(feature_layers)
        self.first_vv_block = depth - num_vv_blocks
        self.residual = residual

    @property
    def patch_size(self) -> tuple[int, int]:
        return tuple(self.visual.patch_size)

    @property
    def embedding_size(self) -> int:
        """D."""
        return self.visual.proj.shape[1]

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encodes preprocessed images.

        Args:
            images: (N, 3, H, W), normalised by CLIP's mean and standard deviation. Sizes other
                than the weights' own interpolate the position table; they must be multiples of
                the patch size.

        Returns:
            ``image_embedding`` (N, D), CLIP's own; and a ``patch_embedding`` (N, 1 + h*w, D) per
            feature layer, after the final norm and the projection, not normalised. float32.

        Raises:
            ValueError: the images are smaller than a patch, or no multiple of it.
        """
        visual = self.visual
        tokens = self._embed(images.to(visual.conv1.weight.dtype))
        local = None
        features = {}
        for index, block in enumerate(visual.transformer.resblocks):
            if index >= self.first_vv_block:
                # The local path of the first V-V block starts from the ordinary one.
                start = tokens if local is None else local
                tokens, value_term = _dual_attention(block, tokens)
                local = start + value_term if self.residual else value_term
            else:
                tokens = block(tokens)
            if index + 1 in self.feature_layers:
                features[index + 1] = tokens if local is None else local
        pooled, _ = visual._pool(tokens)
        embeddings = {layer: self._project(visual.ln_post(x)) for layer, x in features.items()}
        return self._project(pooled), [embeddings[layer] for layer in self.feature_layers]

    def _embed(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> tokens (N, L, C) as they enter the first block."""
        visual = self.visual
        height, width = images.shape[-2:]
        patch_height, patch_width = visual.patch_size
        if height < patch_height or width < patch_width:
            raise ValueError(
                f"Images of {height} x {width} pixels are smaller than one patch of {patch_height} "
                f"x {patch_width}. Raise AGSSP.SCORER.IMAGE_SIZE."
            )
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"Images of {height} x {width} pixels do not divide into patches of {patch_height} "
                f"x {patch_width}. Make AGSSP.SCORER.IMAGE_SIZE a multiple."
            )
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        grid = (height // patch_height, width // patch_width)
        positions = resize_positions(visual.positional_embedding, visual.grid_size, grid)
        return visual.ln_pre(tokens + positions.to(tokens.dtype))

    def _project(self, tokens: Tensor) -> Tensor:
        return (tokens @ self.visual.proj).float()


def _dual_attention(block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """One block on ``tokens`` (N, L, C): its output, and the V-V term of the local path.

    Both attentions share one projection to queries, keys and values.
    """
    attention = block.attn
    heads = attention.num_heads
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        # (N, L, C) -> (N, A, L, C / A); sizes in full, or a batch of none would be ambiguous.
        part.unflatten(2, (heads, part.shape[2] // heads)).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    )
    ordinary = F.scaled_dot_product_attention(query, key, value)
    local = F.scaled_dot_product_attention(value, value, value)
    merged = torch.stack([ordinary, local]).transpose(2, 3).flatten(3)
    ordinary, local = block.ls_1(attention.out_proj(merged)).unbind()
    tokens = tokens + ordinary
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens))), local


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position table (1 + h*w, C) from the grid ``old`` to ``new``, bicubic; the class token's
    row stays."""
    if tuple(old) == tuple(new):
        return table
    grid = table[1:].float().unflatten(0, old).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T.to(table.dtype)])


def check_visual(visual: nn.Module) -> None:
    """Raises ValueError unless ``visual`` is an open_clip VisionTransformer that V-V attention can
    run through."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    needed = ("conv1", "class_embedding", "positional_embedding", "ln_post", "proj")
    missing = [name for name in needed if getattr(visual, name, None) is None]
    if blocks is None or missing:
        raise ValueError(
            f"{type(visual).__name__} is not an open_clip VisionTransformer (it lacks "
            f"{missing or 'transformer.resblocks'}). Choose a ViT of open_clip for "
            "AGSSP.SCORER.KEAD.MODEL, such as ViT-B-16-plus-240; not a timm, ResNet or ConvNeXt "
            "one."
        )
    if getattr(visual, "attn_pool", None) is not None:
        raise ValueError(
            "The vision transformer pools by attention (CoCa), so its patches have no place in the "
            "text space. Choose another AGSSP.SCORER.KEAD.MODEL, such as ViT-B-16-plus-240."
        )
    odd = {type(b.attn).__name__ for b in blocks if not isinstance(b.attn, nn.MultiheadAttention)}
    if odd:
        raise ValueError(
            f"The transformer's attention is {sorted(odd)}; V-V attention needs "
            "torch.nn.MultiheadAttention. Choose another AGSSP.SCORER.KEAD.MODEL, such as "
            "ViT-B-16-plus-240."
        )
