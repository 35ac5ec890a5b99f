"""The once-for-all network: it owns the largest network's weights and lends them.

`lend` is the one way by which a sub-network gets its weights, by the table of rules in
`families.lending`: leading channels, first blocks of a stage, kernels cut from the centre of
the largest and transformed (paper, section 3.3), whole heads. Training runs the ordinary
network of an arch on lent weights; extraction copies them; so both compute the same.

In training, batch norm uses the statistics of the batch and leaves the supernet's
running statistics alone: statistics of one sub-network mean nothing to another. A
sub-network gets its own by `calibration` after `extract`, which is the one path to an
accuracy. The statistics that a supernet does hold (those of a published checkpoint)
are lent like every other tensor. This file knows no training loop and no files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from onceforall.families import Family, lending
from onceforall.families.base import Planned
from onceforall.families.layers import owning
from onceforall.space import Arch, Space
from onceforall.supernet import sorting, start

LATEST = 32  # networks without weights that are kept, where the family has no plan


class SuperNet(nn.Module):
    """All sub-networks of a family in one set of weights.

    `network` is the largest network; `transforms` holds, for each depthwise convolution
    whose kernel is elastic, the matrices from one kernel size to the next smaller:
    `transforms["stage1_block1_7to5"]` is (25, 25), identity at the start.
    """

    def __init__(
        self,
        family: Family,
        generator: torch.Generator | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """With `weights`, a state dict of the largest network, that network computes exactly what
        the network they are from computes; without, they are fresh.

        Raises:
            InputError: weights that are not the largest network's; names the first.
        """
        super().__init__()
        self.family = family
        self.network = family.fresh(family.space.largest(), generator)
        if weights is not None:
            start.load(self.network, weights)
        self.transforms = nn.ParameterDict()
        for name, sizes in family.kernels.items():
            kernel = self.network.get_parameter(name).dim() - 2  # dimensions
            for large, small in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
                entries = small**kernel
                matrix = nn.Parameter(torch.empty(entries, entries))
                if not matrix.is_meta:  # where it would load torch's compiler, for seconds
                    nn.init.eye_(matrix)
                self.transforms[f"{family.transform_key(name)}_{large}to{small}"] = matrix
        self._skeletons: dict[Hashable, nn.Module] = {}  # on the meta device: no weights
        self._layers: dict[nn.Module, list[lending.Place]] = {}  # of a plan, among them
        self._owned: dict[str, lending.Place] | None = None  # of the network, since `train`
        self._rules: dict[tuple[str, type[nn.Module]], lending.Rule | None] = {}

    @property
    def space(self) -> Space:
        return self.family.space

    def __repr__(self) -> str:
        own = list(self.network.parameters())
        weights = sum(p.numel() for p in own) / 1e6
        place = f" on {own[0].device}" if own else ""
        return f"SuperNet({self.family!r}, {weights:.2f}M parameters{place})"

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """(N, C, H, W) -> (N, classes): what the sub-network `arch` computes with lent weights."""
        skeleton = self.skeleton(arch)
        skeleton.train(self.training)
        return functional_call(skeleton, self.lend(skeleton), (x,))

    def skeleton(self, arch: Arch) -> nn.Module:
        """The network of an arch without weights; each layer of each place, or where the family
        has no plan each of the latest networks, is built once."""
        if isinstance(self.family, Planned):
            places = self.family.plan(arch).items()
            return nn.Sequential(OrderedDict((p[0], self._blank(p, p[1].build)) for p in places))
        found = self._blank(arch, lambda: self.family.blank(arch))
        while len(self._skeletons) > LATEST:
            del self._skeletons[next(iter(self._skeletons))]
        return found

    def _blank(self, key: Hashable, build: Callable[[], nn.Module]) -> nn.Module:
        if key not in self._skeletons:
            with torch.device("meta"):
                module = build()
            for norm in module.modules():
                if isinstance(norm, _BatchNorm):
                    norm.track_running_stats = False  # batch statistics, and no update
            self._skeletons[key] = module
            if isinstance(self.family, Planned):
                self._layers[module] = lending.places(module, key[0])  # type: ignore[index]
        return self._skeletons[key]

    def train(self, mode: bool = True) -> SuperNet:
        """As of any module; modules of the network may have been replaced before it."""
        self._owned = None
        return super().train(mode)

    def lend(self, network: nn.Module) -> dict[str, Tensor]:
        """The part of the supernet's tensors that belongs to each tensor of `network`.

        Differentiable: gradients of a lent tensor arrive in the part it was lent from.
        """
        if self._owned is None:
            self._owned = {place.name: place for place in lending.places(self.network)}
        lent: dict[str, Tensor] = {}
        of: dict[int, Tensor] = {}  # tied tensors are lent once, and stay tied
        for place in self._places(network):
            name, tensor = place.name, place.tensor
            if id(tensor) not in of:
                own = self._owned[name]
                source = own.tensor
                if source.shape != tensor.shape:
                    smaller = partial(self._smaller_kernel, name)
                    site = lending.Site(name, place.module, own.module, tensor.shape, smaller)
                    source = self._lend(source, site)
                of[id(tensor)] = source
            lent[name] = of[id(tensor)]
        return lent

    def _places(self, network: nn.Module) -> list[lending.Place]:
        """Of a network's tensors; a skeleton's layers have been looked through already."""
        layers = list(network.children())
        if not layers or not all(layer in self._layers for layer in layers):
            return lending.places(network)
        return [place for layer in layers for place in self._layers[layer]]

    def _lend(self, source: Tensor, site: lending.Site) -> Tensor:
        key = (site.name, type(site.module))
        if key not in self._rules:
            self._rules[key] = lending.rule_for(site.name, site.module, self.family.rules)
        return lending.lend(source, site, self._rules[key])

    def _smaller_kernel(self, name: str, kernel: Tensor, size: int) -> Tensor:
        """Goes down one kernel size after the other: crop the centre, then a matrix shared by the
        channels. The 3x3 is cropped from the transformed 5x5."""
        sizes = self.family.kernels[name]
        for large, small in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
            if large <= size:
                break
            matrix = self.transforms[f"{self.family.transform_key(name)}_{large}to{small}"]
            kernel = lending.center_crop(kernel, small)
            kernel = F.linear(kernel.flatten(2), matrix).view(kernel.shape)
        return kernel

    def borrowed(self, arch: Arch) -> list[nn.Parameter]:
        """The parameters that a step on this arch can give gradients to."""
        names = {name for name, _ in self.skeleton(arch).named_parameters(remove_duplicate=False)}
        own = [p for name, p in self.network.named_parameters() if name in names]
        return [*own, *self.transforms.values()]

    def extract(self, arch: Arch) -> nn.Module:
        """The ordinary network of `arch`, owning a copy of its weights. Calibrate it before use."""
        skeleton = self.skeleton(arch)
        lent = self.lend(skeleton)
        copies = {id(tensor): tensor.detach().clone() for tensor in lent.values()}
        own = {name: copies[id(tensor)] for name, tensor in lent.items()}
        if isinstance(self.family, Planned):
            network: nn.Module = owning(skeleton, own)
            for norm in network.modules():
                if isinstance(norm, _BatchNorm):
                    norm.track_running_stats = True
        else:  # built as its author builds it: it may keep what a copy of its modules would miss
            with torch.random.fork_rng(devices=[]):
                network = self.family.build(arch)
            _give(network, own)
        return network.train(self.training)

    def sort_channels(self, **formed: int) -> None:
        """Sorts channels, and whole heads, by importance, so that smaller sub-networks keep the
        most important ones; the largest network computes what it did before.

        Args:
            formed: how many choices of each kind of gene, from the largest down, are in use so
                far, one where it is not named. The bands between their channels have been trained
                as such, and channels stay within their band (paper, section 3.3 and the authors'
                code), so that all sub-networks of these choices compute what they did before.

        The channels inside a squeeze-excite of our blocks have no bands, as in the authors' code:
        there the sub-networks of smaller ratios do change a little.
        """
        sorting.sort(self.network, sorting.groups_of(self.family), formed)


def _give(network: nn.Module, own: Mapping[str, Tensor]) -> None:
    """Puts tensors in the place of a network's own; what is tied stays tied."""
    parameters: dict[int, nn.Parameter] = {}
    for name, module, _ in lending.named_tensors(network):
        tensor, last = own[name], name.rpartition(".")[2]
        if last in module._buffers:
            module._buffers[last] = tensor
            continue
        asked = module._parameters[last].requires_grad  # type: ignore[union-attr]
        module._parameters[last] = parameters.setdefault(
            id(tensor), nn.Parameter(tensor, requires_grad=asked)
        )
