"""MACs and parameters of published networks against other counters.

    python benchmarks/costs.py [MODEL ...] [--out docs/figures/costs.json]

Every network is built by timm without weights, on the meta device, and counted by `costs`, by
`torch.utils.flop_counter` and, where it is installed (pip install fvcore), by fvcore. torch's
counter knows two FLOPs a MAC; of fvcore its counts of convolutions and of products of matrices are
compared, and what else it counts is listed. A difference is said operation by operation.
"""

from __future__ import annotations

import argparse
from typing import Any

import figures
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onceforall.costs import Cost, cost

MODELS = (
    "resnet50",
    "regnety_032",
    "repvgg_a2",
    "mobilenetv3_large_100",
    "efficientnet_lite0",
    "ghostnet_100",
    "convnext_tiny",
    "edgenext_small",
    "mixer_s16_224",
    "poolformer_s12",
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "pvt_v2_b0",
    "levit_128s",
    "xcit_nano_12_p16_224",
    "mobilevit_s",
    "coatnet_0_rw_224",
    "maxvit_tiny_tf_224",
    "tiny_vit_5m_224",
    "fastvit_t8",
    "botnet26t_256",
    "mvitv2_tiny",
)
COLUMNS = {
    "network": "{network}",
    "MACs": "{macs:,}",
    "parameters": "{params:,}",
    "torch": "{torch}",
    "fvcore": "{fvcore}",
    "fvcore counts beside": "{beside}",
}
PRODUCTS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum")  # by fvcore's names


def build(name: str, device: str = "meta") -> tuple[nn.Module, tuple[int, ...]]:
    """A network without weights or with random ones, and its own input's shape."""
    import timm

    with torch.device(device):
        network = timm.create_model(name).eval()
    settings: Any = network.default_cfg
    return network, tuple(settings["input_size"])


def by_torch(network: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """MACs by operation."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device="meta"))
    counts = counter.get_flop_counts()["Global"]
    return {str(operation).removeprefix("aten."): n // 2 for operation, n in counts.items()}


def by_fvcore(name: str) -> dict[str, int] | None:
    """MACs by operation; None where fvcore is not installed. It traces with values, and does not
    know attention as one operation: it is written out."""
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        return None
    from timm.layers.config import set_fused_attn

    set_fused_attn(False)
    try:
        network, shape = build(name, "cpu")
        analysis = FlopCountAnalysis(network, torch.zeros(1, *shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        return {str(k): int(v) for k, v in analysis.by_operator().items()}
    finally:
        set_fused_attn(True)


def products(counts: dict[str, int]) -> int:
    return sum(n for name, n in counts.items() if name in PRODUCTS)


def apart(network: nn.Module, shape: tuple[int, ...], found: Cost) -> dict[str, int]:
    """The innermost modules of which torch's counter says something else, and how much more."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device="meta"))
    title = type(network).__name__ + "."
    differ = {}
    for path, counts in counter.get_flop_counts().items():
        name = path.removeprefix(title)
        own = sum(r.macs for r in found.rows if f"{r.name}.".startswith(f"{name}."))
        more = sum(counts.values()) // 2 - own
        if path.startswith(title) and more:
            differ[name] = more
    return {
        name: more
        for name, more in differ.items()
        if not any(other.startswith(f"{name}.") for other in differ)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    figures.add_option(parser)
    given = parser.parse_args()
    counted = figures.Table(COLUMNS)
    differences = figures.Table(
        {"network": "{network}", "module": "{module}", "torch counts more": "{more:+,}"}
    )
    for name in given.models:
        network, shape = build(name)
        found = cost(network, shape)
        assert found.params == sum(p.numel() for p in network.parameters()), name
        assert found.uncovered == (), (name, found.uncovered)
        fvcores = by_fvcore(name)
        theirs = beside = None
        if fvcores is not None:
            theirs = said(products(fvcores) - found.macs)
            others = {k: v for k, v in fvcores.items() if k not in PRODUCTS and v}
            beside = ", ".join(f"{k} {v:,}" for k, v in others.items())
        counted.add(
            network=name,
            macs=found.macs,
            params=found.params,
            torch=said(sum(by_torch(network, shape).values()) - found.macs),
            fvcore=theirs,
            beside=beside,
        )
        differences.rows += [
            {"network": name, "module": module, "more": more}
            for module, more in apart(network, shape, found).items()
        ]
    print(f"\n{differences}")
    figures.write(given.out, {"costs": counted}, "timm", "fvcore")


def said(difference: int) -> str:
    return "equal" if difference == 0 else f"{difference:+,}"


if __name__ == "__main__":
    main()
