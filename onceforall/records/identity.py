"""What a value was measured on, and that values of different things are not mixed in silence.

A record's provenance names the supernet and the images (both by a digest), how their pixels were
normalised and what batch norms were calibrated on, the machine, the processor, the runtime. Values
of one metric, on one device, are comparable only where all of these agree. Records written before
these were named do not name them: they agree with each other, and with no others. Normalisation and
calibration are the exception: a record that does not name them agrees with any, as the usual ones
of a run are not known here. It is mostly right, since they could hardly be chosen then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onceforall.errors import InputError, choices
from onceforall.records.record import Record, read_jsonl

USUAL = ("pixels", "calibration")  # a record that does not name them agrees with any
IDENTITY = ("supernet", "images_digest", *USUAL, "machine", "system", "processor", "runtime")


def comparable(record: Record, of: Mapping[str, Any]) -> bool:
    """Whether it was measured on the same things as values that are of `of`."""
    return agrees(record, {name: of[name] for name in IDENTITY if name in of})


def agrees(record: Record, of: Mapping[str, Any]) -> bool:
    """Whether it is of all that `of` names."""
    return all(_said(record, name, of) == of[name] for name in of)


def _said(record: Record, name: str, of: Mapping[str, Any]) -> Any:
    """What a record says of `name`; None: it does not name it."""
    return record.provenance.get(name, of[name] if name in USUAL else None)


def refuse_others(path: Path, metric: str, device: str, of: Mapping[str, Any]) -> list[Record]:
    """The records of a metric on a device that a file has; none where there is no file.

    Raises:
        InputError: one of them is of something else than `of`, the provenance of those to come.
    """
    if not path.exists():
        return []
    found = [r for r in read_jsonl(path) if (r.metric, r.device) == (metric, device)]
    for record in found:
        for name in IDENTITY:
            if name in of and _said(record, name, of) != of[name]:
                raise InputError(
                    f"{path}: {name}: its records of {metric} are of"
                    f" {_named(record.provenance.get(name, ''))}, new ones would be of {of[name]};"
                    " name another file, or move this one away"
                )
    return found


def refuse_mixed(path: Path, metric: str, columns: Mapping[str, Iterable[Any]]) -> None:
    """Raises InputError where records of a metric, given by the columns of their provenance, were
    measured on different things."""
    for name in IDENTITY:
        values = sorted({str(value) for value in columns.get(name, ())})
        if len(values) > 1:
            raise InputError(
                f"{path}: {name}: its records of {metric} are of"
                f" {choices(_named(value) for value in values)}; keep those of each in a file of"
                " its own"
            )


def settings_in(
    path: Path, found: Sequence[Mapping[str, Any]], known: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The settings of the family of a file's records: those `known`, or else the ones that its
    records name (`found`). Records that name none are of networks of either.

    Raises:
        InputError: records of networks with other settings; names the first that differs.
    """
    if known is None:
        known = found[0] if found else {}
    for settings in found:
        for name, value in settings.items():
            if name not in known or known[name] != value:
                usual = "the family's own"
                raise InputError(
                    f"{path}: settings: {name}: it has records of networks with {value!r}, and"
                    f" others are of {known.get(name, usual)}; keep those of each in a file of its"
                    " own"
                )
    return known


def _named(value: Any) -> str:
    return str(value) or "one that they do not name"
