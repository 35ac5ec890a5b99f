"""What the networks of a space have to do, for predictors: `Work`, by their family's costs.

Knows spaces and tables; which networks a family has, `costs` asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from onceforall.errors import InputError
from onceforall.predictors.base import Floats
from onceforall.space import Population, Space, Table
from onceforall.space.stages import block_gene
from onceforall.space.tables import values_of

if TYPE_CHECKING:
    from onceforall.costs import Counted


@dataclass(frozen=True, eq=False)
class Work:
    """Additive costs of archs; and MACs of each stage by itself, where there are stages."""

    macs: Table | Counted
    params: Table | Counted
    written: Table | Counted  # elements that convolutions and products of matrices write
    depthwise: Table | Counted  # MACs of depthwise convolutions
    pools: Table | Counted  # poolings: one for each squeeze-excite block, and the head's
    operations: Table | Counted  # of any kind: what a device has to start one by one
    stage_macs: tuple[Table, ...]

    @property
    def quick(self) -> bool:
        """Whether nothing has to be built to answer."""
        return isinstance(self.macs, Table)


@dataclass(frozen=True)
class Unknown:
    """In the place of `Work`, and why."""

    reason: str


def amounts(of: Sequence[Table | Counted], population: Population) -> Floats:
    """(quantities, n)"""
    tables = [each for each in of if isinstance(each, Table)]
    if len(tables) == len(of):
        return values_of(tables, population)
    return np.stack([each(population) for each in of])


def work_of(
    space: Space, resolutions: tuple[int, ...], settings: Mapping[str, Any]
) -> Work | Unknown:
    """That of the space's family with these settings at these resolutions, in the order given;
    unknown where no family of that name and space can be built, or its costs are not all known."""
    return _work_of(space, resolutions, json.dumps(dict(settings), sort_keys=True))


@lru_cache(maxsize=16)
def _work_of(space: Space, resolutions: tuple[int, ...], settings: str) -> Work | Unknown:
    from onceforall.costs import cost_table
    from onceforall.families.settings import made_again

    try:
        family = made_again(space.family, json.loads(settings), "costs")
        space.check_part(family.space, "costs")
        part = space.at(resolutions)

        def of(name: str) -> Table | Counted:
            return cost_table(family, name, resolutions).restrict(part)

        macs = of("macs")
        stages = space.stages if space.staged and isinstance(macs, Table) else ()
        return Work(
            macs=macs,
            params=of("params"),
            written=of("written"),
            depthwise=of("depthwise"),
            pools=of("pools"),
            operations=of("operations"),
            stage_macs=tuple(_of_stage(macs, s) for s in range(len(stages))),  # type: ignore[arg-type]
        )
    except InputError as error:
        return Unknown(str(error))


def _of_stage(table: Table, stage: int) -> Table:
    """The table with all but one stage set to 0."""
    blocks = range(table.space.stages[stage].blocks)
    own = {block_gene(stage, b, "kernel") for b in blocks}
    return table.with_values(
        [f.values if own & set(f.genes) else np.zeros_like(f.values) for f in table.factors]
    )
