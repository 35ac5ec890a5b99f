"""Lending, extraction, kernel transforms, channel sorting."""

import itertools

import numpy as np
import pytest
import torch
from planned_families import PLANNED

from onceforall import families
from onceforall.errors import InputError
from onceforall.families.layers import init_weights, make_divisible
from onceforall.families.lending import center_crop
from onceforall.families.resnet import ResNet
from onceforall.space import Space, Stage
from onceforall.supernet import SuperNet
from onceforall.supernet.sorting import importance_order
from onceforall.testing import check_family, check_lending
from onceforall.training import PhasePlan, curriculum


def perturbed(supernet: SuperNet) -> SuperNet:
    """With transforms and batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    for tensor in supernet.state_dict().values():
        if tensor.is_floating_point() and tensor.dim() < 4:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    return supernet


@pytest.mark.parametrize("name", PLANNED)
def test_every_family_keeps_the_contract(name: str) -> None:
    check_family(families.get(name, classes=7), archs=4, resolution=64)


def test_supernet_equals_extracted_bit_for_bit_on_100_archs() -> None:
    family = families.get("mbv3_mini", in_channels=1)
    supernet = perturbed(SuperNet(family, torch.Generator().manual_seed(0)))
    rng = np.random.default_rng(0)
    for arch in family.space.decode(family.space.sample(rng, 110)):
        x = torch.randn((4, 1, arch.resolution, arch.resolution))
        check_lending(supernet, arch, x)


def test_training_forward_leaves_running_statistics_alone() -> None:
    supernet = SuperNet(families.get("mbv3_mini", resolutions=[16])).train()
    before = {n: b.clone() for n, b in supernet.named_buffers()}
    supernet(torch.randn((4, 3, 16, 16)), supernet.space.smallest())
    for name, buffer in supernet.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_kernel_transform_by_hand() -> None:
    """One channel of a 7x7 kernel down to 5x5 and 3x3, with matrices that double and that shift."""
    family = families.get("ofa_mbv3_w1.0", classes=2, resolutions=[32])
    supernet = SuperNet(family)
    space = family.space
    weight = supernet.network.get_submodule("stage1_block1").depthwise.conv.weight  # type: ignore[union-attr]
    with torch.no_grad():
        weight[0, 0] = torch.arange(49.0).view(7, 7)
        supernet.transforms["stage1_block1_7to5"].copy_(2 * torch.eye(25))
        shift = torch.zeros(9, 9)  # each output is the next input
        shift[torch.arange(8), torch.arange(1, 9)] = 1
        supernet.transforms["stage1_block1_5to3"].copy_(shift)

    def kernel(size: int) -> torch.Tensor:
        arch = space.restrict(kernel=(size,)).largest()
        net = supernet.extract(arch)
        return net.get_submodule("stage1_block1").depthwise.conv.weight[0, 0]  # type: ignore[union-attr]

    grid = np.arange(49.0).reshape(7, 7)
    five = 2 * grid[1:6, 1:6]
    assert np.array_equal(kernel(7).detach(), grid)
    assert np.array_equal(kernel(5).detach(), five)
    three = np.append(five[1:4, 1:4].ravel()[1:], 0).reshape(3, 3)
    assert np.array_equal(kernel(3).detach(), three)


def test_sorting_keeps_the_largest_network_and_orders_by_importance() -> None:
    family = families.get("mbv3_mini", in_channels=1)
    supernet = perturbed(SuperNet(family, torch.Generator().manual_seed(3))).double()
    largest = family.space.largest()
    x = torch.randn((4, 1, 28, 28), dtype=torch.float64)
    before = supernet.eval()(x, largest)
    supernet.sort_channels()
    assert torch.allclose(supernet(x, largest), before, rtol=1e-10)
    for name in ("stage1_block1", "stage2_block2", "stage3_block3"):
        project = supernet.network.get_submodule(name).project.conv.weight  # type: ignore[union-attr]
        importance = project.abs().sum((0, 2, 3))
        assert (importance.diff() <= 0).all(), name
    small = supernet.extract(family.space.restrict(expand=(2,)).largest())
    kept = small.get_submodule("stage2_block2").project.conv.weight  # type: ignore[union-attr]
    whole = supernet.network.get_submodule("stage2_block2").project.conv.weight  # type: ignore[union-attr]
    assert torch.equal(kept, whole[:, : kept.shape[1]])


def test_formed_bands_keep_their_places() -> None:
    importance = torch.tensor([1.0, 5, 3, 9, 2, 8])
    assert importance_order(importance, []).tolist() == [3, 5, 1, 2, 4, 0]
    # the first 3 were a width of their own: they stay in front, whatever came after
    assert importance_order(importance, [3]).tolist() == [1, 2, 0, 3, 5, 4]


def small_resnet() -> ResNet:
    """Like `ofa_resnet50`: a stem without expand ratios, then bottlenecks with three. Hidden
    channels are round(width x ratio) to a multiple of 8: of 160, 32, 40 and 56; of 96, 16 (19.2
    rounded), 24 and 32 (33.6); of 240, 48, 64 (60) and 88 (84); of 192, 40 (38.4), 48, 64 (67.2).
    """
    expand = (0.2, 0.25, 0.35)
    stages = (
        Stage((1, 2), (3,), (1,), (16,)),
        Stage((1,), (3,), (1,), (32,)),
        Stage((1, 2), (3,), expand, (96, 160)),
        Stage((1, 2), (3,), expand, (192, 240)),
    )
    space = Space.of_stages("ofa_resnet50", (32,), stages)
    return ResNet(space=space, stem_width=3, in_channels=3, classes=5)


HIDDEN = ((32, 40, 56), (48, 64, 88))  # at the larger width of each stage of bottlenecks, by hand


def tag(supernet: SuperNet) -> dict[str, torch.Tensor]:
    """The biases of the norms of each bottleneck's hidden channels, numbered: where they went."""
    tags = {}
    for name, tensor in supernet.network.state_dict(keep_vars=True).items():
        if name.endswith(("conv1.norm.bias", "conv2.norm.bias")):
            with torch.no_grad():
                tensor.copy_(torch.arange(len(tensor)))
            tags[name] = tensor
    return tags


