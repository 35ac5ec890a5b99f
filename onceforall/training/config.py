"""Settings as people write them: YAML, with `key=value` changes from the command line.

Unknown keys and wrong types are refused with the file, the field and the value. Knows the types of
settings, not what they mean.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from onceforall.data import Source
from onceforall.errors import InputError, choices, suggestion
from onceforall.files import read_text
from onceforall.training.settings import Settings

RECIPES = Path(__file__).parent / "recipes"


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load_settings(config: str, changes: Sequence[str] = ()) -> Settings:
    """Settings from a YAML file or a recipe's name, with changes such as `data.root=/images` or
    `phases.0.epochs=2`.

    Raises:
        InputError: names the file, the field and what is wrong.
    """
    if config in recipes():
        text = (RECIPES / f"{config}.yaml").read_text("utf-8")
    elif not Path(config).exists():
        raise InputError(
            f"{config}: no such file; recipes here: {choices(recipes())}"
            + suggestion(config, recipes())
        )
    else:
        text = read_text(Path(config))
    data = _yaml(text, config)
    for change in changes:
        _change(data, change)
    return settings_from_dict(data, config)


def source_of(changes: Sequence[str]) -> Source:
    """The data that changes such as `data.name=/images` ask for; Fashion-MNIST where none do."""
    data: dict[str, Any] = {"data": {"name": "fashion-mnist"}}
    for change in changes:
        if change.startswith(("data.", "data=")):
            _change(data, change)
    source: Source = _parse(Source, data["data"], "data")
    return source


def settings_from_dict(data: Any, where: str) -> Settings:
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
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: 2026-99-99
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
            raise InputError(
                f"{where}: unknown key {key!r}; there are {choices(fields)}"
                + suggestion(key, fields)
            )
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
    if isinstance(value, int) and value.bit_length() > 64:
        raise InputError(f"{where}: a whole number of {value.bit_length()} bits is too large")
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
            with suppress(ValueError):  # 1.2.3e4
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
