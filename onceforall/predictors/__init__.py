"""Models of accuracy and latency: `fit_accuracy`, `fit_latency`, `load`.

All have one form: `predict(population) -> Prediction(mean, std, extrapolates)`, `save`, `load`.
Predictors know spaces and records, no networks and no devices.
"""

from __future__ import annotations

from pathlib import Path

from onceforall.errors import InputError
from onceforall.predictors import published
from onceforall.predictors.accuracy import Accuracy, fit_accuracy
from onceforall.predictors.base import Prediction, Predictor, Report, kind_of, read, report_of
from onceforall.predictors.circumstances import likely_covariates
from onceforall.predictors.labelling import choose, stalled
from onceforall.predictors.latency import Latency, fit_latency
from onceforall.predictors.second import SecondOpinion
from onceforall.space import ResolutionError, Space

__all__ = [
    "Accuracy",
    "Latency",
    "Prediction",
    "Predictor",
    "Report",
    "SecondOpinion",
    "choose",
    "fit_accuracy",
    "fit_latency",
    "likely_covariates",
    "load",
    "load_prior",
    "stalled",
]


def load_prior(path: Path | str, space: Space) -> Predictor:
    """A predictor for others to be fitted on its output, at all resolutions of a space; one that
    knows only some of them is read between them.

    Raises:
        InputError: as `load`.
    """
    try:
        return load(path, space, prior=True)
    except ResolutionError as error:
        known = sorted(error.known)
        return published.Between(load(path, space.at(known), prior=True), space)


def load(path: Path | str, space: Space | None = None, *, prior: bool = False) -> Predictor:
    """The predictor that `save` wrote, for populations of `space`: the space it was fitted for
    (the default) or a part of it, at any resolutions. Also what others published: a look-up table
    (.yaml, .csv, a folder of them; our own .json) and the authors' accuracy predictors (.pth).

    Args:
        prior: another predictor will be fitted on its output, which need not be right then: one of
            the authors' predictors may be of another family than the space.

    Raises:
        InputError: the file is missing or damaged, or the space is another.
    """
    path = Path(path)
    others = published.read(path, space, prior=prior)
    if others is not None:
        return others
    head, arrays = read(path)
    try:
        known = Space.from_dict(head["space"])
        try:
            kind = kind_of(head["kind"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if space is not None:
            space.check_part(known, str(path))
        predictor = kind.restore(space or known, head["data"], arrays)
        predictor.report = report_of(head["report"])
        predictor.settings = dict(head.get("settings", {}))  # none in files of older releases
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path}: not a whole predictor's file: {error!r}") from None
    return predictor
