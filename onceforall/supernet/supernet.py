"""The once-for-all network: it owns the largest network's weights and lends them.

`lend` is the one rule by which a sub-network gets its weights: leading channels,
first blocks of a stage, and depthwise kernels cut from the centre of the largest and
transformed (paper, section 3.3). Training runs the ordinary network of an arch on lent
weights; extraction copies them; so both compute the same.

In training, batch norm uses the statistics of the batch and leaves the supernet's
running statistics alone: statistics of one sub-network mean nothing to another. A
sub-network gets its own by `calibration` after `extract`, which is the one path to an
accuracy. The statistics that a supernet does hold (those of a published checkpoint)
are lent like every other tensor. This file knows no training loop and no files.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from onceforall.families import Family, block_name
from onceforall.families.layers import Elastic, Layer, init_weights, owning
from onceforall.space import Arch, Space


class SuperNet(nn.Module):
    """All sub-networks of a family in one set of weights.

    `network` is the largest network; `transforms` holds, for each depthwise convolution
    whose kernel is elastic, the matrices from one kernel size to the next smaller:
    `transforms["stage1_block1_7to5"]` is (25, 25), identity at the start.
    """

    def __init__(self, family: Family, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.family = family
        self.network = family.build(family.space.largest())
        init_weights(self.network, generator)
        self.transforms = nn.ParameterDict()
        for s, stage in enumerate(family.space.stages):
            for b in range(stage.blocks):
                for large, small in zip(stage.kernel[:0:-1], stage.kernel[-2::-1], strict=True):
                    matrix = nn.Parameter(torch.empty(small * small, small * small))
                    if not matrix.is_meta:  # where it would load torch's compiler, for seconds
                        nn.init.eye_(matrix)
                    self.transforms[f"{block_name(s, b)}_{large}to{small}"] = matrix
        self._skeletons: dict[tuple[str, Layer], nn.Module] = {}  # on the meta device: no weights

    @property
    def space(self) -> Space:
        return self.family.space

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """(N, C, H, W) -> (N, classes): what the sub-network `arch` computes with lent weights."""
        skeleton = self.skeleton(arch)
        skeleton.train(self.training)
        return functional_call(skeleton, self.lend(skeleton), (x,))

    def skeleton(self, arch: Arch) -> nn.Sequential:
        """The network of an arch without weights; each layer of each place is built once."""
        modules = OrderedDict()
        for place in self.family.plan(arch).items():
            if place not in self._skeletons:
                with torch.device("meta"):
                    module = place[1].build()
                for norm in module.modules():
                    if isinstance(norm, nn.BatchNorm2d):
                        norm.track_running_stats = False  # batch statistics, and no update
                self._skeletons[place] = module
            modules[place[0]] = self._skeletons[place]
        return nn.Sequential(modules)

    def lend(self, network: nn.Module) -> dict[str, Tensor]:
        """The slice of the supernet's tensors that belongs to each tensor of `network`.

        Differentiable: gradients of a lent tensor arrive in the slice it was lent from.
        """
        owned = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        wanted = [*network.named_parameters(), *network.named_buffers()]
        return {name: self._slice(name, owned[name], tensor.shape) for name, tensor in wanted}

    def _slice(self, name: str, source: Tensor, shape: torch.Size) -> Tensor:
        for dim, size in enumerate(shape[:2]):  # channels
            if size != source.shape[dim]:
                source = source.narrow(dim, 0, size)
        if source.dim() == 4 and source.shape[-1] != shape[-1]:
            source = self._smaller_kernel(name.split(".", 1)[0], source, shape[-1])
        return source

    def _smaller_kernel(self, block: str, kernel: Tensor, size: int) -> Tensor:
        """Goes down one kernel size after the other: crop the centre, then a matrix shared by the
        channels. The 3x3 is cropped from the transformed 5x5."""
        stage = next(
            s for i, s in enumerate(self.space.stages) if block.startswith(f"stage{i + 1}_")
        )
        for large, small in zip(stage.kernel[:0:-1], stage.kernel[-2::-1], strict=True):
            if large <= size:
                break
            matrix = self.transforms[f"{block}_{large}to{small}"]
            kernel = center_crop(kernel, small)
            kernel = F.linear(kernel.flatten(2), matrix).view(*kernel.shape[:2], small, small)
        return kernel

    def extract(self, arch: Arch) -> nn.Sequential:
        """The ordinary network of `arch`, owning a copy of its weights. Calibrate it before use."""
        skeleton = self.skeleton(arch)
        own = {name: tensor.detach().clone() for name, tensor in self.lend(skeleton).items()}
        network = owning(skeleton, own)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.track_running_stats = True
        return network.train(self.training)

    @torch.no_grad()
    def sort_channels(self, formed: int = 1, widths: int = 1) -> None:
        """Sorts the hidden channels of every block by importance, so that smaller expand ratios
        keep the most important ones; the largest network computes what it did before.

        Args:
            formed: how many expand ratios of each stage, from its largest down, are in use so far.
                The bands between them have been trained as such, and their channels stay within
                their band (paper, section 3.3 and the authors' code), so that all sub-networks of
                these ratios compute what they did before.
            widths: how many widths of each stage are in use so far, from the largest down. Hidden
                channels are counted from a block's width, so each has bands of its own.

        The channels inside a squeeze-excite have no bands, as in the authors' code: there the
        sub-networks of smaller ratios do change a little.
        """
        for s, stage in enumerate(self.space.stages):
            for b in range(stage.blocks):
                block = self.network.get_submodule(block_name(s, b))
                if not isinstance(block, Elastic):
                    continue
                tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
                for group in block.channel_groups():
                    edges = self._formed(s, b, formed, widths) if group.elastic else ()
                    weight, dim = group.importance
                    others = [d for d in range(tensors[weight].dim()) if d != dim]
                    importance = tensors[weight].abs().sum(others)
                    order = importance_order(importance, edges)
                    for member, dim in group.members:
                        tensors[member].copy_(tensors[member].index_select(dim, order))

    def _formed(self, s: int, b: int, ratios: int, widths: int) -> set[int]:
        """Numbers of hidden channels that a block has at the largest ratios and widths."""
        stage, before = self.space.stages[s], self.space.stages[s - 1]
        entering = before.width[-widths:] if s else (self.family.stem_width,)
        formed = set()
        for width in stage.width[-widths:]:
            for width_in in (width,) if b else entering:
                at = self.family.block(s, b, stage.kernel[-1], stage.expand[-1], width_in, width)
                with torch.device("meta"):
                    block = at.build()
                assert isinstance(block, Elastic)
                formed |= {block.hidden_channels(ratio) for ratio in stage.expand[-ratios:]}
        return formed


def center_crop(kernel: Tensor, size: int) -> Tensor:
    """(..., K, K) -> (..., size, size)"""
    start = (kernel.shape[-1] - size) // 2
    return kernel[..., start : start + size, start : start + size]


def importance_order(importance: Tensor, edges: Collection[int]) -> Tensor:
    """Indices that sort `importance` descending, each band between `edges` within itself."""
    bounds = sorted({0, len(importance), *edges})
    return torch.cat(
        [
            low + torch.argsort(importance[low:high], descending=True, stable=True)
            for low, high in itertools.pairwise(bounds)
        ]
    )
