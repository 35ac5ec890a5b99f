"""The run that a network is of, found again from its file: `Home`, where what is measured of the
network is kept.

Knows runs and what files say of themselves; nothing of how a network is scored or timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onceforall.data import Source
from onceforall.devices import Latency, Target, provenance
from onceforall.errors import InputError
from onceforall.export import Opened
from onceforall.families.settings import of_networks
from onceforall.interop import Resolved
from onceforall.interop.networks import is_checkpoint
from onceforall.pipeline.recording import MEASURED, digest, latency_record
from onceforall.pipeline.runs import SCORES, SETTINGS, SUPERNET, Run, open_run
from onceforall.progress import say
from onceforall.records import Record, add_all, read_jsonl
from onceforall.space import Arch
from onceforall.supernet import Score, checkpoint

DEPTH = 4  # folders up from a delivered file in which its run is looked for


@dataclass(frozen=True)
class Home:
    """The run of a network.

    Attributes:
        folder: of the run.
        of: the run itself, or the digest of its supernet's weights, where only records are left.
        arch: of the network.
        settings: those of its family that are not the family's own.
        sources: how the images are read that the run, and the network, are of.
        calibration: what the network's batch norms were measured on, as records name it; None:
            nothing that is known.
    """

    folder: Path
    of: Run | str
    arch: Arch
    settings: Mapping[str, Any]
    sources: tuple[Source, ...]
    calibration: Mapping[str, Any] | None = None

    @property
    def supernet(self) -> str:
        """The digest of its supernet's weights, for which all of them are read."""
        return self.of if isinstance(self.of, str) else digest(self.of.supernet)

    def source(self, name: str) -> Source | None:
        """How images of that name are read and split, if they are the run's or the network's."""
        return next((x for x in self.sources if _same(x.name, name)), None)

    def keep_score(self, found: Score, of: Mapping[str, Any]) -> Path | None:
        """As `keep_latency`, of what was just scored; `of` is what it is of."""
        metric, value, settings = found.metric, found.value, self.settings
        return self._keep(
            lambda: Record(self.arch, metric.name, value, metric.unit, "", of, settings)
        )

    def keep_latency(self, target: Target, found: Latency, more: Mapping[str, Any]) -> Path | None:
        """Adds what was just timed to the records of the run, and returns where; None: it is no
        record (a value that is not finite), or could not be written, which is said. `more` is what
        else is known of it."""
        of = {**provenance(target), **more}
        return self._keep(lambda: latency_record(target, self.arch, found, of, self.settings))

    def _keep(self, record: Callable[[], Record]) -> Path | None:
        path = self.folder / MEASURED
        try:
            add_all(path, [record()])
        except (OSError, InputError) as error:
            say(f"the result is not kept: {path}: {getattr(error, 'strerror', None) or error}")
            return None
        return path


def home_of(network: Resolved | Opened) -> Home | None:
    """Of a network with the weights of a run's supernet, or of one that was delivered into a run's
    folder; None: it is of no run that can be found."""
    try:
        if isinstance(network, Opened):
            return _of_delivered(network.path, network.facts, network.facts)
        path = network.weights
        if path is None or not is_checkpoint(path):
            return None
        facts = checkpoint.describe(path)
        if facts["kind"] == "supernet":
            return _of_supernet(path, network.arch)
        found = _of_delivered(path, facts, facts.get("data", {}))
    except (InputError, OSError) as error:
        say(f"{error}; so what is measured is not kept")
        return None
    except KeyError as error:
        say(f"what the file says of itself lacks {error}; so what is measured is not kept")
        return None
    if found is None or found.arch == network.arch:
        return found
    return replace(found, arch=network.arch, calibration=None)  # it was calibrated at another size


def _of_supernet(path: Path, arch: Arch) -> Home | None:
    if path.name != SUPERNET or not (path.parent / SETTINGS).is_file():
        return None
    run = open_run(path.parent)
    return Home(path.parent, run, arch, _settings(run), (run.source,))


def _of_delivered(path: Path, facts: Mapping[str, Any], data: Mapping[str, Any]) -> Home | None:
    """By the digest of its supernet's weights, which the file says: the nearest folder above it
    with that supernet, or with records of it."""
    named = facts.get("supernet")
    if named is None:
        return None
    arch, name = _arch(facts["arch"]), str(data["name"])
    for folder in path.resolve().parents[1 : 1 + DEPTH]:
        if (folder / SETTINGS).is_file() and (folder / SUPERNET).is_file():
            run = open_run(folder)
            if digest(run.supernet) == named:
                sources = (run.source, replace(run.source, name=name))
                settings = _settings(run)
                return Home(folder, named, arch, settings, sources, facts.get("calibration"))
        elif (folder / SCORES).is_file():
            for record in read_jsonl(folder / SCORES):
                if record.provenance.get("supernet") == named:
                    settings, calibration = record.settings, facts.get("calibration")
                    source = (Source(name, channels=data["channels"]),)
                    return Home(folder, named, arch, settings, source, calibration)
    return None


def _settings(run: Run) -> Mapping[str, Any]:
    return of_networks(run.supernet.family)


def _arch(given: Any) -> Arch:
    """As an exported file has it, a text, or as a checkpoint does."""
    return Arch.parse(given) if isinstance(given, str) else Arch.from_dict(given)


def _same(name: str, other: str) -> bool:
    """Whether two names are of the same images: the same folder, however it is written."""
    if name == other:
        return True
    here, there = Path(name), Path(other)
    return here.exists() and there.exists() and here.samefile(there)
