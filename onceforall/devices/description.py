"""What is known of a device that commands reach: a YAML or JSON file, or its text in braces.

    name: phone
    formats: [litert]            # in order of preference
    precisions: [fp32, int8]     # those that it is known to run
    upload: adb push {file} /data/local/tmp/{name}
    run: adb shell /data/local/tmp/benchmark_model --graph=/data/local/tmp/{name} --num_runs={runs}
    clean: adb shell rm /data/local/tmp/{name}
    facts: adb shell getprop ro.product.model
    pattern: "Inference .avg.: ([0-9.]+)"   # every match is a latency; or `json: results.ms`
    unit: us

The words of a command are split as a shell splits them and run without one, so that a path is one
word whatever is in it. {file}: the path of the network's file; {folder}: where it and its parts
are; {name}: its name over there, plain letters, by its content; {threads}, {batch}, {runs}. Pipes
and the like need a shell by name: run: sh -c 'tool "$1" | tail -1' sh {file}

Knows texts, runs nothing.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from onceforall.errors import InputError, choices
from onceforall.files import read_text

MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
ENDINGS = (".yaml", ".yml", ".json")
STEPS = ("upload", "run", "clean", "facts")
PLACES = ("file", "folder", "name", "threads", "batch", "runs")


@dataclass(frozen=True)
class Description:
    """How a device is reached; commands are texts with places to be filled, as `{file}`."""

    run: str
    unit: str
    name: str = "command"
    formats: tuple[str, ...] = ("onnx",)
    precisions: tuple[str, ...] = ("fp32",)
    pattern: str = ""  # a regular expression with one group
    json: str = ""  # keys and indices with dots between; what is found there may be a list
    upload: str = ""
    clean: str = ""
    facts: str = ""  # what it prints is kept: lines `key: value` or a text
    runs: int = 20  # that one command is asked for
    timeout: float = 300.0  # seconds, of each command
    retries: int = 1  # of what failed
    pause: float = 2.0  # seconds before a retry
    estimated: bool = False  # its latencies are a model's, not a clock's
    source: str = field(default="", compare=False)  # the file, for messages

    def __post_init__(self) -> None:
        if self.unit not in MILLISECONDS:
            raise self.wrong("unit", f"{self.unit!r} is none of {choices(MILLISECONDS)}")
        if bool(self.pattern) == bool(self.json):
            raise self.wrong("pattern, json", "one of the two must say where latencies are printed")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise self.wrong("pattern", f"no regular expression: {error}") from None
        if self.pattern and groups != 1:
            raise self.wrong("pattern", f"has {groups} groups; one, (...), is the latency")
        for name, least in (("runs", 1), ("timeout", 0.001), ("retries", 0), ("pause", 0)):
            if not getattr(self, name) >= least:
                raise self.wrong(name, f"{getattr(self, name)} is below {least}")
        for step in STEPS:
            self.words(step)
        if not self.words("run"):
            raise self.wrong("run", "no command")

    def wrong(self, where: str, what: str) -> InputError:
        return InputError(f"{self.source}: {where}: {what}")

    def words(self, step: str) -> list[str]:
        """The command of a step, split, its places not yet filled."""
        try:
            words = shlex.split(getattr(self, step))
        except ValueError as error:
            raise self.wrong(step, str(error)) from None
        for word in words:
            unknown = set(re.findall(r"\{(\w+)\}", word)) - set(PLACES)
            if unknown:
                given = "{" + min(unknown) + "}"
                raise self.wrong(step, f"{given} is not known; there are {choices(PLACES)}")
            if re.search(r"\{(file|folder)\}", word) and re.search(r"\s", word):
                raise self.wrong(
                    step,
                    "{file} or {folder} inside quoted text, where a path could break it;"
                    " write sh -c '... \"$1\" ...' sh {file}",
                )
        return words


def is_description(device: str) -> bool:
    """Whether a device's name is a description, or the path of one."""
    return device.lstrip().startswith("{") or device.endswith(ENDINGS)


@cache
def describe(device: str) -> Description:
    """The description that a device's name is or names.

    Raises:
        InputError: names the file, the field, and what would be right.
    """
    given = device.lstrip().startswith("{")
    source = "device" if given else device
    text = device if given else read_text(Path(device))
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    known = {f.name: f for f in fields(Description) if f.name != "source"}
    if not isinstance(read, dict) or not set(read) <= set(known):
        odd = min(map(str, set(read) - set(known))) if isinstance(read, dict) else "no fields"
        raise InputError(f"{source}: {odd!r} is not known; there are {choices(known)}")
    for needed in ("run", "unit"):
        if needed not in read:
            raise InputError(f"{source}: {needed} is missing")
    name = read.get("name", "command" if given else Path(device).stem)
    values = {key: _value(source, key, known[key].default, v) for key, v in read.items()}
    return Description(**{**values, "name": str(name), "source": source})


def _value(source: str, key: str, default: Any, value: Any) -> Any:
    """Of the kind that the field has."""
    if isinstance(default, tuple):
        listed = [value] if isinstance(value, str) else value
        if isinstance(listed, list) and listed and all(isinstance(v, str) for v in listed):
            return tuple(listed)
        raise InputError(f"{source}: {key}: {value!r} is no list of names")
    kind = type(default) if isinstance(default, bool | int | float) else str
    fits = isinstance(value, bool) == (kind is bool)
    if fits and isinstance(value, (int, float) if kind is float else kind):
        return kind(value)
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise InputError(f"{source}: {key}: {value!r} is not {wanted[kind]}")
