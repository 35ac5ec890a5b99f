"""What others published, in the form of predictors: `Additive`, `Perceptron`.

Their files are read in `interop`; tables are exact and searchable as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.errors import InputError
from onceforall.predictors.base import Prediction, Predictor, kind_of
from onceforall.space import Population, Space, Table

if TYPE_CHECKING:
    from onceforall.interop.authors_accuracy import Weights


class Additive(Predictor):
    """A look-up table in the form of a predictor; `table` is exact and has no uncertainty."""

    kind: ClassVar[str] = "table"

    def __init__(self, table: Table) -> None:
        self.table = table
        self.space, self.metric, self.unit, self.report = table.space, table.name, table.unit, None

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        self.check_covariates(covariates)
        return Prediction(self.table(population), None, np.zeros(len(population), bool))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {"table": self.table.to_dict()}, {}

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        return cls(Table.from_dict(data["table"]).restrict(space))


class Perceptron(Predictor):
    """An accuracy predictor of the Once-for-All authors; top-1 in percent, no uncertainty."""

    kind: ClassVar[str] = "perceptron"

    def __init__(self, space: Space, layers: Sequence[Weights]) -> None:
        """`layers` are weights (out, in) and biases (out,); ReLU between them."""
        from onceforall.interop.authors_accuracy import AccuracyNet

        self.space, self.metric, self.unit, self.report = space, "top1", "%", None
        self.net = AccuracyNet(space, layers)

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        self.check_covariates(covariates)
        sizes = np.array(self.space.resolution)[population[:, 0]]
        return Prediction(self.net(population), None, sizes < self.net.least)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        arrays: dict[str, NDArray[Any]] = {}
        for i, (weight, bias) in enumerate(self.net.layers):
            arrays |= {f"{i}.weight": weight, f"{i}.bias": np.asarray(bias)}
        return {"layers": len(self.net.layers)}, arrays

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        layers = [(arrays[f"{i}.weight"], arrays[f"{i}.bias"]) for i in range(data["layers"])]
        return cls(space, layers)


class Between(Predictor):
    """A predictor that knows a few resolutions, asked at any: linear between the two nearest that
    it knows, and beyond them what it says at the nearest. Good enough for a prior."""

    kind: ClassVar[str] = "between"

    def __init__(self, known: Predictor, space: Space) -> None:
        """`known` is of the same space at fewer resolutions, in ascending order."""
        self.space, self.metric, self.unit, self.report = space, known.metric, known.unit, None
        self.known = known

    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        at = np.array(self.known.space.resolution, np.float64)
        sizes = np.array(self.space.resolution, np.float64)[population[:, 0]]
        place = np.interp(sizes, at, np.arange(len(at)))
        low = place.astype(np.intp)
        high = np.minimum(low + 1, len(at) - 1)
        ends = []
        for column in (low, high):
            moved = population.copy()
            moved[:, 0] = column
            ends.append(self.known.predict(moved, **covariates))
        mean = ends[0].mean + (place - low) * (ends[1].mean - ends[0].mean)
        beyond = ends[0].extrapolates | ends[1].extrapolates | (sizes < at[0]) | (sizes > at[-1])
        return Prediction(mean, None, beyond)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        data, arrays = self.known.state()
        sizes = list(self.known.space.resolution)
        return {"kind": self.known.kind, "resolution": sizes, "data": data}, arrays

    @classmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        at = space.at(data["resolution"])
        return cls(kind_of(data["kind"]).restore(at, data["data"], arrays), space)


def read(path: Path, space: Space | None, *, prior: bool) -> Predictor | None:
    """The predictor of a file (or folder) of others, or of a table of ours, by its suffix; None:
    it is neither. See `predictors.load`."""
    from onceforall.interop.authors_accuracy import read_accuracy_net
    from onceforall.interop.latency_tables import read_table

    if path.is_dir() or path.suffix in (".yaml", ".yml", ".csv", ".json"):
        return Additive(read_table(path, space))
    if path.suffix != ".pth":
        return None
    net = read_accuracy_net(path)
    if space is not None and space.family != net.family and not prior:
        raise InputError(
            f"{path}: predicts accuracies of {net.family}, not of {space.family};"
            f" use it on {net.family}, or as the prior of a predictor of {space.family}"
            " (`fit accuracy --prior`)"
        )
    return Perceptron(space if space is not None else net.space, net.layers)
