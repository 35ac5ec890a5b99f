"""What all predictors share: `Prediction`, `Report`, `Predictor`, and the file they are kept in.

The file is a numpy archive (npz, read with allow_pickle=False): one array `json` with the plain
data, the others as they are named. It is versioned and says which space it is for.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall import files, progress
from onceforall.errors import InputError, choices
from onceforall.space import Population, Space

if TYPE_CHECKING:
    from onceforall.records import Labels

P = TypeVar("P", bound="Predictor")
Floats = NDArray[np.float64]
Groups = Mapping[str, Floats]  # of features: name -> (n, features)

FORMAT = "onceforall.predictor"
VERSION = 2


@dataclass(frozen=True)
class Prediction:
    """What is predicted for each arch of a population, in the unit of the records.

    Attributes:
        mean: (n,) the expected value.
        std: (n,) standard deviation of a measurement about the mean: what the predictor does not
            know and what the measuring scatters. None where the predictor has no such estimate.
        extrapolates: (n,) the arch lies outside the range of the training archs.
    """

    mean: Floats
    std: Floats | None
    extrapolates: NDArray[np.bool_]


@dataclass(frozen=True)
class Report:
    """Errors on held-out records.

    rmse is in the unit of the records, mape in percent, coverage90 the share of records that lie
    within the predicted 90% interval. NaN where there is nothing to compute it from.
    """

    rmse: float
    mape: float
    kendall_tau: float
    spearman: float
    coverage90: float
    n_train: int
    n_test: int

    def __str__(self) -> str:
        return (
            f"held-out rmse {self.rmse:.3g}, Kendall tau {self.kendall_tau:.2f},"
            f" {self.n_train} records"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what could not be computed is None."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class HeldOut:
    """What was predicted for records by fits that had not seen them: (n,) each, the mean in the
    unit of the records.

    `rows` are the records' places among the labels; `std` is NaN where the predictor has none.
    """

    rows: NDArray[np.intp]
    mean: Floats
    std: Floats
    extrapolates: NDArray[np.bool_]


_KINDS: dict[str, type[Predictor]] = {}  # by the name that files have


def kind_of(name: object) -> type[Predictor]:
    """The kind of predictor a file names."""
    if not isinstance(name, str) or name not in _KINDS:
        raise InputError(f"kind {name!r} of predictor is not one of {choices(_KINDS)}")
    return _KINDS[name]


class Predictor(ABC):
    """A value for every arch of a space: fitted on records, or a table's.

    Attributes:
        space: the space whose populations `predict` takes.
        metric, unit: what is predicted.
        report: errors on held-out records; None where it was not fitted here.
        held_out: the predictions that `report` is of; files do not keep them.
        settings: of the family that its records are of, where they are not the family's own
            (`families.settings`); networks of the archs it finds are built with them.
    """

    kind: ClassVar[str]
    space: Space
    metric: str
    unit: str
    report: Report | None
    held_out: HeldOut | None = None
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.kind] = cls

    def __repr__(self) -> str:
        of = f"{self.metric} {self.unit}".strip()
        error = "" if self.report is None else f"; {self.report}"
        return f"{type(self).__name__}({of} of {self.space.family}{error})"

    @abstractmethod
    def predict(self, population: Population, **covariates: ArrayLike) -> Prediction:
        """Mean and uncertainty for a population (n, genes) of `space`.

        A covariate is one value for all archs or one for each; those the predictor does not have
        are an error, those not given are averaged over.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain data and arrays that `restore` makes the predictor from again."""

    @classmethod
    @abstractmethod
    def restore(
        cls, space: Space, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The predictor for `space`, which is the one it was fitted for or a part of it, with
        any resolutions."""

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """What `predict` takes beside the population."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it was fitted: a line each."""
        return ()

    @property
    def covariate_levels(self) -> Mapping[str, Sequence[str]]:
        """The values of each covariate that the training records had, where it is one of few
        values; others are averaged over."""
        return {}

    def check_covariates(self, given: Iterable[str]) -> None:
        """Refuses a covariate that `predict` does not take."""
        for name in given:
            if name not in self.covariate_names:
                raise InputError(
                    f"covariate {name!r} is not one of this predictor's;"
                    f" it has {choices(self.covariate_names) or 'none'}"
                )

    def on(self, space: Space) -> Self:
        """The same predictor for populations of `space`: a part of its space, at any resolutions.

        Raises:
            InputError: the space has an arch that the predictor's has not.
        """
        space.check_part(self.space, self.metric)
        other = type(self).restore(space, *self.state())
        other.report, other.settings = self.report, self.settings
        return other

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Writes one file, whole or not at all."""
        data, arrays = self.state()
        head = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "space": self.space.to_dict(),
            "settings": dict(self.settings),
            "report": None if self.report is None else self.report.to_dict(),
            "data": data,
        }
        text = np.frombuffer(json.dumps(head).encode(), np.uint8)

        def write(target: Path) -> None:
            with target.open("wb") as file:
                np.savez_compressed(file, json=text, **arrays)  # type: ignore[arg-type]

        files.write_atomically(path, write, overwrite=overwrite)


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `save` wrote: the head and the arrays.

    Raises:
        InputError: the file is missing, cut off, changed, or no predictor.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays.pop("json").tobytes().decode())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, a predictor's file was expected") from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        raise InputError(f"{path}: not a predictor's file, or one that is damaged") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise InputError(f"{path}: not a predictor's file: 'format' is not {FORMAT!r}")
    if head.get("version") != VERSION:
        raise InputError(
            f"{path}: version {head.get('version')!r} of a predictor's file; {VERSION} can be read"
        )
    return head, arrays


def prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {prefix + name: values for name, values in arrays.items()}


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with the prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def report_of(data: Mapping[str, Any] | None) -> Report | None:
    if data is None:
        return None
    values = {k: float("nan") if v is None else v for k, v in data.items()}
    return Report(**values)  # type: ignore[arg-type]


def held_out(mean: Floats, std: Floats | None, values: Floats, n_train: int) -> Report:
    """The errors of predictions for measured values, (n,) each."""
    from scipy.stats import kendalltau, spearmanr

    error = mean - values
    several = len(values) > 1 and np.ptp(values) > 0 and np.ptp(mean) > 0
    nan = float("nan")
    return Report(
        rmse=float(np.sqrt(np.mean(error**2))),
        mape=float(100 * np.mean(np.abs(error / values))) if np.all(values != 0) else nan,
        kendall_tau=float(kendalltau(mean, values).statistic) if several else nan,
        spearman=float(spearmanr(mean, values).statistic) if several else nan,
        coverage90=nan if std is None else float(np.mean(np.abs(error) <= NORMAL_90 * std)),
        n_train=n_train,
        n_test=len(values),
    )


def cross_validated(
    fit: Callable[[Labels], P],
    labels: Labels,
    covariates: Sequence[str],
    test_fraction: float,
    seed: int,
) -> P:
    """What `fit` makes of all labels, with the error of what it makes of a part in `report`.

    Held out is a random `test_fraction` of the archs; with fewer than 200, each fifth in turn; with
    a fraction of 0 nothing is, and there is no report. All measurements of an arch go together: to
    predict the second from the first would be easy.
    """
    if test_fraction == 0:
        return fit(labels)
    arch = same_archs(labels)
    n = int(arch.max()) + 1
    order = np.random.default_rng(seed).permutation(n)
    if n < FOLDS_BELOW:
        asked = [order[i :: min(5, n)] for i in range(min(5, n))]
    else:
        asked = [order[: min(n - 1, max(1, round(n * test_fraction)))]]
    parts = [np.concatenate([np.flatnonzero(arch == i) for i in archs]) for archs in asked]
    found = []
    for part in parts:
        rest = np.setdiff1d(np.arange(len(labels)), part)
        given = {name: labels.columns[name][part] for name in covariates}
        predicted = fit(labels.take(rest)).predict(labels.population[part], **given)
        std = np.full(len(part), np.nan) if predicted.std is None else predicted.std
        found.append((part, predicted.mean, std, predicted.extrapolates))
    whole = fit(labels)
    left_out = HeldOut(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
    values = labels.values[left_out.rows]
    whole.report = held_out(left_out.mean, left_out.std, values, len(labels) - len(parts[0]))
    whole.held_out = left_out
    return whole


def said(predictor: P) -> P:
    """The predictor; its notes are shown, each once however often it is fitted anew."""
    for note in predictor.notes:
        _say_once(f"{predictor.metric}: {note}")
    return predictor


@lru_cache(maxsize=1024)
def _say_once(text: str) -> None:
    progress.say(text)


def same_archs(labels: Labels) -> NDArray[np.intp]:
    """(n,) a number for each arch, in the order in which archs come first."""
    _, first, index = np.unique(labels.population, axis=0, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.intp)
    place[np.argsort(first)] = np.arange(len(first))
    return place[index.reshape(-1)]


def check_enough(labels: Labels, least: int, what: str) -> None:
    """Refuses labels of fewer archs than a predictor can be fitted on, or all of one value."""
    name, archs = labels.metric, int(same_archs(labels).max(initial=-1)) + 1
    if archs < least:
        of = "" if archs == len(labels) else f" of {archs} archs"
        raise InputError(
            f"{name}: {len(labels)} records{of}; {what} predictor needs at least {least}"
            + (" archs" if of else "")
        )
    if np.ptp(labels.values) == 0:
        raise InputError(
            f"{name}: all {len(labels)} records are {labels.values[0]:g}; there is nothing to fit"
        )


FOLDS_BELOW = 200  # labels
NORMAL_90 = 1.6448536  # half of the normal distribution's 90% interval, standard deviations
