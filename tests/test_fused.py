"""Fused operations compute what the modules they stand in for compute, and their gradients."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from onceforall import families
from onceforall.families import fused, kernels
from onceforall.families.layers import ConvNormAct, MBConv, owning
from onceforall.supernet import SuperNet

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no compiled kernels here")

SIZES = ((8, 8), (13, 11), (2, 3), (1, 1))


def drawn(block: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In training, with norms that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    return block.to(dtype).train()


def all_of(block: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What a block gives, the gradients of everything that enters it, and its buffers."""
    x = x.clone().requires_grad_()
    y = block(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (y * weights).sum().backward()
    found = {"y": y.detach(), "x": x.grad}
    found |= {n: p.grad for n, p in block.named_parameters()}
    return {**found, **dict(block.named_buffers())}  # type: ignore[arg-type]


def both(block: nn.Module, x: Tensor, patch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    plain = copy.deepcopy(block)
    found = [all_of(block, x)]
    with patch.context() as off:
        off.setenv(kernels.SWITCH, "0")
        found.append(all_of(plain, x))
    return found


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    """By their norms: in float32 one value that rounding puts on the other side of an activation's
    kink has half another gradient."""
    assert a.keys() == b.keys()
    for name, tensor in b.items():
        difference, size = (a[name] - tensor).double().norm(), tensor.double().norm()
        assert difference <= tolerance * (1e-3 + size), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 5e-3)])
