"""Settings of a training run: numbers out of range and contradictions are refused before anything
starts. The unit of each number stands under it. Knows no networks, no data, and no files, which
`config` reads them from."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onceforall import plugins
from onceforall.data import BALANCES, HOLDS, Source
from onceforall.errors import InputError, choices, suggestion
from onceforall.supernet.tasks import CLASSIFICATION
from onceforall.training.curricula import RULES, PhasePlan
from onceforall.training.objectives import DIVERGENCES

AUTO = "auto"  # of the precision: chosen by a probe where the run begins
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", AUTO)
OPTIMIZERS = ("sgd", "adamw")
ATTENDED = ("best", "worst")
PARTS = ("all", "head")
KEPT = ("last", "best")

# Beyond these there is no sense in a number, or some library fails in words of its own.
LARGEST = 10**9
MOST_ARCHS = 1000  # sub-networks a step
MOST_PIXELS = 4096
MOST_THREADS = 1024
MOST_WORKERS = 256
MOST_CANDIDATES = 100
MOST_CHECKPOINTS = 1000


@dataclass(frozen=True)
class PhaseSettings:
    """One phase of training; its length is `steps`, or `epochs` and before them `warmup_epochs`."""

    name: str
    # of the phase, in logs and files
    lr: float
    # peak learning rate, for the whole batch, or for `lr_per` images
    steps: int | None = None
    # length in steps; or `epochs`
    epochs: float | None = None
    # length in passes over the training images
    archs: int = 1
    # sub-networks a step
    kernel: int = 1
    # how many of the largest kernel sizes are open
    depth: int = 1
    # likewise of the depths
    expand: int = 1
    # likewise of the expand ratios
    width: int = 1
    # likewise of the widths
    open: dict[str, int] = field(default_factory=dict)
    # the same of any kind of gene: {heads: 2, mlp: 3}; of what is not named, the largest alone
    rule: str = "random"
    # "random", "sandwich" or "alternate"
    distil: float = 0.0
    # weight of the distillation loss beside the labels'
    labels: float = 1.0
    # weight of the labels' loss for networks that are taught; 0: of soft labels only (BigNAS)
    divergence: str = "cross-entropy"
    # what distillation minimises: "cross-entropy" to soft labels, or "alpha" (AlphaNet)
    couple: tuple[str, ...] = ()
    # kinds of choices that go with the depth of their stage, as [expand] (CompOFA)
    candidates: int = 1
    # of how many networks of nearly the same MACs each drawn one is chosen (AttentiveNAS)
    attend: str = "best"
    # by their loss on the batch: the "best" or the "worst" of them
    part: str = "all"
    # "all" weights are trained, or the "head" alone, the last layer
    own_images: bool = False
    # whether each sub-network of a step has a batch of its own; otherwise all have the same
    warmup: float = 0.0
    # share of the phase, at its beginning, in which the learning rate rises, 0 to 1
    warmup_epochs: float | None = None
    # passes over the training images in which it rises, before those of `epochs`; not with `warmup`
    lr_last: float = 0.0
    # what the learning rate falls to, as a share of its peak, 0 to 1

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError("needs steps or epochs, one of the two")
        for name in ("lr", "steps", "epochs", "kernel", "depth", "expand", "width"):
            _check(name, getattr(self, name), above=0, most=LARGEST)
        for name, count in self.open.items():
            _check(f"open: {name}", count, above=0, most=LARGEST)
        _check("archs", self.archs, least=1, most=MOST_ARCHS)
        _check("distil", self.distil, least=0, most=LARGEST)
        _check("labels", self.labels, least=0, most=LARGEST)
        _check("lr_last", self.lr_last, least=0, most=1)
        _check("candidates", self.candidates, least=1, most=MOST_CANDIDATES)
        _check("warmup", self.warmup, least=0, most=1)
        _check("warmup_epochs", self.warmup_epochs, least=0, most=LARGEST)
        if self.warmup_epochs is not None and (self.epochs is None or self.warmup):
            raise InputError(
                f"warmup_epochs: {self.warmup_epochs} goes with epochs, not with steps or warmup"
            )
        _check_name("rule", self.rule, RULES)
        _check_name("divergence", self.divergence, DIVERGENCES)
        _check_name("attend", self.attend, ATTENDED)
        _check_name("part", self.part, PARTS)
        if not self.labels and not self.distil:
            raise InputError("labels: 0 leaves nothing to minimise where distil is 0")
        if self.rule == "sandwich" and self.archs < 2:
            raise InputError(f"archs: {self.archs}; the sandwich rule needs at least 2")

    def plan(self, images: int, batch: int, lr_per: int | None = None) -> PhasePlan:
        """With its length in steps, for a training set of that many images, and its learning rate
        for that batch."""
        an_epoch = images / (batch * (self.archs if self.own_images else 1))  # steps
        rising = self.warmup_epochs or 0
        steps = self.steps or max(1, round((rising + (self.epochs or 0)) * an_epoch))
        warmup = self.warmup * steps if self.warmup_epochs is None else rising * an_epoch
        ours = {"steps", "warmup", "lr"}
        as_they_are = {f.name for f in dataclasses.fields(PhasePlan)} - ours
        same = {name: getattr(self, name) for name in as_they_are}
        lr = self.lr * batch / lr_per if lr_per else self.lr
        return PhasePlan(**same, steps=steps, warmup=round(warmup), lr=lr)


@dataclass(frozen=True)
class Settings:
    """A training run."""

    phases: tuple[PhaseSettings, ...]
    # a list, one after the other
    data: Source = field(default_factory=lambda: Source("fashion-mnist"))
    # where images come from
    family: str = "mbv3_mini"
    # a family, or "my_net.py:family"
    resolutions: tuple[int, ...] | None = None
    # pixels; None: 6/7 and 7/7 of the size of small images, 4/7 to 7/7 of that of photos
    weights: str | None = None
    # a file with a trained network's weights, which the largest network starts from and which, if
    # it has the same classes, is the teacher from the first phase on
    task: str = CLASSIFICATION.name
    # what is minimised, and what says how good a network is; "my_task.py:name" for one of yours
    batch_size: int = 128
    # images, over all processes; 2 or more in each
    accumulate: int | None = None
    # parts that a process runs its share of a batch in, one after the other, batch norm in each by
    # itself; None: 1, or on a GPU as many as its memory asks for
    recompute: bool = False
    # whether blocks are run again in the backward pass in place of keeping what they computed
    optimizer: str = "sgd"
    # "sgd" (Nesterov) or "adamw"
    lr_per: int | None = None
    # images that the phases' learning rates are for; None: a batch
    momentum: float = 0.9
    # of sgd, 0 to 1
    betas: tuple[float, ...] = (0.9, 0.999)
    # of adamw, 0 to 1
    weight_decay: float = 3e-5
    # of weights; none on batch norm and biases
    clip: float | None = None
    # the most that the norm of a step's gradients may be, longer ones are made shorter
    ema: float = 0.0
    # decay of a running mean of the weights, by which networks are judged, 0 to 1; 0: none
    label_smoothing: float = 0.1
    # share of the target's mass spread over all classes, 0 to 1
    dropout: float = 0.0
    # before the classifier, share from 0 to 1
    stochastic_depth: float = 0.0
    # share of residual branches that the largest network drops for an image, 0 to 1,
    # rising from the first block to the last
    mixup: float = 0.0
    # alpha of the distribution by which images and their labels are mixed; 0: not
    cutmix: float = 0.0
    # likewise where a part of an image is put into another one
    precision: str = "fp32"
    # "fp32", "tf32" (of an NVIDIA GPU), "bf16", "fp16" with scaled losses, or "auto": bf16
    # where a probe of two seconds finds it faster than fp32, as many CPUs do not
    sync_batch_norm: bool = False
    # whether processes normalise by the statistics of the whole batch, or each by its part's
    seed: int = 0
    # 0 to 2^63 - 1
    threads: int | None = None
    # of PyTorch on the CPU; None: as many as it has
    checkpoint_seconds: float = 60.0
    # seconds between two checkpoints
    checkpoints: int = 2
    # the latest ones are kept, beside one a phase
    log_steps: int = 20
    # steps between two lines of metrics
    validate_steps: int | None = None
    # steps between two looks at validation images; None: at the end of each phase
    validate_archs: int = 2
    # networks drawn at random that are looked at beside the largest and the smallest
    keep: str = "last"
    # which weights are the result: the "last", or the "best" on validation in the last phase
    tensorboard: bool = False
    # whether metrics are written for TensorBoard, too

    def __post_init__(self) -> None:
        if plugins.is_file(self.task):  # found again from any folder
            object.__setattr__(self, "task", str(Path(self.task).absolute()))
        if self.weights is not None:
            object.__setattr__(self, "weights", str(Path(self.weights).absolute()))
        if not self.phases:
            raise InputError("phases: none given")
        _check("batch_size", self.batch_size, least=2, most=LARGEST)  # batch norm needs 2
        for name in ("log_steps", "checkpoint_seconds", "lr_per", "clip", "validate_steps"):
            _check(name, getattr(self, name), above=0, most=LARGEST)
        for name in ("momentum", "label_smoothing", "dropout", "stochastic_depth", "ema"):
            _check(name, getattr(self, name), least=0, below=1)
        for name in ("mixup", "cutmix"):
            _check(name, getattr(self, name), least=0, most=LARGEST)
        for beta in self.betas:
            _check("betas", beta, least=0, below=1)
        if len(self.betas) != 2:
            raise InputError(f"betas: {list(self.betas)} are not two numbers")
        _check("accumulate", self.accumulate, least=1, most=LARGEST)
        _check("checkpoints", self.checkpoints, least=1, most=MOST_CHECKPOINTS)
        _check("validate_archs", self.validate_archs, least=0, most=MOST_ARCHS)
        _check("weight_decay", self.weight_decay, least=0, most=LARGEST)
        _check("seed", self.seed, least=0, below=2**63)
        _check("threads", self.threads, least=1, most=MOST_THREADS)
        self._check_resolutions()
        self._check_data()
        _check_name("precision", self.precision, PRECISIONS)
        _check_name("optimizer", self.optimizer, OPTIMIZERS)
        _check_name("keep", self.keep, KEPT)
        first = self.phases[0]
        if first.distil and first.rule != "sandwich" and self.weights is None:
            raise InputError("phases: the first one has no teacher yet; its distil must be 0")

    def _check_resolutions(self) -> None:
        for resolution in self.resolutions or ():
            _check("resolutions", resolution, least=1, most=MOST_PIXELS)
        given = self.resolutions
        if given is not None and (not given or list(given) != sorted(set(given))):
            raise InputError(f"resolutions: {list(given)} is not an ascending list of pixels")

    def _check_data(self) -> None:
        _check("data: validation", self.data.validation, above=0, most=LARGEST)
        _check("data: workers", self.data.workers, least=0, most=MOST_WORKERS)
        _check("data: unreadable", self.data.unreadable, least=0, most=1)
        if self.data.channels not in (None, 1, 3):
            raise InputError(f"data: channels: {self.data.channels}; there are 1 and 3")
        for mean in self.data.mean or ():
            _check("data: mean", mean, least=-LARGEST, most=LARGEST)
        for std in self.data.std or ():
            _check("data: std", std, above=0, most=LARGEST)
        if self.data.hold not in HOLDS:
            raise InputError(f"data: hold: {self.data.hold!r}; there are {choices(HOLDS)}")
        if self.data.balance not in BALANCES:
            raise InputError(f"data: balance: {self.data.balance!r}; there are {choices(BALANCES)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `config.settings_from_dict` reads it."""
        return _plain(dataclasses.asdict(self))


def _check(
    name: str,
    value: float | None,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuses a number outside its range, and what is no number at all; None is not given."""
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    given = {word: bound for word, bound in bounds.items() if bound is not None}
    holds = {"at least": operator.ge, "above": operator.gt}
    holds |= {"at most": operator.le, "below": operator.lt}
    if value is not None and not all(holds[word](value, given[word]) for word in given):
        wanted = " and ".join(f"{word} {bound:,}" for word, bound in given.items())
        raise InputError(f"{name}: {value} is not {wanted}")


def _check_name(field: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(f"{field}: {name!r}; there are {choices(known)}{suggestion(name, known)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
