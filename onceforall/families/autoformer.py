"""AutoFormer-T's space (Chen et al., ICCV 2021, table 1), and the transformer that it is of.

A vision transformer with heads of 64 whatever the width, and in each block embeddings of relative
positions added to keys and values (Shaw et al., NAACL 2018; iRPE, Wu et al., ICCV 2021). It
classifies the mean of the patches. Written from the papers; the authors' supernet
interleaves queries, keys and values in one matrix and cuts every third row, which is another
order of the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onceforall.families.elastic import Elastic, elastic, per_block
from onceforall.families.vit import check_patches

HEAD = 64  # channels of a head
REACH = 14  # rows or columns; further apart counts as this far


class RelativePositions(nn.Module):
    """An embedding for each pair of tokens: that of how many rows they are apart plus that of how
    many columns. The first entry of each table is for pairs with the class token.

    So it need not be written out for every pair: with rows and columns apart, what is computed
    are products with (N, side, HEAD), not with (N, N, HEAD).
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(2 * REACH + 2, HEAD))
        self.columns = nn.Parameter(torch.empty(2 * REACH + 2, HEAD))
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of side x side patches and the class token, N in all: (N, side, HEAD) for each token
        and row of patches; likewise for each column; and (HEAD,) for the class token."""
        at = torch.arange(side, device=self.rows.device)
        apart = (at - at[:, None]).clamp(-REACH, REACH) + REACH + 1  # (from, to)
        first = (1, side, HEAD)  # the class token's own
        whole = (side, side, side, HEAD)  # (row, column, to, channel)
        rows = self.rows[apart][:, None].expand(whole).flatten(0, 1)
        columns = self.columns[apart][None].expand(whole).flatten(0, 1)
        return (
            torch.cat([self.rows[0].expand(first), rows]),
            torch.cat([self.columns[0].expand(first), columns]),
            self.rows[0] + self.columns[0],
        )


class Attention(nn.Module):
    """Self-attention with relative positions; (N, tokens, width) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * HEAD)
        self.proj = nn.Linear(heads * HEAD, width)
        self.of_keys = RelativePositions()
        self.of_values = RelativePositions()

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        side = int((tokens - 1) ** 0.5)
        square = (n, self.heads, tokens, side, side)
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)

        rows, columns, special = self.of_keys(side)
        scores = q @ k.transpose(-2, -1)  # (N, heads, tokens, tokens)
        by_row = torch.einsum("bhnd,nsd->bhns", q, rows)[..., None]
        by_column = torch.einsum("bhnd,nsd->bhns", q, columns)[..., None, :]
        patches = (by_row + by_column).flatten(3)
        scores = scores + torch.cat([(q @ special)[..., None], patches], dim=-1)
        weights = (scores * HEAD**-0.5).softmax(dim=-1)

        rows, columns, special = self.of_values(side)
        patches = weights[..., 1:].reshape(square)
        y = weights @ v + weights[..., :1] * special
        y = y + torch.einsum("bhns,nsd->bhnd", patches.sum(-1), rows)
        y = y + torch.einsum("bhns,nsd->bhnd", patches.sum(-2), columns)
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, mlp: float) -> None:
        super().__init__()
        hidden = int(width * mlp)
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class AutoFormer(nn.Module):
    """The network; `heads` and `mlp` have one entry a block. (N, C, R, R) -> (N, classes)."""

    def __init__(
        self,
        width: int,
        heads: Sequence[int],
        mlp: Sequence[float],
        resolution: int = 224,
        patch: int = 16,
        in_channels: int = 3,
        classes: int = 1000,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        tokens = (resolution // patch) ** 2 + 1
        self.patch_embed = nn.Conv2d(in_channels, width, patch, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width))
        blocks = (Block(width, h, ratio) for h, ratio in zip(heads, mlp, strict=True))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # (N, patches, width)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        return self.head(self.dropout(x[:, 1:].mean(dim=1)))


@dataclass(frozen=True)
class Build:
    """Builds the network of an arch."""

    patch: int
    dropout: float

    def __call__(
        self,
        *,
        width: int,
        depth: int,
        heads: Sequence[int],
        mlp: Sequence[float],
        resolution: int,
        in_channels: int,
        classes: int,
    ) -> nn.Module:
        sizes = (resolution, self.patch, in_channels, classes, self.dropout)
        return AutoFormer(width, heads, mlp, *sizes)


def tiny(
    name: str = "autoformer_t",
    in_channels: int = 3,
    classes: int = 1000,
    resolutions: Sequence[int] = (224,),
    width: Sequence[int] = (192, 216, 240),
    depth: Sequence[int] = (12, 13, 14),
    heads: Sequence[int] = (3, 4),
    mlp: Sequence[float] = (3.5, 4),
    patch: int = 16,
    dropout: float = 0.0,
) -> Elastic:
    """Supernet-tiny's space; heads and MLP ratio are chosen by each block."""
    check_patches(name, resolutions, patch)
    family = elastic(
        Build(patch, dropout),
        name=name,
        in_channels=in_channels,
        classes=classes,
        resolution=tuple(resolutions),
        width=tuple(width),
        depth=tuple(depth),
        heads=per_block(tuple(heads), max(depth)),
        mlp=per_block(tuple(mlp), max(depth)),
    )
    chosen = {"width": list(width), "depth": list(depth), "heads": list(heads), "mlp": list(mlp)}
    return family.with_origin(chosen | {"patch": patch, "dropout": dropout})
