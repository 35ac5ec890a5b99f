"""int8 as XNNPACK computes it: PyTorch's quantisation of exported programs, calibrated on images.

Weights are quantised per channel, activations per tensor, in the range that keeps their histogram
best. Two things are done beyond PyTorch's own. A convolution that ReLU6 follows is quantised after
it and not also before, as XNNPACK runs the two as one: the range before is far wider. And biases
are corrected (Nagel et al., 2019, section 4.2, from data). What each is worth: docs/devices.md.
Knows a module that takes batches, nothing of files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from onceforall.export.executorch_program import runtime

BATCH = 20  # images that ranges are taken from at a time
CORRECTED = 50  # images that biases are corrected on, all at once
_WEIGHTED = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
_CLIPS = (
    torch.ops.aten.hardtanh.default,
    torch.ops.aten.hardtanh_.default,
    torch.ops.aten.relu6.default,
    torch.ops.aten.relu6_.default,
)


def quantised(network: nn.Module, shape: tuple[int, ...], calibration: Tensor) -> nn.Module:
    """The network, simulating int8 in float32, which ExecuTorch's partitioner recognises.

    `shape` (C, H, W); `calibration` (N, C, H, W).
    """
    runtime()
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    images = calibration.cpu().float()
    sizes = ({0: torch.export.Dim("N")},)
    program = torch.export.export(network, (torch.zeros((2, *shape)),), dynamic_shapes=sizes)
    plain = program.module(check_guards=False)
    prepared = prepare_pt2e(program.module(check_guards=False), _quantiser())
    for batch in images.split(BATCH):
        prepared(batch)
    simulated = convert_pt2e(prepared)
    wanted = _Means(plain)
    wanted.run(images[:CORRECTED])
    _Correction(simulated, wanted.means).run(images[:CORRECTED])
    return simulated


def _quantiser() -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    class ClippingQuantizer(XNNPACKQuantizer):
        """Takes a layer and the clip after it as one."""

        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in _CLIPS and node.args[0].target in _WEIGHTED:
                    _annotate(node.args[0], node, self.global_config)
            return super().annotate(model)

    quantiser = ClippingQuantizer()
    quantiser.set_global(get_symmetric_quantization_config(is_per_channel=True))
    return quantiser


def _annotate(layer: fx.Node, clip: fx.Node, config: Any) -> None:
    """That the two are one: input, weight and bias are the layer's, the output is the clip's."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    if len(layer.users) > 1:
        return
    wanted = (config.input_activation, config.weight, config.bias)
    given = {node: spec for node, spec in zip(layer.args, wanted, strict=False) if node is not None}
    layer.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=given, _annotated=True)
    clip.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
        output_qspec=config.output_activation, _annotated=True
    )


class _Means(fx.Interpreter):
    """Runs a program and keeps the mean of each channel that its weighted layers give."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program)
        self.means: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if n.target in _WEIGHTED:
            self.means[n.name] = _channel_means(n, out)
        return out


class _Correction(fx.Interpreter):
    """Runs a program and moves each bias so that its layer has the wanted means, those of the
    layers before it moved already."""

    def __init__(self, program: fx.GraphModule, wanted: dict[str, Tensor]) -> None:
        super().__init__(program)
        self.wanted = wanted

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        bias = n.args[2] if n.target in _WEIGHTED and len(n.args) > 2 else None
        if not isinstance(bias, fx.Node) or bias.op != "get_attr" or len(bias.users) > 1:
            return out
        move = self.wanted[n.name] - _channel_means(n, out)
        self.fetch_attr(str(bias.target)).add_(move)
        return out + (move if _last(n) else move[:, None, None])


def _channel_means(layer: fx.Node, out: Tensor) -> Tensor:
    channel = out.dim() - 1 if _last(layer) else 1
    return out.mean([i for i in range(out.dim()) if i != channel])


def _last(layer: fx.Node) -> bool:
    """Whether channels are the last dimension: (N, ..., C); else (N, C, H, W)."""
    return layer.target is torch.ops.aten.linear.default
