"""What a search has asked of archs: the objective, and quantities that are limited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError
from onceforall.search.limits import Floats, Limit
from onceforall.space import GENE, Population, Space, Table

Objective = Callable[[Population], Floats]  # (n, genes) -> (n,), more is better
T = TypeVar("T", bound=np.generic)


class Memory:
    """What a function of populations gave: each arch is asked for once.

    Attributes:
        name: of the function, for messages.
    """

    def __init__(self, space: Space, function: Objective, name: str) -> None:
        self.space, self.name = space, name
        self._function = function
        # a random linear code of 64 bits: two archs share one with probability 2^-64
        rng = np.random.default_rng(20)
        self._code = rng.integers(-(2**63), 2**63 - 1, len(space.genes), dtype=np.int64)
        self._index: dict[int, int] = {}
        self._values = np.zeros(1024)

    def __call__(self, population: Population) -> Floats:
        where = self.add(population)
        return self._values[where]

    def __len__(self) -> int:
        return len(self._index)

    @property
    def values(self) -> Floats:
        """(n,) in the order in which archs were added."""
        return self._values[: len(self)]

    def keys(self, population: Population) -> list[int]:
        """A number for each arch, the same for equal archs."""
        codes: list[int] = (population.astype(np.int64) @ self._code).tolist()
        return codes

    def unseen(self, population: Population) -> Population:
        """The distinct archs of a population that are not here yet, in order."""
        return population[list(self._first(self.keys(population)).values())]

    def add(self, population: Population) -> NDArray[np.intp]:
        """(n,) where each arch of the population is here; the function is asked for new ones.

        Raises:
            InputError: the function gives not one number an arch.
        """
        keys = self.keys(population)
        new = self._first(keys)
        if new:
            rows = population[list(new.values())]
            self._keep(rows, self._asked(rows))
            for key in new:
                self._index[key] = len(self._index)
        return np.array([self._index[key] for key in keys], np.intp)

    def _first(self, keys: Sequence[int]) -> dict[int, int]:
        """Where each key that is not here yet comes first."""
        first: dict[int, int] = {}
        for i, key in enumerate(keys):
            if key not in self._index:
                first.setdefault(key, i)
        return first

    def _asked(self, rows: Population) -> Floats:
        values = np.asarray(self._function(rows), float)
        if values.shape != (len(rows),):
            raise InputError(
                f"{self.name}: gave an array of shape {values.shape} for {len(rows)} archs"
            )
        return values

    def _keep(self, rows: Population, values: Floats) -> None:
        """Adds what was found of new archs."""
        self._values = _appended(self._values, len(self), values)


class Archive(Memory):
    """All archs evaluated so far, each once, in order: several searches can share one."""

    def __init__(self, space: Space, objective: Objective) -> None:
        super().__init__(space, objective, "objective")
        self._population = np.zeros((1024, len(space.genes)), GENE)
        self._limited: dict[int, Memory] = {}

    @property
    def population(self) -> Population:
        return self._population[: len(self)]

    def limited(self, limit: Limit, population: Population) -> Floats:
        """(n,) the quantity of a limit; a function is asked for each arch once, whatever the
        bounds."""
        if isinstance(limit.value, Table):
            return limit.of(population)
        known = self._limited.get(id(limit.value))
        if known is None:
            known = Memory(self.space, limit.value, f"limit {limit.name}")
            self._limited[id(limit.value)] = known
        return known(population)

    def _asked(self, rows: Population) -> Floats:
        values = super()._asked(rows)
        if np.isnan(values).any():
            arch = self.space.decode(rows[np.isnan(values)][:1])[0]
            raise InputError(f"objective: not a number for {arch}")
        return values

    def _keep(self, rows: Population, values: Floats) -> None:
        self._population = _appended(self._population, len(self), rows)
        super()._keep(rows, values)


def _appended(known: NDArray[T], n: int, new: NDArray[T]) -> NDArray[T]:
    """The array with `new` after its first n rows; a larger one where there is no place left."""
    if n + len(new) > len(known):
        larger = np.zeros((max(n + len(new), 2 * len(known)), *known.shape[1:]), known.dtype)
        larger[:n] = known[:n]
        known = larger
    known[n : n + len(new)] = new
    return known
