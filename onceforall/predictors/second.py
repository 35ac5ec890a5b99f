"""A second opinion: another kind of model, on the records that an accuracy predictor learnt from.

Search finds where a predictor errs in an arch's favour; a model of another kind errs elsewhere.
This one is linear where the predictor is not: Bayesian ridge regression (scikit-learn) on blocks,
sums, sizes and the levels of covariates, without the predictor's prior. The noise of the records is
in both; a predictor of other records is free of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onceforall.predictors.base import Floats
from onceforall.predictors.inputs import PRIOR
from onceforall.space import Population

if TYPE_CHECKING:
    from onceforall.predictors.accuracy import Accuracy
    from onceforall.predictors.features import Groups

_BLOCK = 0.1  # of what a size is thought to weigh, that a single block is


class SecondOpinion:
    """What a linear model of the predictor's records says of archs of the predictor's space."""

    def __init__(self, predictor: Accuracy) -> None:
        from sklearn.linear_model import BayesianRidge

        self._predictor = predictor
        learnt = predictor.processes[0][1].targets
        self._model = BayesianRidge().fit(self._columns(predictor.fitted.learnt()), learnt)

    def __call__(self, population: Population) -> Floats:
        """(n,) in the unit of the predictor, covariates averaged over."""
        told = self._model.predict(self._columns(self._predictor.seen(population)))
        return self._predictor.scale.back(np.asarray(told, np.float64), np.zeros(len(told)))[0]

    @staticmethod
    def _columns(groups: Groups) -> Floats:
        return np.hstack(
            [
                _BLOCK * values if "blocks" in name else values
                for name, values in groups.items()
                if name != PRIOR
            ]
        )
