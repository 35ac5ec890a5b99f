"""ONNX, written from the traced graph by a visible table of operations.

Batch norm is folded into the convolution before it. PyTorch's own exporter gives an equal
file, but takes seconds where this takes a tenth, and latency records need hundreds. A network
with an operation that is not in the table, or one that cannot be traced, goes through
PyTorch's exporter.
"""

from __future__ import annotations

import copy
import importlib.util
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from onceforall.errors import InputError, MissingExtraError
from onceforall.export import onnx_int8
from onceforall.export.facts import texts
from onceforall.export.refusing import refusing
from onceforall.families.layers import SameConv2d

OPSET = 17
IR_VERSION = 8  # read by ONNX Runtime 1.14 and later
ONNX_BYTES = 2**31 - 2**20  # an ONNX file is below 2 GiB; a MiB is left for the graph


def to_onnx(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes an ONNX file: `image` (N, C, H, W) float32 -> `logits` (N, classes, ...).

    Raises:
        MissingExtraError: an operation beyond the table, and no onnxscript to export it with.
        InputError: PyTorch's exporter cannot write it either, or it is too large.
    """
    write(copy.deepcopy(network).cpu().eval(), shape, path, texts(facts or {}))


def write(
    network: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    facts: Mapping[str, str],
    precision: str = "fp32",
    calibration: Tensor | None = None,
) -> None:
    """Of a network in evaluation mode on the CPU, which is changed. `calibration` (N, C, H, W),
    for int8."""
    if calibration is None or precision == "fp32":
        _write_fp32(network, shape, path, facts)
        return
    with TemporaryDirectory() as folder:
        source = Path(folder) / "network.onnx"
        _write_fp32(network, shape, source, {})
        with refusing(network, "ONNX in int8"):
            onnx_int8.quantise(source, path, facts, calibration)


def _write_fp32(
    network: nn.Module, shape: tuple[int, ...], path: Path, facts: Mapping[str, str]
) -> None:
    try:
        import onnx
    except ModuleNotFoundError:  # where torch and its like were installed by other means
        raise InputError("writing ONNX needs onnx: pip install onnx") from None

    size = sum(t.numel() * 4 for t in (*network.parameters(), *network.buffers()))
    if size > ONNX_BYTES:
        raise InputError(
            f"{type(network).__name__}: its weights take {size / 2**30:.1f} GiB;"
            " an ONNX file holds less than 2, pt2 any"
        )
    try:
        graph = _Emitter(network, shape).graph()
    except _UncoveredError:
        _by_pytorch(network, shape, path, facts)
        return
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="onceforall",
    )
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class _UncoveredError(Exception):
    """An operation that the table below does not have, or none that can be seen."""


class _Tracer(fx.Tracer):
    """Keeps our own convolution whole, which depends on its input's size."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SameConv2d) or super().is_leaf_module(m, module_qualified_name)


class _Emitter:
    """One traced network on its way to an ONNX graph."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        self.network, self.shape = network, shape
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.named: dict[fx.Node, str] = {}  # what each traced value is called in the graph

    def graph(self) -> Any:
        import onnx

        try:
            nodes = list(_Tracer().trace(self.network).nodes)
        except Exception as error:  # whatever the forward of a foreign network raises
            raise _UncoveredError(str(error)) from None
        out = ""
        for node in nodes:
            if node.op == "placeholder" and not self.named:
                self.named[node] = "image"
            elif node.op == "output" and isinstance(node.args[0], fx.Node):
                out = self.named[node.args[0]]
            elif node.op in ("placeholder", "output"):
                raise _UncoveredError(node.name)
            elif node not in self.named:  # a batch norm may be folded already
                self.named[node] = self._emit(node)
        logits = onnx.helper.make_node("Identity", [out], ["logits"])
        value = onnx.helper.make_tensor_value_info
        kind = onnx.TensorProto.FLOAT
        return onnx.helper.make_graph(
            [*self.nodes, logits],
            "onceforall",
            [value("image", kind, ["N", *self.shape])],
            [value("logits", kind, ["N", *[None] * (self._output_dims() - 1)])],
            self.weights,
        )

    def _output_dims(self) -> int:
        with torch.no_grad():
            return int(self.network(torch.zeros((2, *self.shape))).dim())

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        import onnx

        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, tensor: Tensor) -> str:
        import onnx

        array = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _emit(self, node: fx.Node) -> str:
        inputs = [self.named[a] for a in node.args if isinstance(a, fx.Node)]
        if node.kwargs or len(inputs) != len(node.args):
            raise _UncoveredError(node.name)
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            if isinstance(module, nn.Conv2d):
                return self._conv(node, module, inputs)
            emit = _MODULES.get(type(module))
            if emit is not None:
                return emit(self, node.name, module, inputs)
        elif node.op == "call_function" and node.target in _FUNCTIONS and len(inputs) == 2:
            return self.add(_FUNCTIONS[node.target], inputs, node.name)
        raise _UncoveredError(node.name)

    def _conv(self, node: fx.Node, conv: nn.Conv2d, inputs: list[str]) -> str:
        weight, bias = conv.weight, conv.bias
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise _UncoveredError(node.name)
        norm = self._norm_after(node)
        if norm is not None:
            folded = torch.nn.utils.fuse_conv_bn_eval(conv, norm[1])
            weight, bias = folded.weight, folded.bias
        names = [*inputs, self.weight(f"{node.name}.weight", weight)]
        if bias is not None:
            names.append(self.weight(f"{node.name}.bias", bias))
        if isinstance(conv, SameConv2d):
            padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"}
        else:
            padding = {"pads": [*conv.padding, *conv.padding]}
        out = self.add(
            "Conv",
            names,
            node.name,
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            dilations=list(conv.dilation),
            group=conv.groups,
            **padding,
        )
        if norm is not None:
            self.named[norm[0]] = out
        return out

    def _norm_after(self, node: fx.Node) -> tuple[fx.Node, nn.BatchNorm2d] | None:
        """The batch norm that alone reads a convolution's output."""
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module":
            module = self.network.get_submodule(str(users[0].target))
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                return users[0], module
        return None


_Emit = Callable[[_Emitter, str, Any, list[str]], str]


def _plain(op: str, **attributes: Any) -> _Emit:
    return lambda e, name, module, inputs: e.add(op, inputs, name, **attributes)


def _relu6(e: _Emitter, name: str, module: nn.Module, inputs: list[str]) -> str:
    bounds = [
        e.weight(f"{name}.min", torch.tensor(0.0)),
        e.weight(f"{name}.max", torch.tensor(6.0)),
    ]
    return e.add("Clip", inputs + bounds, name)


def _norm(e: _Emitter, name: str, module: nn.BatchNorm2d, inputs: list[str]) -> str:
    if module.weight is None or module.running_mean is None:
        raise _UncoveredError(name)
    parts = ("weight", "bias", "running_mean", "running_var")
    values = [e.weight(f"{name}.{p}", getattr(module, p)) for p in parts]
    return e.add("BatchNormalization", inputs + values, name, epsilon=module.eps)


def _linear(e: _Emitter, name: str, module: nn.Linear, inputs: list[str]) -> str:
    names = [*inputs, e.weight(f"{name}.weight", module.weight)]
    if module.bias is not None:
        names.append(e.weight(f"{name}.bias", module.bias))
    return e.add("Gemm", names, name, transB=1)


def _global_pool(e: _Emitter, name: str, module: nn.AdaptiveAvgPool2d, inputs: list[str]) -> str:
    if module.output_size not in (1, (1, 1)):
        raise _UncoveredError(name)
    return e.add("GlobalAveragePool", inputs, name)


def _pool(e: _Emitter, name: str, module: Any, inputs: list[str]) -> str:
    def pair(value: Any) -> list[int]:
        return list(value) if isinstance(value, tuple) else [value, value]

    average = isinstance(module, nn.AvgPool2d)
    if average and (
        module.divisor_override
        or (module.ceil_mode and module.count_include_pad and any(pair(module.padding)))
    ):
        raise _UncoveredError(name)
    extra = {"count_include_pad": int(module.count_include_pad)} if average else {}
    return e.add(
        "AveragePool" if average else "MaxPool",
        inputs,
        name,
        kernel_shape=pair(module.kernel_size),
        strides=pair(module.stride),
        pads=pair(module.padding) * 2,
        ceil_mode=int(module.ceil_mode),
        **extra,
    )


def _flatten(e: _Emitter, name: str, module: nn.Flatten, inputs: list[str]) -> str:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise _UncoveredError(name)
    return e.add("Flatten", inputs, name, axis=1)


def _nothing(e: _Emitter, name: str, module: nn.Module, inputs: list[str]) -> str:
    return inputs[0]


_MODULES: dict[type[nn.Module], _Emit] = {
    nn.BatchNorm2d: _norm,
    nn.ReLU: _plain("Relu"),
    nn.ReLU6: _relu6,
    nn.Hardswish: _plain("HardSwish"),
    nn.Hardsigmoid: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.Sigmoid: _plain("Sigmoid"),
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.AvgPool2d: _pool,
    nn.MaxPool2d: _pool,
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    nn.Dropout: _nothing,
    nn.Identity: _nothing,
}
_FUNCTIONS: dict[Any, str] = {
    operator.add: "Add",
    operator.iadd: "Add",
    torch.add: "Add",
    operator.mul: "Mul",
    operator.imul: "Mul",
    torch.mul: "Mul",
}


def _by_pytorch(
    network: nn.Module, shape: tuple[int, ...], path: Path, facts: Mapping[str, str]
) -> None:
    """PyTorch's exporter, for networks with operations beyond the table."""
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingExtraError("onnxscript", "export", "exporting this network to ONNX")
    with refusing(network, "ONNX"):
        program = torch.onnx.export(
            network,
            (torch.zeros((2, *shape)),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )
    assert program is not None
    program.model.metadata_props.update(facts)
    program.save(str(path))


def load(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """What ONNX Runtime computes from the file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class for each of its many
        raise InputError(f"{path}: ONNX Runtime cannot read it ({error})") from None
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])


def read_facts(path: Path) -> dict[str, str]:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf's
        raise InputError(f"{path}: is no ONNX file ({type(error).__name__})") from None
    return {entry.key: entry.value for entry in model.metadata_props}
