"""Settings of a training run: validated before anything starts.

Read from YAML, with `key=value` changes from the command line. Unknown keys, wrong
types and contradictions are refused with the file, the field and the value. The unit
of each number stands under it. Knows no networks and no data.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from onceforall.curriculum import Share
from onceforall.data import Source
from onceforall.errors import InputError, choices
from onceforall.files import read_text

PRECISIONS = ("fp32", "bf16")
RULES = ("random", "sandwich", "alternate")
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class PhaseSettings:
    """One phase of training; its length is `steps` or `epochs`."""

    name: str
    lr: float
    # peak learning rate, for the whole batch
    steps: int | None = None
    # batches
    epochs: float | None = None
    # passes over the training images
    archs: int = 1
    # sub-networks a step
    kernel: int = 1
    # how many of the largest kernel sizes are open; likewise the next three
    depth: int = 1
    expand: int = 1
    width: int = 1
    open: dict[str, int] = field(default_factory=dict)
    # the same of any kind of gene: {heads: 2, mlp: 3}; of what is not named, the largest alone
    rule: str = "random"
    # "random", "sandwich" or "alternate"
    distil: float = 0.0
    # weight of the distillation loss beside the labels'
    own_images: bool = False
    # whether each sub-network of a step has a batch of its own; otherwise all have the same
    warmup: float = 0.0
    # share of the phase in which the learning rate rises, 0 to 1

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError("needs steps or epochs, one of the two")
        for name in ("lr", "steps", "epochs", "archs", "kernel", "depth", "expand", "width"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}: {value} is not above 0")
        for name, count in self.open.items():
            if not count > 0:
                raise InputError(f"open: {name}: {count} is not above 0")
        if self.rule not in RULES:
            raise InputError(f"rule: {self.rule!r}; there are {choices(RULES)}")
        if self.rule == "sandwich" and self.archs < 2:
            raise InputError(f"archs: {self.archs}; the sandwich rule needs at least 2")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup: {self.warmup} is not a share between 0 and 1")
        if self.distil < 0:
            raise InputError(f"distil: {self.distil} is negative")

    def share(self, images: int, batch: int) -> Share:
        """With its length in steps, for a training set of that many images."""
        taken = batch * (self.archs if self.own_images else 1)
        steps = self.steps or max(1, round((self.epochs or 0) * images / taken))
        as_they_are = {f.name for f in dataclasses.fields(Share)} - {"steps", "warmup"}
        same = {name: getattr(self, name) for name in as_they_are}
        return Share(**same, steps=steps, warmup=round(self.warmup * steps))


@dataclass(frozen=True)
class Settings:
    """A training run."""

    phases: tuple[PhaseSettings, ...]
    data: Source = field(default_factory=lambda: Source("fashion-mnist"))
    family: str = "mbv3_mini"
    resolutions: tuple[int, ...] | None = None
    # pixels; None: the family's own at ImageNet size, else 6/7 and 7/7 of the images' size
    batch_size: int = 128
    # images, over all processes
    momentum: float = 0.9
    weight_decay: float = 3e-5
    # of weights; none on batch norm and biases
    label_smoothing: float = 0.1
    # share of the target's mass spread over all classes, 0 to 1
    dropout: float = 0.0
    # before the classifier, 0 to 1
    precision: str = "fp32"
    # "fp32" or "bf16"
    seed: int = 0
    threads: int | None = None
    # of PyTorch on the CPU; None: its own choice
    checkpoint_seconds: float = 60.0
    # between two checkpoints
    log_steps: int = 20
    # steps between two lines of metrics

    def __post_init__(self) -> None:
        if not self.phases:
            raise InputError("phases: none given")
        for name in ("batch_size", "log_steps", "checkpoint_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)} is not above 0")
        for name in ("momentum", "label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} is not a share from 0 to below 1")
        if self.weight_decay < 0:
            raise InputError(f"weight_decay: {self.weight_decay} is negative")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision: {self.precision!r}; there are {choices(PRECISIONS)}")
        if self.phases[0].distil and self.phases[0].rule != "sandwich":
            raise InputError("phases: the first one has no teacher yet; its distil must be 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` reads it."""
        return _plain(dataclasses.asdict(self))


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load(config: str, changes: Sequence[str] = ()) -> Settings:
    """Settings from a YAML file or a recipe's name, with changes such as `data.root=/images` or
    `phases.0.epochs=2`.

    Raises:
        InputError: names the file, the field and what is wrong.
    """
    if config in recipes():
        text = (RECIPES / f"{config}.yaml").read_text("utf-8")
    elif not Path(config).exists():
        raise InputError(f"{config}: no such file; recipes here: {choices(recipes())}")
    else:
        text = read_text(Path(config))
    data = _yaml(text, config)
    for change in changes:
        _change(data, change)
    return from_dict(data, config)


