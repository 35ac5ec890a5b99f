"""A second opinion: another kind of model, on the records that an accuracy predictor was fitted on.

Search finds where a predictor errs in an arch's favour; a model of another kind errs elsewhere.
This one is linear where the predictor is not: Bayesian ridge regression (scikit-learn) on blocks,
sums, sizes and the levels of covariates, without the predictor's prior. The noise of the records is
in both; a predictor of other records is free of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onceforall.predictors.base import Floats, Groups
from onceforall.predictors.inputs import PRIOR
from onceforall.space import Population

if TYPE_CHECKING:
    from onceforall.predictors.accuracy import Accuracy

_BLOCK = 0.1  # prior width of a single block's weight, in that of a size's


class SecondOpinion:
    """What a linear model of the predictor's records predicts for archs of its space."""

    def __init__(self, predictor: Accuracy) -> None:
        from sklearn.linear_model import BayesianRidge

        self._predictor = predictor
        targets = predictor.processes[0][1].targets
        self._model = BayesianRidge().fit(self._columns(predictor.inputs.training()), targets)

    def __call__(self, population: Population) -> Floats:
        """(n,) in the unit of the predictor, covariates averaged over."""
        mean = self._model.predict(self._columns(self._predictor.features(population)))
        return self._predictor.scale.back(np.asarray(mean, np.float64), np.zeros(len(mean)))[0]

    @staticmethod
    def _columns(groups: Groups) -> Floats:
        return np.hstack(
            [
                _BLOCK * values if "blocks" in name else values
                for name, values in groups.items()
                if name != PRIOR
            ]
        )
