"""Which sub-networks are trained at which step, and at what learning rate.

Pure: everything is a function of the space, the settings and the step number, so that
a resumed run takes the same steps as one that was never stopped. Knows no weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onceforall.errors import InputError, choices
from onceforall.space import Arch, Population, Space
from onceforall.space.genes import RESOLUTION
from onceforall.space.stages import KINDS
from onceforall.training.seeds import seed_of

ALL = "all"  # in a phase's `open`: every kind of gene
Macs = Callable[[Sequence[Arch]], NDArray[np.float64]]
POOL = 30  # archs drawn for each candidate, of which those of nearly the same MACs are kept


@dataclass(frozen=True)
class Phase:
    """A stretch of steps on one part of the space.

    Attributes:
        archs: sub-networks trained at each step; their gradients are added up.
        own_images: each of them on a batch of its own, so that a step takes `archs` batches;
            otherwise all on the same one (the paper's). The sum then stands on more images.
        rule: which they are, a name in RULES.
        lr: peak learning rate: linear warm-up over `warmup` steps, then a cosine to `lr_last` of
            it.
        labels: weight of the labels' loss for networks that a teacher has outputs for.
        distil: weight of the distillation loss beside it (0: labels only).
        divergence: what distillation minimises, a name in objectives.DIVERGENCES.
        couple: kinds of genes that take the choice of the same rank as the depth of their stage
            (Sahni et al., 2021, CompOFA); the others are drawn as ever.
        candidates: of how many networks of nearly the same MACs each drawn one is chosen.
        attend: by their loss on the batch, "best" or "worst" (Wang et al., 2021, AttentiveNAS).
        part: "all" weights are trained, or the "head" alone.
        sort_channels: how many choices of each kind of gene were in use before this phase, by
            which channels are sorted when it begins; None: not sorted.
    """

    name: str
    space: Space
    steps: int
    archs: int
    lr: float
    warmup: int = 0
    lr_last: float = 0.0
    rule: str = "random"
    labels: float = 1.0
    distil: float = 0.0
    divergence: str = "cross-entropy"
    own_images: bool = False
    couple: tuple[str, ...] = ()
    candidates: int = 1
    attend: str = "best"
    part: str = "all"
    sort_channels: Mapping[str, int] | None = None
    macs: Macs | None = field(default=None, compare=False)

    @property
    def batches(self) -> int:
        """Batches of images that a step takes."""
        return self.archs if self.own_images else 1

    @property
    def taught_by_teacher(self) -> bool:
        """Whether the networks learn from another than those of their own step."""
        return self.distil > 0 and self.rule != "sandwich"

    def learning_rate(self, step: int) -> float:
        """At a step of this phase, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        fallen = 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (self.lr_last + (1 - self.lr_last) * fallen)

    def draw(self, seed: int, step: int) -> list[list[Arch]]:
        """The networks of a step, counted over the whole run: for each of them the candidates that
        it is chosen from, all of one resolution."""
        rng = np.random.default_rng(seed_of("archs", seed, step))
        return RULES[self.rule](self, rng, step)

    def sample(self, rng: np.random.Generator, n: int, resolution: int | None = None) -> Population:
        """Archs of this phase's space, uniformly but for what is coupled."""
        at = self.space_at(resolution)
        return coupled(at, at.sample(rng, n), self.couple) if self.couple else at.sample(rng, n)

    def space_at(self, resolution: int | None) -> Space:
        """At one resolution; None: at all."""
        if resolution is None or not self.space.scaled:
            return self.space
        return self.space.restrict(resolution=(resolution,))

    def drawn(
        self, rng: np.random.Generator, n: int, resolution: int | None = None
    ) -> list[list[Arch]]:
        """So many networks at random, each with its candidates."""
        if self.candidates == 1 or self.macs is None:
            drawn = self.sample(rng, n, resolution)
            return [[arch] for arch in self.space_at(resolution).decode(drawn)]
        slots = []
        for _ in range(n):
            at = resolution
            if at is None and self.space.scaled:
                at = int(rng.choice(self.space.resolution))
            pool = self.space_at(at).decode(self.sample(rng, POOL * self.candidates, at))
            macs = self.macs(pool)
            near = np.argsort(np.abs(macs - macs[0]), kind="stable")[: self.candidates]
            slots.append([pool[i] for i in near])
        return slots


def coupled(space: Space, population: Population, kinds: Sequence[str]) -> Population:
    """The archs with every gene of these kinds at the rank of its stage's depth: of the smallest
    depth the smallest value, of the largest the largest, in between in proportion."""
    found = population.copy()
    for column, depth in _couples(space, kinds).items():
        share = population[:, depth] / max(1, len(space.genes[depth].values) - 1)
        most = len(space.genes[column].values) - 1
        found[:, column] = np.rint(share * most).astype(found.dtype)
    return space.canonical(found)


def _couples(space: Space, kinds: Sequence[str]) -> dict[int, int]:
    """Columns of the genes of these kinds -> of the depth they go with: the gene by which others
    are present that is nearest to their own place."""
    controlling = {c.gene for gene in space.genes for c in gene.present}
    found = {}
    for column, gene in enumerate(space.genes):
        if gene.kind not in kinds or gene.name in controlling:
            continue
        near = [
            name
            for name in controlling
            if f"{gene.place}.".startswith(f"{name.rpartition('.')[0]}.") or "." not in name
        ]
        if near:
            found[column] = space.column(max(near, key=len))
    return found


def _random(phase: Phase, rng: np.random.Generator, step: int) -> list[list[Arch]]:
    """All drawn, at one resolution a step: the paper's."""
    resolution = int(rng.choice(phase.space.resolution)) if phase.space.scaled else None
    return phase.drawn(rng, phase.archs, resolution)


def _sandwich(phase: Phase, rng: np.random.Generator, step: int) -> list[list[Arch]]:
    """The largest, the smallest, and the rest drawn, each at its own resolution, the largest
    teaching the others in place (Yu et al., 2019 and 2020)."""
    ends = [[phase.space.largest()], [phase.space.smallest()]]
    return ends + phase.drawn(rng, phase.archs - 2)


def _alternate(phase: Phase, rng: np.random.Generator, step: int) -> list[list[Arch]]:
    """The largest and the smallest in turns, and the rest drawn, each at its own resolution."""
    end = phase.space.smallest() if step % 2 else phase.space.largest()
    return [[end], *phase.drawn(rng, phase.archs - 1)]


RULES: dict[str, Callable[[Phase, np.random.Generator, int], list[list[Arch]]]] = {
    "random": _random,
    "sandwich": _sandwich,
    "alternate": _alternate,
}


@dataclass(frozen=True)
class Curriculum:
    """Phases, one after the other."""

    phases: tuple[Phase, ...]

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step, and the step's number within it."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise IndexError(step)

    def batches_before(self, step: int) -> int:
        """Batches of images taken by all steps before this one."""
        taken = 0
        for phase in self.phases:
            taken += phase.batches * min(step, phase.steps)
            step = max(0, step - phase.steps)
        return taken


@dataclass(frozen=True)
class PhasePlan:
    """One phase of a recipe, before the space is known; the rest is said of `Phase`."""

    name: str
    steps: int
    lr: float
    archs: int = 1
    kernel: int = 1  # how many of the largest choices are open
    depth: int = 1
    expand: int = 1
    width: int = 1
    open: Mapping[str, int] = field(default_factory=dict)  # the same of any kind of gene
    rule: str = "random"
    labels: float = 1.0
    distil: float = 0.0
    divergence: str = "cross-entropy"
    own_images: bool = False
    warmup: int = 0
    lr_last: float = 0.0
    couple: tuple[str, ...] = ()
    candidates: int = 1
    attend: str = "best"
    part: str = "all"


AS_PLANNED = (  # of a phase that are those of its plan
    *("name", "steps", "archs", "lr", "warmup", "lr_last", "rule", "labels", "distil"),
    *("divergence", "own_images", "couple", "candidates", "attend", "part"),
)


def curriculum(
    space: Space,
    plans: Sequence[PhasePlan],
    macs: Macs | None = None,
) -> Curriculum:
    """The phases of a recipe on a space; where a phase opens smaller expand ratios, or of a space
    without stages more of any choice, the channels are sorted at its start (paper, section 3.3).
    `macs` is needed where a phase has several candidates."""
    if not plans:
        raise InputError("phases: none given")
    phases = []
    most = {
        g.kind: max(len(x.values) for x in space.genes if x.kind == g.kind) for g in space.genes
    }
    resizing = {"expand"} if space.staged else {k for k in most if k != RESOLUTION}
    opened = dict.fromkeys(most, 1)  # choices of each kind in use so far
    for plan in plans:
        counts = _counts(space, plan)
        now = {k: max(n, min(counts.get(k, 1), most[k])) for k, n in opened.items()}
        formed = opened if any(now[k] > opened[k] for k in resizing & now.keys()) else None
        opened = now
        part = _opened(space, plan)
        for kind in plan.couple:
            depths = {*_couples(space, [kind]).values()}
            if not depths:
                raise InputError(
                    f"phase {plan.name}: couple: {space.family} has no {kind!r} that goes with a"
                    " depth"
                )
            if all(len(part.genes[column].values) == 1 for column in depths):
                raise InputError(
                    f"phase {plan.name}: couple: {kind!r} has no depth to go with, as the phase"
                    " opens one depth; open more, or leave couple out"
                )
        same = {name: getattr(plan, name) for name in AS_PLANNED}
        phases.append(Phase(**same, space=part, sort_channels=formed, macs=macs))
    return Curriculum(tuple(phases))


def _counts(space: Space, plan: PhasePlan) -> dict[str, int]:
    """Of each kind of gene, or of single genes, how many of the largest choices a phase opens: one
    where it says nothing."""
    kinds = {gene.kind for gene in space.genes if gene.name != RESOLUTION}
    given = dict(plan.open)
    counts = dict.fromkeys(kinds, given.pop(ALL, 1))
    counts |= {k: n for k in KINDS if (n := getattr(plan, k)) > 1}
    return counts | given


def _opened(space: Space, plan: PhasePlan) -> Space:
    """The part of a space that a phase opens; the resolutions are open throughout.

    Raises:
        InputError: the phase opens a kind that the space has not.
    """
    counts = _counts(space, plan)
    known = {gene.name for gene in space.genes} | {gene.kind for gene in space.genes}
    unknown = sorted(counts.keys() - known)
    if unknown:
        kinds = sorted({gene.kind for gene in space.genes} - {RESOLUTION})
        raise InputError(
            f"phase {plan.name}: {space.family} has no {unknown[0]!r} to open; it has"
            f" {choices(kinds)}; open: {{{ALL}: 2}} is for every kind, as in the recipe any"
        )
    return space.top(**counts)