@pytest.mark.parametrize(
    ("expand", "se", "act"),
    [(3, True, "h_swish"), (1, False, "relu"), (4, False, "relu6"), (6, True, "relu")],
)
def test_a_block_is_its_modules(
    expand: int,
    se: bool,
    act: str,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float64, as close as PyTorch's own hard sigmoid is, which divides by a float32 6."""
    generator = torch.Generator().manual_seed(0)
    for kernel, stride, same, size in itertools.product((3, 5, 7), (1, 2), (False, True), SIZES):
        out = 24 if kernel == 5 else 16
        block = MBConv(16, out, kernel, expand, stride, act, se, same_padding=same)
        x = torch.randn((5, 16, *size), generator=generator, dtype=dtype)
        close(*both(drawn(block, dtype), x, monkeypatch), tolerance)


@pytest.mark.parametrize("act", ["none", "relu", "relu6", "h_swish"])
@pytest.mark.parametrize("channels", [3, 16, 40])
def test_a_norm_and_its_activation(
    act: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = drawn(ConvNormAct(channels, channels, 3, act=act), torch.float64)
    x = 1000 + torch.randn((3, channels, 7, 5), dtype=torch.float64)  # far from zero
    close(*both(block, x, monkeypatch), 1e-9)


def count(patch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels called from here on."""
    calls: list[str] = []
    call = kernels.call

    def noted(name: str, *rest: object) -> None:
        calls.append(name)
        call(name, *rest)  # type: ignore[arg-type]

    patch.setattr(kernels, "call", noted)
    return calls


@pytest.mark.parametrize("se", [False, True])
def test_gradients_are_those_of_finite_differences(
    se: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    block = drawn(MBConv(8, 8, 3, 2, 1, "h_swish", se), torch.float64)
    names = [n for n, _ in block.named_parameters()]
    x = torch.randn((2, 8, 3, 4), generator=generator, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, *tensors: Tensor) -> Tensor:
        named = dict(zip(names, tensors, strict=True))
        own = {**dict(block.named_buffers()), **named}
        return torch.func.functional_call(block, own, (x,))  # type: ignore[no-any-return]

    tensors = [p.detach().clone().requires_grad_() for p in block.parameters()]
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
    assert torch.autograd.gradcheck(run, (x, *tensors), fast_mode=True)
    assert "convolve_backward" in calls


def test_what_must_be_able_to_look_inside_gets_the_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count(monkeypatch)
    block = drawn(MBConv(8, 8, 3, 2, 1, "h_swish", se=True), torch.float32)
    x = torch.randn(2, 8, 6, 6)

    def fuses(run: Callable[[], object]) -> bool:
        del calls[:]
        run()
        return "convolve" in calls

    assert fuses(lambda: block(x))
    with FlopCounterMode(display=False) as counter:
        assert not fuses(lambda: block(x))
    hidden, mid = 16, 8
    by_hand = 36 * (8 * hidden + 9 * hidden + hidden * 8) + 2 * hidden * mid
    assert counter.get_total_flops() == 2 * 2 * by_hand  # of two images; 2 a MAC
    hook = block.depthwise.norm.register_forward_pre_hook(lambda *_: None)
    assert not fuses(lambda: block(x))
    hook.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert not fuses(lambda: block(x))
    assert not fuses(lambda: owning(block).eval()(x))
    still = owning(block).train()
    for module in still.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    assert fuses(lambda: still(x))
    assert not fuses(lambda: torch.func.grad(lambda x: still(x).sum())(x))
    assert fuses(lambda: block(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_supernet_equals_extracted_in_training_bit_for_bit(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the layout of the supernet's weights; so do the gradients of the input."""
    calls = count(monkeypatch)
    family = families.get("mbv3_mini")
    supernet = SuperNet(family, torch.Generator().manual_seed(0)).train()
    supernet.to(memory_format=layout)  # type: ignore[call-overload]
    for arch in family.space.smallest(), family.space.largest():
        network = supernet.extract(arch).train()
        network.to(memory_format=layout)  # type: ignore[call-overload]
        x = torch.randn(4, 3, 24, 24).to(memory_format=layout)
        mine, its = x.clone().requires_grad_(), x.clone().requires_grad_()
        a, b = supernet(mine, arch), network(its)
        assert torch.equal(a, b)
        a.square().sum().backward()
        b.square().sum().backward()
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.equal(mine.grad, its.grad)
    assert "convolve_backward" in calls


def test_values_that_are_not_numbers_stay_so() -> None:
    block = drawn(MBConv(8, 8, 3, 2, 1, "relu"), torch.float32)
    x = torch.randn(2, 8, 6, 6)
    x[0, 0, 0, 0] = float("nan")
    assert block(x).isnan().all()


def test_a_single_value_is_refused_as_pytorch_does() -> None:
    for block in (ConvNormAct(8, 8), MBConv(8, 8, 3, 2), MBConv(8, 8, 3, 1, 2)):
        with pytest.raises(ValueError, match="more than 1 value"):
            block.train()(torch.randn(1, 8, 1, 1))


def test_without_a_compiler_it_is_said_once_and_modules_are_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels._library.cache_clear()
    try:
        block = drawn(MBConv(8, 8, 3, 2), torch.float32)
        for _ in range(2):
            block(torch.randn(2, 8, 6, 6))
        said = capsys.readouterr().err
        assert said.count("without compiled kernels") == 1
        assert "no-such-compiler" in said
    finally:
        kernels._library.cache_clear()


def test_what_the_kernels_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fused.covers(nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False))
    for other in (
        nn.Conv2d(8, 8, 5, 2, 2, groups=4, bias=False),
        nn.Conv2d(8, 8, 5, 2, 2, groups=8),
        nn.Conv2d(8, 8, 5, 1, 4, 2, groups=8, bias=False),
        nn.Conv2d(8, 8, 9, 1, 4, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, 1, 1, groups=8, bias=False),
    ):
        assert not fused.covers(other)
    assert fused.code(nn.GELU()) is None


def test_a_block_in_training_compiles_as_one_graph() -> None:
    """The compiler sees PyTorch's own operations, without a break; the results are the same but
    for rounding."""
    family = families.get("ofa_mbv3_w1.0")
    network = family.fresh(family.space.largest(), torch.Generator().manual_seed(0)).train()
    block = network.get_submodule("stage1_block2")
    x = torch.randn(4, 24, 8, 8, generator=torch.Generator().manual_seed(1))
    wanted = block(x)
    torch._dynamo.reset()
    found = torch.compile(block, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, wanted)
