"""A network of the report as plain data: what it is, what it costs layer by layer, how it is made.

Networks are delivered ones (of a card), and archs that were not delivered: the space's ends, and
what search proposes. Knows cards, archs and families.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onceforall.costs import arch_cost, by_layer
from onceforall.errors import InputError
from onceforall.families import Family
from onceforall.files import read_json
from onceforall.report.folder import Folder
from onceforall.space import Arch

PROFILE = "profile.json"  # beside a card: as `info FILE --profile DEVICE --json` prints it
_DEVICE = re.compile(
    r"(?P<device>.+?)(-threads(?P<threads>\d+))?(-batch(?P<batch>\d+))?(-(?P<precision>int8|fp16|bf16))?"
)
_OPTIONS = {  # of `specialize`, by the limit's name in a card
    "latency_ms": "--max-latency",
    "macs": "--max-macs",
    "params": "--max-params",
    "peak_activation_bytes": "--max-activations",
    "file_bytes": "--max-file",
    "sram_bytes": "--max-sram",
    "flash_bytes": "--max-flash",
    "energy_mj": "--max-energy",
}


def delivered(folder: Folder, place: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """Of a card in the folder `place` of the run."""
    metric, data = folder.metric, card.get("data")
    limits = card.get("limits") or {}
    network = described(Arch.parse(str(card["arch"])), folder.family)
    for key in ("params", "macs", "peak_activation_bytes"):
        network[key] = card.get(key)
    name = str(card.get("name", Path(place).name))
    return network | {
        "id": place,
        "name": name,
        "kind": "delivered" if limits else "reference",
        "device": str(card["device"]),
        "limits": limits,
        "score_predicted": card.get(f"{metric}_predicted"),
        "score_validation": card.get(f"{metric}_validation"),
        "score_test": card.get(f"{metric}_test"),
        "latency_predicted_ms": card.get("latency_predicted_ms"),
        "latency_measured_ms": card["latency_measured_ms"],
        "latency_qualified_ms": card.get("latency_qualified_ms"),
        "disturbed": bool(card.get("disturbed")),
        "precision": card.get("precision"),
        "file": str(Path(place) / str(card.get("file", ""))),
        "file_bytes": card.get("file_bytes"),
        "command": command(folder.path, card["device"], limits, card["arch"]),
        "card": {k: v for k, v in card.items() if k != "data"} | {"data": _named(data)},
        "profile": _profile(folder, place),
    }


def proposed(folder: Folder, device: str, arch: Arch, name: str, limit_ms: float) -> dict[str, Any]:
    """An arch that was not delivered; its name is for people."""
    limits = {"latency_ms": limit_ms}
    return described(arch, folder.family) | {
        "id": f"proposed {device} {arch}",
        "name": name,
        "kind": "proposed",
        "device": device,
        "limits": limits,
        "command": command(folder.path, device, limits, str(arch)),
    }


def described(arch: Arch, family: Family | None) -> dict[str, Any]:
    """What an arch is, and, where its family is known, what it costs."""
    found: dict[str, Any] = {
        "arch": str(arch),
        "genes": dict(arch.values),
        "stages": _stages(arch),
        "params": None,
        "macs": None,
        "peak_activation_bytes": None,
        "layers": [],
    }
    if family is None or arch.family != family.name:
        return found
    try:
        cost = arch_cost(family, arch)
    except InputError:  # an arch of other sizes than the family has now
        return found
    found |= {
        "params": cost.params,
        "macs": cost.macs,
        "peak_activation_bytes": cost.peak_activation_bytes,
        "layers": by_layer(cost.rows),
    }
    return found


def _stages(arch: Arch) -> list[list[dict[str, Any]]] | None:
    """The blocks of each stage; None: the arch has none."""
    try:
        return [[dict(vars(block)) for block in stage] for stage in arch.stages]
    except InputError:
        return None


def command(run: Path, device: str, limits: Mapping[str, Any], arch: str) -> str:
    """What makes the network: `specialize` for a budget, `export` where there was none. The weights
    and images of a supernet that was trained elsewhere are left to be filled in."""
    folder, weights = shlex.quote(str(run)), run / "supernet.safetensors"
    trained = (run / "settings.json").exists()
    if not limits:
        file = shlex.quote(str(weights)) if trained else "WEIGHTS"
        return f"onceforall export {shlex.quote(arch)} network.onnx --weights {file}"
    family = shlex.quote(Arch.parse(arch).family)
    elsewhere = [family, "--weights WEIGHTS", "--data IMAGES", f"--out {folder}"]
    parts = ["onceforall", "specialize", *([folder] if trained else elsewhere)]
    for name, value in limits.items():
        if name in _OPTIONS:
            unit = "ms" if name == "latency_ms" else ""
            parts.append(f"{_OPTIONS[name]} {value:.12g}{unit}")
    given = used(device)
    if given["device"] != "onnxruntime-cpu":
        parts.append(f"--device {shlex.quote(given['device'])}")
    parts += [f"--{k} {given[k]}" for k in ("threads", "batch", "precision") if k in given]
    return " ".join(parts)


def used(device: str) -> dict[str, Any]:
    """The fields of the target that is written so: `openvino-cpu-threads2-int8`. What is as usual
    is left out."""
    found = _DEVICE.fullmatch(device)
    given = {"device": device} if found is None else found.groupdict()
    return {k: int(v) if v.isdigit() else v for k, v in given.items() if v is not None}


def _named(data: Any) -> Any:
    """What a card says of its images, without the names of the classes: the run says them."""
    return {k: v for k, v in data.items() if k != "classes"} if isinstance(data, dict) else data


def _profile(folder: Folder, place: str) -> dict[str, Any] | None:
    """What each layer takes on the device, where that was timed."""
    path = folder.path / place / PROFILE
    if not path.exists():
        return None
    try:
        found = read_json(path)
        layers = [
            {"name": str(x["name"]), "kind": str(x["kind"]), "ms": float(x["ms"])}
            for x in found["layers"]
        ]
    except InputError as error:
        folder.notes.append(str(error))
    except (KeyError, TypeError, ValueError):
        folder.notes.append(f"{path}: not what `info --profile --json` prints")
    else:
        return {"device": str(found.get("device", "")), "layers": layers}
    return None


def plain(value: Any, digits: int = 6) -> Any:
    """The same for JSON: numbers shortened, and None for those that are none (NaN, infinite)."""
    if isinstance(value, dict):
        return {str(k): plain(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, digits) for v in value]
    if isinstance(value, float):
        text = f"{value:.{digits}g}"
        number = json.loads(text) if text.lstrip("-")[:1].isdigit() else None
        return int(number) if isinstance(number, float) and number.is_integer() else number
    return value
