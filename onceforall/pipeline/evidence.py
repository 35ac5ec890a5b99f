"""What is known of one supernet on one device: measured scores and latencies, and the predictors
fitted to them.

Records are kept in the run's folder; what is measured is added to them and not measured again.
Knows no run: `gathering` makes it of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from onceforall import devices
from onceforall.costs import cost_table
from onceforall.data import Data
from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.export import Opened, write_for_timing
from onceforall.pipeline import collecting, recording
from onceforall.pipeline.priors import Prior
from onceforall.pipeline.ready import Ready, ready
from onceforall.pipeline.recording import BUSY, FEW, FILE, MEASURED
from onceforall.predictors import Predictor, fit_latency
from onceforall.records import Labels, Record, Store
from onceforall.space import Arch, Population
from onceforall.supernet import Metric, Score, SuperNet, Task, calibrated, score

FAR = 2.5  # standard deviations between a prediction and a measurement that disagree
TIMING_ROUNDS = 15  # of an arch
VISIT_ROUNDS = 5  # of a file that may be delivered, in each of several visits


@dataclass(frozen=True)
class FileChange:
    """What a file's precision is predicted to add to the metric: the mean over archs that were
    scored both as networks and as such files, one more without a change among them, so that few
    say little. `archs` is their number."""

    value: float
    archs: int


@dataclass(frozen=True)
class Start:
    """How many of a run's records a call began with, the first of each kind: scores and latencies
    that predictors were fitted on, and all that is in each of its files of records."""

    scores: int
    latencies: int
    kept: list[int]


@dataclass
class Evidence:
    """Measured values of a supernet's archs, and the predictors fitted to them; both grow.

    What was measured before, of the same weights, images, machine and runtime, is not measured
    again: it is found in `store`.

    Attributes:
        images: of validation that the score records stand on.
        start: the records that it began with.
        told: what the device tells beside its times (SRAM, flash), as it was measured so far.
        risk: standard deviations taken off a predicted score in search.
        delivered: archs that were specialised so far, with the latest of their latencies.
        scores: the metric on all validation images of the archs that were candidates so far, of
            this call or of those before.
        timed: latencies of the archs that were candidates so far, likewise.
        files: those written so far for archs that may be delivered.
        sizes: bytes of the files of the smallest and the largest network, by their parameters.
        folder: that records are kept in; None: they are not.
        score_file: of the score records, to which what is scored is added; None: to none.
        latency_file: likewise, of latencies.
        prior: of the score predictor.
        resumed: whether a call that was interrupted is gone on with, which finds again whatever
            it measured.
    """

    supernet: SuperNet
    data: Data
    target: Target
    task: Task
    score_predictor: Predictor
    latency_predictor: Predictor
    score_labels: Labels
    latency_labels: Labels
    images: int
    start: Start
    told: dict[str, Labels] = field(default_factory=dict)
    risk: float = 1.0
    delivered: dict[Arch, Record] = field(default_factory=dict)
    scores: dict[Arch, float] = field(default_factory=dict)
    timed: dict[Arch, Record] = field(default_factory=dict)
    files: dict[Arch, Ready] = field(default_factory=dict)
    sizes: dict[float, int] = field(default_factory=dict)
    folder: Path | None = None
    score_file: Path | None = None
    latency_file: Path | None = None
    store: Store = field(default_factory=Store)
    prior: Prior | None = None
    resumed: bool = False

    def __repr__(self) -> str:
        return (
            f"Evidence({self.target}: {len(self.score_labels)} scores,"
            f" {len(self.latency_labels)} latencies of {self.supernet!r})"
        )

    @property
    def metric(self) -> Metric:
        """What archs are scored by."""
        return self.task.metric

    def time_archs(self, archs: Sequence[Arch]) -> list[Record]:
        """Latencies of archs that are candidates; those not known are measured, in turns."""
        of, device = devices.provenance(self.target), str(self.target)
        found = {
            arch: self.store.find(arch, recording.LATENCY, of, device, (FILE, *self._stale))
            for arch in archs
        }
        missing = [arch for arch, record in found.items() if record is None]
        if missing:
            networks = [self.supernet.extract(arch).eval() for arch in missing]
            found |= dict(zip(missing, self._timed(networks, missing, {}), strict=True))
        records = [record for record in found.values() if record is not None]
        self.timed |= {record.arch: record for record in records}
        for name, labels in self.told.items():
            values = [record.provenance[name] for record in records]
            self.told[name] = _with(labels, archs, values)
        return records

    def time_file(self, ready: Ready) -> Record:
        """The latency of a file that may be delivered, unless it is known; of the network itself on
        a device that runs networks of this process."""
        arch, digest = ready.arch, ready.exported.digest
        of = devices.provenance(self.target) | {FILE: digest}
        found = self.store.find(arch, recording.LATENCY, of, str(self.target), self._stale)
        if found is None:
            timed = ready.network if self.target.format is None else ready.exported.path
            (found,) = self._timed([timed], [arch], {FILE: digest}, devices.VISITS)
        return found

    @property
    def _stale(self) -> tuple[str, ...]:
        """What records name that are of use to nobody but the call that made them."""
        return (FEW,) if self.resumed else (BUSY, FEW)

    def _timed(
        self,
        networks: Sequence[nn.Module | Path],
        archs: Sequence[Arch],
        more: dict[str, Any],
        visits: int = 1,
    ) -> list[Record]:
        family = self.supernet.family
        shapes = [collecting.shape_of(family, arch) for arch in archs]
        pairs = list(zip(networks, shapes, strict=True))
        rounds = TIMING_ROUNDS if visits == 1 else VISIT_ROUNDS
        found = devices.measure_many(self.target, pairs, rounds, visits=visits)
        busy = devices.disturbed(self.target)
        more = more | ({BUSY: True} if busy else {})
        records = recording.latency_records(family, self.target, archs, found, more)
        self._keep(records, self._file(MEASURED) if busy else self.latency_file)
        return records

    def measure_score(self, arch: Arch) -> float:
        """The metric on the validation images that the score records stand on; that on all of
        them, of the file where that is int8, goes to `scores`."""
        of = recording.score_facts(self.supernet, self.data, self.images)
        whole = recording.score_facts(self.supernet, self.data, len(self.data.validation))
        known = self.store.find(arch, self.metric.name, of, without=[FILE])
        every = self.store.find(arch, self.metric.name, whole, without=[FILE])
        if known is None or every is None:
            network = self._calibrated(arch)
            first = self._score(network, arch, 0, self.images)
            rest = first + self._score(network, arch, self.images, None)
            fresh = recording.score_record(self.supernet, arch, first, of)
            if known is None:
                known = fresh
                self._keep([known], self.score_file)
            if every is None:
                every = recording.score_record(self.supernet, arch, rest, whole)
                self._keep([every] if of != whole else [], self._file(MEASURED))
        self.scores[arch] = every.value
        self.validation_score(arch)
        return known.value

    @property
    def _quantised(self) -> bool:
        """Whether files are of another precision than the networks they are written from."""
        return self.target.file_precision(self.target.delivered_format) != "fp32"

    def _calibrated(self, arch: Arch) -> nn.Module:
        """The network of an arch: that of its file, where one is written or will be."""
        if self._quantised or arch in self.files:
            return self.file(arch).network
        return calibrated(self.supernet, arch, self.data)

    def score_file_of(self, arch: Arch, split: str) -> Record:
        """The metric of the file that may be delivered, on all images of a split, unless it is
        known."""
        exported = self.file(arch).exported
        images = getattr(self.data, split)
        of = recording.file_facts(self.supernet, self.data, split, exported.digest)
        found = self.store.find(arch, self.metric.name, of)
        if found is None:
            opened = Opened(exported.path, max(self.target.threads, 1))
            scored = score(opened, arch.resolution, images, self.metric)
            facts = of | {
                "format": exported.format,
                "precision": exported.precision,
                "scored": scored.images,
            }
            found = recording.score_record(self.supernet, arch, scored, facts)
            self._keep([found], self._file(MEASURED))
        return found

    def validation_score(self, arch: Arch) -> float:
        """The metric on all validation images of what would be delivered; of a file of another
        precision it is that of this file, also where an earlier one made the arch a candidate."""
        if self._quantised:
            self.scores[arch] = self.score_file_of(arch, "validation").value
        return self.scores[arch]

    def predict_score(self, arch: Arch) -> tuple[float, FileChange]:
        """The metric predicted of the file that would be delivered, on validation images, and what
        of it is the change by the file's precision; by nothing that was measured of its own."""
        population = self.supernet.space.encode([arch])
        mean = float(self.score_predictor.predict(population).mean[0])
        change = self._file_change(arch)
        return mean + change.value, change

    def _file_change(self, arch: Arch) -> FileChange:
        if not self._quantised:
            return FileChange(0.0, 0)
        networks = self._scores_in(self.store, files=False)
        changes = [
            value - networks[other]
            for other, value in self._scores_in(self.store, files=True).items()
            if other != arch and other in networks
        ]
        return FileChange(sum(changes) / (len(changes) + 1), len(changes))

    def _scores_in(self, store: Store, files: bool) -> dict[Arch, float]:
        """The metric on all validation images, of archs' networks or of files such as may be
        delivered."""
        name, every = self.metric.name, len(self.data.validation)
        if not files:
            of = recording.score_facts(self.supernet, self.data, every)
            return {r.arch: r.value for r in store.every(name, of, without=[FILE])}
        form = self.target.delivered_format
        of = self.data.part_facts("validation") | {
            "images": every,
            "supernet": recording.digest(self.supernet),
            "format": form.name,
            "precision": self.target.file_precision(form),
        }
        return {r.arch: r.value for r in store.every(name, of)}

    def recall(self, earlier: Store) -> None:
        """Makes candidates of the archs that calls before this one timed and scored as it would."""
        scores = self._scores_in(earlier, files=self._quantised)
        of, without = devices.provenance(self.target), (FILE, BUSY, FEW)
        times = earlier.every(recording.LATENCY, of, str(self.target), without)
        self.timed |= {record.arch: record for record in times if record.arch in scores}
        self.scores |= {arch: scores[arch] for arch in self.timed}

    def file(self, arch: Arch) -> Ready:
        """The network of an arch, calibrated, as a file that was checked and may be delivered."""
        if arch not in self.files:
            self.files[arch] = ready(self.supernet, self.data, self.task, self.target, arch)
        return self.files[arch]

    def file_sizes(self, population: Population) -> NDArray[np.float64]:
        """(n,) bytes predicted of the files that archs would be delivered as: between those of the
        smallest and the largest network, by their parameters."""
        params = cost_table(self.supernet.family, "params")
        space, form = self.supernet.space, self.target.delivered_format
        if not self.sizes:
            for arch in (space.smallest(), space.largest()):
                shape = collecting.shape_of(self.supernet.family, arch)
                network, precision = self.supernet.extract(arch), self.target.file_precision(form)
                with TemporaryDirectory() as folder:
                    path = write_for_timing(network, shape, Path(folder), form, precision)
                    count = float(params(space.encode([arch]))[0])
                    self.sizes[count] = form.bytes(path)
        counts = sorted(self.sizes)
        slope = (self.sizes[counts[-1]] - self.sizes[counts[0]]) / (counts[-1] - counts[0])
        return self.sizes[counts[0]] + slope * (params(population) - counts[0])

    def _score(self, network: nn.Module, arch: Arch, start: int, limit: int | None) -> Score:
        images = self.data.validation
        return score(network, arch.resolution, images, self.metric, start=start, limit=limit)

    def _file(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name

    def _keep(self, records: Sequence[Record], path: Path | None) -> None:
        if path is not None:
            self.store.add(path, records)

    def refit_latency(self, archs: Sequence[Arch], times_ms: Sequence[float]) -> None:
        """Fits the latency predictor anew with what was just measured."""
        self.latency_labels = _with(self.latency_labels, archs, times_ms)
        self.latency_predictor = fit_latency(self.latency_labels)

    def refit_score(self, archs: Sequence[Arch], values: Sequence[float]) -> None:
        """Fits the score predictor anew with what was just measured, on the images that the
        records stand on."""
        self.score_labels = _with(self.score_labels, archs, values)
        hint = None if self.prior is None else self.prior.predictor
        space = self.supernet.space
        self.score_predictor = collecting.fit_scores(self.score_labels, space, self.metric, hint)

    def predict_told(self, name: str) -> Predictor:
        """Fitted to all that the device told of `name` (SRAM, flash) so far.

        Raises:
            InputError: it tells nothing of it.
        """
        if name not in self.told:
            raise InputError(f"limit {name}: {self.target} does not tell it")
        return fit_latency(self.told[name])


def disagrees(predictor: Predictor, archs: Sequence[Arch], values: Sequence[float]) -> bool:
    """Whether any measured value is farther from its prediction than the predictor's own
    uncertainty explains."""
    if not archs:
        return False
    predicted = predictor.predict(predictor.space.encode(archs))
    if predicted.std is None:
        return False
    return bool((np.abs(values - predicted.mean) > FAR * predicted.std).any())


def _with(labels: Labels, archs: Sequence[Arch], values: Sequence[float]) -> Labels:
    return replace(
        labels,
        population=np.concatenate([labels.population, labels.space.encode(archs)]),
        values=np.concatenate([labels.values, values]),
        columns={},
    )
