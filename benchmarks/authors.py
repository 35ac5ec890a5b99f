"""The authors' recipe for an accuracy predictor (PyPI `ofa`), fitted on labels: `perceptron`.

Three layers of 400, Adam on the L1 error, 2000 steps. What the benchmarks compare ours with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.records import Labels
from onceforall.space import Population, Space

Predict = Callable[[Space, Population], NDArray[np.float64]]
_STEPS = 2000


def perceptron(train: Labels, seed: int) -> Predict | None:
    """A function of the archs of a space; None without `ofa`."""
    try:
        from ofa.nas.accuracy_predictor import AccuracyPredictor, MobileNetArchEncoder
    except ImportError:
        return None
    import torch

    torch.manual_seed(seed)
    encoder = MobileNetArchEncoder(image_size_list=[128, 160, 192])
    model = AccuracyPredictor(encoder, 400, 3, device="cpu")
    mean, scale = float(train.values.mean()), float(train.values.std())

    def inputs(space: Space, population: Population) -> torch.Tensor:
        return torch.tensor(_codes(encoder, space, population), dtype=torch.float32)

    x = inputs(train.space, train.population)
    y = torch.tensor((train.values - mean) / scale, dtype=torch.float32)
    model.base_acc.data.zero_()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        rows = torch.randint(len(x), (min(256, len(x)),))
        loss = (model(x[rows]).squeeze() - y[rows]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    def predict(space: Space, population: Population) -> NDArray[np.float64]:
        with torch.no_grad():
            told = model(inputs(space, population)).reshape(-1).numpy()
        return mean + scale * told.astype(np.float64)

    return predict


def _codes(encoder: Any, space: Space, population: Population) -> NDArray[np.float64]:
    """(n, inputs) the archs as `ofa` codes them."""
    out = []
    for arch in space.decode(population):
        lists: dict[str, list[Any]] = {"ks": [], "e": [], "d": list(arch.depths)}
        for stage in arch.stages:
            lists["ks"] += [b.kernel for b in stage] + [3] * (4 - len(stage))
            lists["e"] += [b.expand for b in stage] + [3] * (4 - len(stage))
        out.append(encoder.arch2feature({**lists, "image_size": arch.resolution}))
    return np.array(out)
