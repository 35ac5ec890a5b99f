"""A supernet, as whoever uses it needs it: weights, data, and the folder of what is measured of it.

Of a finished training run (`open_run`), or of anybody's weights (`run_of`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from onceforall import data
from onceforall.errors import InputError
from onceforall.progress import say
from onceforall.supernet import CLASSIFICATION, SuperNet, Task, load_supernet, tasks
from onceforall.training import settings_from_dict

if TYPE_CHECKING:
    from onceforall.pipeline.deliveries import Amount, Options
    from onceforall.pipeline.delivering import Card
    from onceforall.pipeline.fronts import Front

SUPERNET, SETTINGS = "supernet.safetensors", "settings.json"  # in the folder of a training run
SCORES = "accuracy.jsonl"  # records that accuracy predictors are fitted to


@dataclass(frozen=True)
class Run:
    """A trained supernet and what it was trained on."""

    folder: Path
    supernet: SuperNet
    facts: dict[str, Any]  # those of its checkpoint
    source: data.Source
    own_data: bool = True  # not another data set than it was trained on
    task: Task = CLASSIFICATION  # what it was trained for, and is scored by

    @property
    def score_file(self) -> Path:
        """Of the records of its archs' scores."""
        return self.folder / SCORES

    def data(self) -> data.Data:
        """Its data set, found again and split as it was in training. Where its images are others
        now, it says of which classes.

        Raises:
            InputError: it is not there, or has another number of classes.
        """
        name, contents = self.source.name, self.folder / data.CONTENTS
        files = name not in data.names()
        if self.own_data and files and not Path(name).is_dir():
            raise InputError(
                f"{self.folder}: was trained on the images in {name}, and no folder is there (seen"
                f" from {Path.cwd()}); --data names where they are now"
            )
        found = data.load(self.source)
        if self.own_data and files and not contents.exists():
            say(
                f"{self.folder}: has no {data.CONTENTS}, so images may be for validation and test"
                " now that it was trained on"
            )
        elif self.own_data:
            changes = data.changes_since(contents, found)
            if changes:
                say(f"{name}: images have changed since {self.folder} was trained: {changes}")
        if len(found.classes) != self.supernet.family.classes:
            raise InputError(
                f"{name}: has {len(found.classes)} classes now,"
                f" the supernet {self.supernet.family.classes}"
            )
        return found

    @overload
    def specialize(
        self,
        *,
        max_latency: Amount | None = None,
        device: str = "onnxruntime-cpu",
        precision: str = "fp32",
        **options: Unpack[Options],
    ) -> Card: ...
    @overload
    def specialize(  # type: ignore[overload-overlap]
        self,
        *,
        max_latency: Amount | Sequence[Amount] | None = None,
        device: str | Sequence[str] = "onnxruntime-cpu",
        precision: str | Sequence[str] = "fp32",
        **options: Unpack[Options],
    ) -> list[Card]: ...
    def specialize(
        self,
        *,
        max_latency: Amount | Sequence[Amount] | None = None,
        device: str | Sequence[str] = "onnxruntime-cpu",
        precision: str | Sequence[str] = "fp32",
        **options: Unpack[Options],
    ) -> Card | list[Card]:
        """The best network for a budget on a device, as files in RUN/specialized, and its card.

        Records that are missing are made first. The file that is delivered is the one that was
        timed and scored on the test set.

        Args:
            max_latency: such as "0.05ms"; a number is in ms.
            device: one of `onceforall devices`, or a YAML file that describes one.
            precision: fp32, int8, ...; of several, each device takes those that it has.
            options: other limits `max_macs="300M"`, `max_params="5M"`, `max_activations="256KiB"`,
                `max_file`, `max_sram`, `max_flash`, `max_energy`;
                `threads` and `batch` of the device's runtime; `out`, a folder in the place of
                RUN/specialized; `samples`, records that the predictors are fitted on; `images` of
                validation that an arch is scored on; `risk`, `seed`, `on` as the command has them.

        Returns:
            A card; where several budgets, devices or precisions are given, in lists, a list of
            them: by device, precision and budget.

        Raises:
            Infeasible: no arch meets a budget; says what could be met.
            InputError: something that was given is wrong; says what would be right.
        """
        from onceforall.pipeline.deliveries import specialize_run

        several = any(isinstance(x, (list, tuple)) for x in (max_latency, device, precision))
        latencies = [] if max_latency is None else _listed(max_latency)
        cards = specialize_run(self, latencies, _listed(device), _listed(precision), **options)
        return cards if several else cards[0]

    def front(self) -> Front:
        """What was delivered so far: a row a network, which `pandas.DataFrame` takes as it is.

        Raises:
            InputError: a card is damaged.
        """
        from onceforall.pipeline.fronts import front_of

        return front_of(self.folder, self.task.metric)

    def report(self, path: Path | str | None = None) -> Path:
        """Writes the run as one HTML file for a browser, and returns where: RUN/report.html, if
        left out, the one before it replaced.

        Raises:
            InputError: a file of the run is damaged, or `path` exists.
        """
        from onceforall.report import gather, write_explorer

        to = self.folder / "report.html" if path is None else Path(path)
        write_explorer(gather(self.folder), to, overwrite=path is None)
        return to

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, images of {self.source.name}, {self.supernet!r})"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def run_of(supernet: SuperNet, images: str, folder: Path, source: data.Source | None = None) -> Run:
    """A supernet that was trained elsewhere, with images to calibrate and to score on; what is
    measured of it is kept in `folder`, a new one or that of an earlier call.

    Args:
        images: the name of a data set, or a folder of images.
        source: how they are read, where not as is usual.

    Raises:
        InputError: the folder is that of a training run.
    """
    if (folder / SETTINGS).exists():
        raise InputError(f"{folder}: is the folder of a training run; name another --out")
    given = source or data.Source(images, channels=supernet.family.in_channels)
    return Run(folder, supernet, {}, replace(given, name=images), own_data=False)


def open_run(folder: Path | str, name: str | None = None, root: str | None = None) -> Run:
    """The run in a folder.

    Args:
        name: another data set or folder of images than it was trained on.
        root: where the files of its data set are, if not where they were.

    Raises:
        InputError: no run there, not finished, or damaged; or its task is in a file that is not
            found.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run")
    path = folder / SUPERNET
    if not path.exists() and (folder / SETTINGS).exists():
        raise InputError(f"{folder}: its training is not finished; `onceforall train` resumes it")
    supernet, facts = load_supernet(path)
    settings = settings_from_dict(facts.get("training"), f"{path}: training")
    source = settings.data
    if name is not None:
        source = replace(source, name=name)
    if root is not None:
        source = replace(source, root=root)
    try:
        task = tasks.get(facts["training"].get("task", tasks.USUAL))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Run(folder, supernet, facts, source, own_data=name is None, task=task)
