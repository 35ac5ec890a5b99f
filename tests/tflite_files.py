"""Small `.tflite` files, put together by hand from LiteRT's schema: no converter is needed."""

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

SCALES = {"image": 1 / 64, "weight": 1 / 128, "output": 1 / 8}  # of int8; zero points below
ZEROS = {"image": 5, "weight": 0, "output": -3}


def quantisation(scale: float, zero: int) -> schema.QuantizationParametersT:
    made = schema.QuantizationParametersT()
    made.scale, made.zeroPoint = [scale], [zero]
    return made


def tensor(name: str, shape: list[int], kind: int, buffer: int) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    return made


def write_linear(path: Path, weight: np.ndarray, bias: np.ndarray, height: int, width: int) -> None:
    """One fully connected layer of images (1, H, W, C): `weight` (classes, H * W * C) is float32,
    or int8 in steps of SCALES, with `bias` (classes,) int32."""
    int8 = weight.dtype == np.int8
    kind = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
    classes, inputs = weight.shape
    tensors = [
        tensor("image", [1, height, width, inputs // (height * width)], kind, 0),
        tensor("weight", [classes, inputs], kind, 1),
        tensor("bias", [classes], schema.TensorType.INT32 if int8 else kind, 2),
        tensor("output", [1, classes], kind, 0),
    ]
    if int8:
        for each in tensors:
            if each.name in SCALES:
                each.quantization = quantisation(SCALES[each.name], ZEROS[each.name])
        tensors[2].quantization = quantisation(SCALES["image"] * SCALES["weight"], 0)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [operator], [0], [3]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4 if int8 else 1
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT() for _ in range(3)]
    for buffer, values in zip(model.buffers[1:], (weight, bias), strict=True):
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