def test_bands_of_every_stage_are_kept_by_later_sorts() -> None:
    """Through both expand phases of progressive shrinking: the first sort mixes all channels, the
    second keeps those of the two ratios in use by then within their bands."""
    supernet = SuperNet(small_resnet(), torch.Generator().manual_seed(2))
    plans = [PhasePlan(name, 1, 0.1, expand=n) for n, name in enumerate("abc", 1)]
    _, first, second = curriculum(supernet.space, plans).phases
    for seed, phase, bands in ((3, first, 1), (4, second, 2)):
        init_weights(supernet.network, torch.Generator().manual_seed(seed))  # as if trained
        tags = tag(supernet)
        assert len(tags) == 8  # two norms in two blocks of two stages
        supernet.sort_channels(**phase.sort_channels)  # type: ignore[arg-type]
        for name, places in tags.items():
            edges = [0, *HIDDEN[int(name[5]) - 3][-bands:]]
            for low, high in itertools.pairwise(edges):
                found = places[low:high].int().tolist()
                assert sorted(found) == list(range(low, high)), (phase.name, name)
                assert found != list(range(low, high)), (phase.name, name)


@pytest.mark.parametrize(("formed", "widths"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_sorting_leaves_the_opened_space_as_it_was(formed: int, widths: int) -> None:
    supernet = perturbed(SuperNet(small_resnet(), torch.Generator().manual_seed(3))).double()
    supernet.eval()
    x = torch.randn((2, 3, 32, 32), dtype=torch.float64)
    opened = supernet.space.top(expand=formed, width=widths)
    archs = opened.decode(opened.sample(np.random.default_rng(0), 40))
    before = [supernet(x, arch) for arch in archs]
    weights = {n: t.clone() for n, t in supernet.state_dict().items()}
    supernet.sort_channels(expand=formed, width=widths)
    assert any(not torch.equal(weights[n], t) for n, t in supernet.state_dict().items())
    for arch, was in zip(archs, before, strict=True):
        torch.testing.assert_close(supernet(x, arch), was, rtol=1e-10, atol=1e-12)


def test_foreign_archs_are_refused() -> None:
    supernet = SuperNet(families.get("mbv3_mini"))
    arch = families.get("ofa_mbv3_w1.0").space.smallest()
    for use in (supernet.extract, lambda a: supernet(torch.zeros((1, 3, 28, 28)), a)):
        with pytest.raises(InputError, match="ofa_mbv3"):
            use(arch)
    odd = supernet.space.smallest().at(33)
    assert supernet.extract(odd).eval()(torch.zeros((1, 3, 33, 33))).shape == (1, 10)


def test_extracted_network_owns_its_weights() -> None:
    supernet = SuperNet(families.get("mbv3_mini"))
    network = supernet.extract(supernet.space.smallest())
    before = {n: p.clone() for n, p in supernet.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    for name, parameter in supernet.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 8), (12, 16), (30, 32), (33, 32), (72, 72), (11.9, 16), (60, 64)]
)
def test_make_divisible_by_hand(value: float, expected: int) -> None:
    assert make_divisible(value) == expected


def test_center_crop() -> None:
    grid = torch.arange(25.0).view(1, 1, 5, 5)
    assert center_crop(grid, 3).flatten().tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