def source_of(changes: Sequence[str]) -> Source:
    """The data that changes such as `data.name=/images` ask for; Fashion-MNIST where none do."""
    data: dict[str, Any] = {"data": {"name": "fashion-mnist"}}
    for change in changes:
        if change.startswith(("data.", "data=")):
            _change(data, change)
    source: Source = _parse(Source, data["data"], "data")
    return source


def from_dict(data: Any, where: str) -> Settings:
    """Raises InputError: unknown keys, wrong types, contradictions."""
    settings: Settings = _parse(Settings, data, where)
    return settings


def _change(data: Any, change: str) -> None:
    """Applies `key=value` to plain data, in place."""
    key, equals, value = change.partition("=")
    if not equals:
        raise InputError(f"{change!r} is not of the form key=value")
    _set(data, key.split("."), _yaml(value, change), change)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{where}: not YAML: {error}") from None


def _set(data: Any, keys: list[str], value: Any, change: str) -> None:
    for i, key in enumerate(keys):
        place: Any = int(key) if isinstance(data, list) and key.isdigit() else key
        inside = isinstance(data, dict) or (isinstance(data, list) and isinstance(place, int))
        if not inside or (isinstance(data, list) and place >= len(data)):
            raise InputError(f"{change}: there is no {'.'.join(keys[: i + 1])} in the config")
        if i == len(keys) - 1:
            data[place] = value
        else:
            if isinstance(data, dict):
                data.setdefault(place, {})
            data = data[place]


def _parse(kind: type, data: Any, where: str) -> Any:
    """A dataclass from plain data, by the types of its fields."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: {data!r} is not a map of settings")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}; there are {choices(fields)}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    for name, f in fields.items():
        absent = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if absent and name not in data:
            raise InputError(f"{where}: {name!r} is missing")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None):
            if value is None:
                return None
        elif dataclasses.is_dataclass(option):
            return _parse(typing.cast(type, option), value, where)
        elif typing.get_origin(option) is tuple and isinstance(value, list):
            inner = typing.get_args(option)[0]
            return tuple(_value(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
        elif typing.get_origin(option) is dict and isinstance(value, dict):
            inner = typing.get_args(option)[1]
            return {str(k): _value(inner, v, f"{where}: {k}") for k, v in value.items()}
        elif option is float and _is_number(value):
            return float(value)
        elif (option is int and isinstance(value, int) and not isinstance(value, bool)) or (
            option in (str, bool) and isinstance(value, option)
        ):
            return value
    wanted = " or ".join(_spell(option) for option in options)
    raise InputError(f"{where}: {value!r} is not {wanted}")


def _is_number(value: Any) -> bool:
    """YAML 1.1 reads `3e-5`, without a point, as a text; people mean a number."""
    if isinstance(value, str):
        return re.fullmatch(r"[+-]?[0-9.]+[eE][+-]?[0-9]+", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spell(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint is type(None):
        return "null"
    return names.get(hint, "a list" if typing.get_origin(hint) is tuple else "a map")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
