"""Whether a supernet of any network keeps what it promises, on random archs of many families.

    python benchmarks/any_network.py [FAMILY ...] [--archs 112] [--exported 3] [--out FILE]

Families of ours, and networks of timm and torchvision that `elastic` makes families of
(`elastic_networks.py`), with random weights, norms and statistics. Of each arch:

- bit-equal: the supernet in training mode gives what the extracted network gives, bit for bit;
- gradients: they arrive in what was lent, as they do in the extracted network, and nowhere else;
- own network: the library's own network of that shape, by its own constructor
  (`own_networks.py`), takes the extracted weights by `load_state_dict(strict=True)` and gives the
  same; how many to the bit, and the largest difference as a share of the largest output.

Of a few archs: the largest difference of the ONNX file's output, as a share of the largest. And
of the largest network: groups of channels that are sorted or refused, and how much sorting
changed its output, as a share of the largest. Exits with 1 where anything does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import figures
import numpy as np
import torch
from elastic_networks import FAMILIES as BUILDERS
from own_networks import own_network
from torch import Tensor, nn

from onceforall import families
from onceforall.export import export
from onceforall.families import Family
from onceforall.families.base import Planned
from onceforall.progress import say
from onceforall.space import Arch
from onceforall.supernet import SuperNet
from onceforall.supernet.inference import infer
from onceforall.supernet.sorting import groups_of
from onceforall.testing import check_lending

BATCH = 2  # images
OWN_DIFFERENCE = 1e-5  # at most, as a share of the largest output: of layers of another code
SORTED_DIFFERENCE = 1e-4  # likewise: sums are in another order

get = families.get
MAKERS: dict[str, Callable[[], Family]] = {  # at sizes at which a CPU has 112 of them in minutes
    "mbv3_mini": partial(get, "mbv3_mini"),
    "ofa_mbv3_w1.0": partial(get, "ofa_mbv3_w1.0", resolutions=(48, 64)),
    "ofa_resnet50": partial(get, "ofa_resnet50", resolutions=(48, 64)),
    "efficientnet_lite0": partial(get, "efficientnet_lite0", resolutions=(48, 64)),
    "vit": partial(get, "vit", resolutions=(32, 48, 64), heads=(3, 4, 5, 6)),
    "autoformer_t": partial(get, "autoformer_t", resolutions=(32, 48, 64)),
    **{name: partial(make, resolution=(48, 64)) for name, (make, _) in BUILDERS.items()},
    "torchvision_vit": partial(BUILDERS["torchvision_vit"][0], resolution=64),  # has one size
}


@dataclass
class Row:
    """What held for one family."""

    family: str
    archs: int = 0
    lent_equally: int = 0  # archs whose output is the extracted network's
    gradients: int = 0
    own: list[float] = field(default_factory=list)  # differences, as shares
    onnx: list[float] = field(default_factory=list)
    groups: int = 0
    refused: tuple[str, ...] = ()
    sorted_by: float = 0.0  # difference, as a share
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """As a row of the table."""
        equal = sum(difference == 0 for difference in self.own)
        return {
            **{name: getattr(self, name) for name in SHOWN},
            "own": f"{len(self.own)} ({equal} to the bit)" if self.own else "none",
            "own_by": max(self.own, default=None),
            "onnx": max(self.onnx, default=None),
            "refused": len(self.refused),
        }


SHOWN = ("family", "archs", "lent_equally", "gradients", "groups", "sorted_by", "seconds")
COLUMNS = {
    "family": "{family}",
    "archs": "{archs}",
    "bit-equal": "{lent_equally}",
    "gradients": "{gradients}",
    "own network equal": "{own}",
    "by": "{own_by:.0e}",
    "ONNX": "{onnx:.0e}",
    "groups sorted / refused": "{groups} / {refused}",
    "largest, sorted": "{sorted_by:.0e}",
}


def randomise(network: nn.Module, seed: int) -> None:
    """Fresh norms, biases and tokens compute nothing of their own: values that no two channels
    share, so that a channel lent from the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            last = name.rpartition(".")[2]
            if not tensor.is_floating_point():
                continue
            if last == "running_var" or (tensor.dim() == 1 and last in ("weight", "gamma")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() == 1 or not last.endswith("weight") or not tensor.any():
                tensor.normal_(0, 0.1, generator=generator)  # biases, means, tokens; zeros


def share(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest output."""
    return float((got - wanted).abs().max() / wanted.abs().max())


def checked(family: Family, archs: int, exported: int, seed: int = 0) -> Row:
    """What holds for so many random archs of a family."""
    start, row = time.perf_counter(), Row(family.name)
    supernet = SuperNet(family, torch.Generator().manual_seed(seed))
    randomise(supernet.network, seed)
    population = family.space.sample(np.random.default_rng(seed), archs)
    generator = torch.Generator().manual_seed(seed)
    for number, arch in enumerate(family.space.decode(population)):
        shape = (BATCH, family.in_channels, arch.resolution, arch.resolution)
        x = torch.randn(shape, generator=generator)
        row.archs += 1
        _check_lending(row, supernet, arch, x)
        extracted = supernet.eval().extract(arch)
        _check_own(row, family, arch, extracted, x)
        if number < exported:
            _check_onnx(row, arch, extracted, x)
    _check_sorting(row, supernet)
    row.seconds = time.perf_counter() - start
    return row


def _check_lending(row: Row, supernet: SuperNet, arch: Arch, x: Tensor) -> None:
    try:
        check_lending(supernet, arch, x)
    except AssertionError as error:
        row.faults.append(str(error))
        row.lent_equally += "gradient" in str(error)
    else:
        row.lent_equally += 1
        row.gradients += 1


@torch.no_grad()
def _check_own(row: Row, family: Family, arch: Arch, extracted: nn.Module, x: Tensor) -> None:
    own = own_network(family, arch, extracted)
    if own is None:
        return
    row.own.append(share(extracted(x), own(x)))
    if not row.own[-1] <= OWN_DIFFERENCE:
        row.faults.append(f"{arch}: {row.own[-1]:.1e} from the library's own network")


@torch.no_grad()
def _check_onnx(row: Row, arch: Arch, extracted: nn.Module, x: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = export(extracted, tuple(x.shape[1:]), Path(folder) / "network.onnx")
        except Exception as error:  # whatever an exporter raises is a fault of this arch
            row.faults.append(
                f"ONNX: {type(error).__name__}: {error}".splitlines()[0] + f" ({arch})"
            )
        else:
            row.onnx.append(done.max_abs_diff / float(extracted(x).abs().max()))


@torch.no_grad()
def _check_sorting(row: Row, supernet: SuperNet) -> None:
    family = supernet.family
    largest = family.space.largest()
    x = torch.randn((BATCH, family.in_channels, largest.resolution, largest.resolution))
    before = supernet.eval()(x, largest)
    row.groups = len(groups_of(family))
    if not isinstance(family, Planned):
        row.refused = infer(family).unsorted
    weights = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.sort_channels()
    row.sorted_by = share(supernet(x, largest), before)
    if not row.sorted_by <= SORTED_DIFFERENCE:
        row.faults.append(f"{largest}: sorting changed it by {row.sorted_by:.1e}")
    if all(torch.equal(t, weights[n]) for n, t in supernet.state_dict().items()):
        row.faults.append(f"{family.name}: sorting moved nothing")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=list(MAKERS), metavar="FAMILY")
    parser.add_argument("--archs", type=int, default=112, help="of each family")
    parser.add_argument("--exported", type=int, default=3, help="of these, written as ONNX")
    figures.add_option(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table, faults = figures.Table(COLUMNS), []
    for name in options.families:
        row = checked(MAKERS[name](), options.archs, options.exported)
        table.add(**row.shown())
        for text in (*row.refused, *row.faults):
            say(f"{name}: {text}")
        faults += row.faults
    figures.write(options.out, {"any-network": table}, "torchvision", "timm", "onnxruntime")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
