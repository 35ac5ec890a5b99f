"""Which sub-networks are trained at which step, and at what learning rate.

Pure: everything is a function of the space, the settings and the step number, so that
a resumed run takes the same steps as one that was never stopped. Knows no weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onceforall.errors import InputError, choices
from onceforall.space import Arch, Space
from onceforall.space.genes import RESOLUTION
from onceforall.space.stages import KINDS
from onceforall.training.seeds import seed_of

ALL = "all"  # in a phase's `open`: every kind of gene


@dataclass(frozen=True)
class Phase:
    """A stretch of steps on one part of the space.

    Attributes:
        archs: sub-networks trained at each step; their gradients are added up.
        own_images: each of them on a batch of its own, so that a step takes `archs` batches;
            otherwise all on the same one (the paper's). The sum then stands on more images.
        rule: "random" samples them all, at one resolution a step (the paper's). "sandwich"
            takes the largest, the smallest and samples the rest, each at its own resolution, the
            largest teaching the others in place (Yu et al., 2019 and 2020). "alternate" takes the
            largest and the smallest in turns and samples the rest, each at its own resolution.
        lr: peak learning rate: linear warm-up over `warmup` steps, then cosine to 0.
        distil: weight of the distillation loss beside the labels' (0: labels only).
        sort_channels: how many choices of each kind of gene were in use before this phase, by
            which channels are sorted when it begins; None: not sorted.
    """

    name: str
    space: Space
    steps: int
    archs: int
    lr: float
    warmup: int = 0
    rule: str = "random"
    distil: float = 0.0
    own_images: bool = False
    sort_channels: Mapping[str, int] | None = None

    @property
    def batches(self) -> int:
        """Batches of images that a step takes."""
        return self.archs if self.own_images else 1

    def learning_rate(self, step: int) -> float:
        """At a step of this phase, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))

    def sample(self, seed: int, step: int) -> list[Arch]:
        """The archs of a step, counted over the whole run."""
        rng = np.random.default_rng(seed_of("archs", seed, step))
        if self.rule == "sandwich":
            ends = [self.space.largest(), self.space.smallest()]
            return ends + self.space.decode(self.space.sample(rng, self.archs - 2))
        if self.rule == "alternate":
            end = self.space.smallest() if step % 2 else self.space.largest()
            return [end, *self.space.decode(self.space.sample(rng, self.archs - 1))]
        at = self.space
        if at.scaled:
            at = at.restrict(resolution=(int(rng.choice(at.resolution)),))
        return at.decode(at.sample(rng, self.archs))


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
class Share:
    """One phase of a recipe, before the space and the number of steps are known."""

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
    distil: float = 0.0
    own_images: bool = False
    warmup: int = 0


def curriculum(space: Space, shares: Sequence[Share]) -> Curriculum:
    """The phases of a recipe on a space; where a phase opens smaller expand ratios, or of a space
    without stages more of any choice, the channels are sorted at its start (paper, section 3.3)."""
    if not shares:
        raise InputError("phases: none given")
    phases = []
    most = {
        g.kind: max(len(x.values) for x in space.genes if x.kind == g.kind) for g in space.genes
    }
    resizing = {"expand"} if space.staged else {k for k in most if k != RESOLUTION}
    opened = dict.fromkeys(most, 1)  # choices of each kind in use so far
    for share in shares:
        counts = _counts(space, share)
        now = {k: max(n, min(counts.get(k, 1), most[k])) for k, n in opened.items()}
        formed = opened if any(now[k] > opened[k] for k in resizing & now.keys()) else None
        opened = now
        part = _opened(space, share)
        phases.append(
            Phase(
                name=share.name,
                space=part,
                steps=share.steps,
                archs=share.archs,
                lr=share.lr,
                warmup=share.warmup,
                rule=share.rule,
                distil=share.distil,
                own_images=share.own_images,
                sort_channels=formed,
            )
        )
    return Curriculum(tuple(phases))


def _counts(space: Space, share: Share) -> dict[str, int]:
    """Of each kind of gene, or of single genes, how many of the largest choices a phase opens: one
    where it says nothing."""
    kinds = {gene.kind for gene in space.genes if gene.name != RESOLUTION}
    given = dict(share.open)
    counts = dict.fromkeys(kinds, given.pop(ALL, 1))
    counts |= {k: n for k in KINDS if (n := getattr(share, k)) > 1}
    return counts | given


def _opened(space: Space, share: Share) -> Space:
    """The part of a space that a phase opens; the resolutions are open throughout.

    Raises:
        InputError: the phase opens a kind that the space has not.
    """
    counts = _counts(space, share)
    known = {gene.name for gene in space.genes} | {gene.kind for gene in space.genes}
    unknown = sorted(counts.keys() - known)
    if unknown:
        kinds = sorted({gene.kind for gene in space.genes} - {RESOLUTION})
        raise InputError(
            f"phase {share.name}: {space.family} has no {unknown[0]!r} to open; it has"
            f" {choices(kinds)}; open: {{{ALL}: 2}} is for every kind, as in the recipe any"
        )
    return space.top(**counts)
