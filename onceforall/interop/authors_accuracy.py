"""The Once-for-All authors' accuracy predictors: perceptrons on one-hot codes of archs.

`acc_predictor.pth` is of `ofa_mbv3_w1.2`, `ofa_resnet50_acc_predictor.pth` of `ofa_resnet50`; they
are evaluated in numpy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError, choices
from onceforall.space import Population, ResolutionError, Space, Value
from onceforall.space.stages import block_gene, stage_gene

Weights = tuple[NDArray[np.float32], NDArray[np.float32]]  # (out, in) and (out,) of a layer
Code = list[tuple[int, NDArray[np.intp]]]  # a gene, and the input that each of its choices sets
MBV3_SIZES = tuple(range(112, 225, 16))
RESNET_SIZES = (128, 144, 160, 176, 192, 224, 240, 256)  # of the authors' search on ResNet50
MADE_FOR = {128: ("ofa_mbv3_w1.2", MBV3_SIZES), 82: ("ofa_resnet50", RESNET_SIZES)}  # by inputs


class AccuracyNet:
    """One of their predictors, for populations of a space whose archs its inputs can name.

    Attributes:
        layers: weights and biases; ReLU between them.
        least: the smallest resolution that it was trained at, pixels.
    """

    def __init__(self, space: Space, layers: Sequence[Weights]) -> None:
        self.space, self.layers = space, tuple(layers)
        inputs = self.layers[0][0].shape[1]
        if inputs not in _CODES:
            raise InputError(f"a predictor of {inputs} inputs; those known have {choices(_CODES)}")
        self._code, self.least = _CODES[inputs](space)

    @property
    def family(self) -> str:
        """The family whose accuracies it was fitted on."""
        return MADE_FOR[self.layers[0][0].shape[1]][0]

    def __call__(self, population: Population) -> NDArray[np.float64]:
        """(n,) top-1, %."""
        x = self.encode(population)
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if i + 1 < len(self.layers):
                np.maximum(x, 0, out=x)
        return 100.0 * x[:, 0].astype(np.float64)

    def encode(self, population: Population) -> NDArray[np.float32]:
        """(n, inputs) one-hot codes; blocks that are not there are 0."""
        out = np.zeros((len(population), self.layers[0][0].shape[1]), np.float32)
        active = self.space.active(population)
        rows = np.arange(len(population))
        for column, positions in self._code:
            at = positions[population[:, column]]
            there = active[:, column] & (at >= 0)
            out[rows[there], at[there]] = 1
        return out


def read_accuracy_net(path: Path, space: Space | None = None) -> AccuracyNet:
    """`acc_predictor.pth` or `ofa_resnet50_acc_predictor.pth`, for a space of any family whose
    archs its inputs can name; without one, for the space that it was made for.

    Raises:
        InputError: the file is damaged or another, or the space has a resolution that the
            predictor has no input for.
    """
    from onceforall.interop.tensors import read_tensors

    arrays = {name: t.numpy().astype(np.float32) for name, t in read_tensors(path).items()}
    names = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]
    base = arrays.get("base_acc", np.zeros(1, np.float32))
    layers = [(arrays[f"{name}.weight"], arrays.get(f"{name}.bias", base)) for name in names]
    shapes = [weight.shape for weight, _ in layers]
    fits = all(a[0] == b[1] for a, b in itertools.pairwise(shapes))
    if not layers or not fits or shapes[-1][0] != 1 or shapes[0][1] not in _CODES:
        raise InputError(f"{path}: not a predictor of the authors: layers of shapes {shapes}")
    return AccuracyNet(space if space is not None else _own_space(shapes[0][1]), layers)


def _own_space(inputs: int) -> Space:
    from onceforall import families

    name, sizes = MADE_FOR[inputs]
    return families.get(name).space.at(sizes)


def _mbv3_code(space: Space) -> tuple[Code, int]:
    """[kernel 20x3 | expand 20x3 | resolution 8], and the least size it was trained at."""
    if len(space.stages) != 5 or any(stage.blocks > 4 for stage in space.stages):
        raise InputError(f"the authors' predictor is for 5 stages of 4 blocks, not {space.family}")
    code = [(0, _sizes(space, MBV3_SIZES, 120))]
    for s, stage in enumerate(space.stages):
        for b in range(stage.blocks):
            at = 3 * (4 * s + b)
            code.append(_coded(space, block_gene(s, b, "kernel"), (3, 5, 7), at))
            code.append(_coded(space, block_gene(s, b, "expand"), (3, 4, 6), 60 + at))
    return code, 160


def _resnet_code(space: Space) -> tuple[Code, int]:
    """[resolution 8 | stem's residual convolution 2 | width 6x3 | expand 18x3]. Of two equal widths
    of the stem the first is meant."""
    if len(space.stages) != 6:
        raise InputError(f"the authors' predictor is for 6 stages, not for {space.family}")
    widths: list[tuple[int, ...]] = [(24, 32), (40, 48, 64), (168, 208, 256), (336, 408, 512)]
    widths += [(664, 816, 1024), (1328, 1640, 2048)]
    first = {2: 0, 3: 4, 4: 8, 5: 14}  # block of a stage, counted over stages at full depth
    code = [(0, _sizes(space, RESNET_SIZES, 0))]
    for s, stage in enumerate(space.stages):
        column, at = _coded(space, stage_gene(s, "width"), widths[s], 10 + 3 * s)
        if s == 0:
            at = np.where(at == 11, 12, at)  # 24, 24, 32
        code.append((column, at))
        if s == 0:
            code.append(_coded(space, stage_gene(s, "depth"), (1, 2), 8))
        for b in range(stage.blocks) if s > 1 else ():
            start = 28 + 3 * (first[s] + b)
            code.append(_coded(space, block_gene(s, b, "expand"), (0.2, 0.25, 0.35), start))
    return code, 0


def _coded(
    space: Space, name: str, known: tuple[float, ...], start: int
) -> tuple[int, NDArray[np.intp]]:
    column = space.column(name)
    gene = space.genes[column]
    return column, _positions(space, gene.kind, gene.values, known, start)


_CODES: dict[int, Callable[[Space], tuple[Code, int]]] = {128: _mbv3_code, 82: _resnet_code}


def _sizes(space: Space, known: tuple[int, ...], start: int) -> NDArray[np.intp]:
    try:
        return _positions(space, "resolution", space.resolution, known, start)
    except InputError as error:
        raise ResolutionError(str(error), known) from None


def _positions(
    space: Space, kind: str, values: tuple[Value, ...], known: tuple[float, ...], start: int
) -> NDArray[np.intp]:
    for value in values:
        if value not in known:
            raise InputError(
                f"the authors' predictor has no input for {kind} {value} of {space.family};"
                f" it has {choices(known)}"
            )
    return np.array([start + known.index(value) for value in values], np.intp)
