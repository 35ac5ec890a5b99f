"""Networks of timm and torchvision, which nobody wrote for it, as families: what
`benchmarks/any_network.py` measures on many archs, on few."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

pytest.importorskip("timm")

import torch
from any_network import BATCH, OWN_DIFFERENCE, SORTED_DIFFERENCE, randomise, share
from elastic_networks import FAMILIES
from own_networks import own_network

from onceforall.families.elastic import Elastic
from onceforall.supernet import SuperNet
from onceforall.supernet.inference import infer
from onceforall.testing import check_family

SIZE = 48  # pixels


@lru_cache
def family_of(name: str) -> Elastic:
    sizes = 48 if name == "torchvision_vit" else (48, 64)
    return FAMILIES[name][0](resolution=sizes)


def kept(family: Elastic, elastic: str) -> Elastic:
    """The family with only one kind of gene elastic; all others have their smallest choice."""
    fixed = {g.name: g.values[:1] for g in family.space.genes if g.kind != elastic}
    return replace(family, space=family.space.restrict(**fixed))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_contract_and_the_librarys_own_network(name: str) -> None:
    family = family_of(name)
    check_family(family, archs=2, resolution=SIZE)
    supernet = SuperNet(family)
    randomise(supernet.network, seed=0)
    for arch in (family.space.smallest(), family.space.largest()):
        extracted = supernet.extract(arch).eval()
        own = own_network(family, arch, extracted)
        assert own is not None
        x = torch.randn((BATCH, 3, arch.resolution, arch.resolution))
        with torch.no_grad():
            assert extracted(x).std() > 0.01  # or any two would be equal
            assert share(extracted(x), own(x)) <= OWN_DIFFERENCE, str(arch)


SORTED = {  # of each family: the kind of gene that stays elastic, and how many groups it makes
    "timm_efficientnet": ("expand4", 2),  # hidden channels of two blocks
    "timm_convnext": ("width", 9),  # four streams of residuals, and the MLPs of five blocks
    "timm_resnet": ("width3", 7),  # a stream of residuals, two inside each of three blocks
    "torchvision_regnet": ("width3", 7),
    "torchvision_swin": ("mlp", 5),  # of five blocks
    "torchvision_vit": ("mlp", 4),
}


@pytest.mark.parametrize("name", SORTED)
def test_sorting_is_proved(name: str) -> None:
    """With all of its groups found, the largest network stays what it was."""
    elastic, groups = SORTED[name]
    family = kept(family_of(name), elastic)
    found = infer(family)
    assert (len(found.groups), found.unsorted) == (groups, ())
    supernet = SuperNet(family)
    randomise(supernet.network, seed=0)
    largest = family.space.largest()
    x = torch.randn((BATCH, 3, SIZE, SIZE))
    supernet.eval()
    with torch.no_grad():
        before = supernet(x, largest)
        weights: dict[str, Any] = {n: t.clone() for n, t in supernet.network.state_dict().items()}
        supernet.sort_channels()
        assert share(supernet(x, largest), before) <= SORTED_DIFFERENCE
    for group in found.groups:
        axis = group.axes[0]
        assert not torch.equal(supernet.network.state_dict()[axis.tensor], weights[axis.tensor])
