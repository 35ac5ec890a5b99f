"""How long it takes to get one sub-network of the w1.0 supernet, beside PyPI `ofa`.

    python benchmarks/loading.py [--networks 20] [--repeats 5] [--json]

One file with random weights in the authors' format is read by both; then the same random
sub-networks are taken from both: `get_active_subnet` there, `extract` here. The two take
turns, in one process and one thread; of each step the median of all repeats is given, and
the ratio of ours to theirs (below 1: ours is faster). `first` are sub-networks that were
never asked for before, `again` the same ones a second time.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from onceforall import interop
from onceforall.interop.arch_dict import from_arch_dict
from onceforall.supernet import SuperNet

NAME = "ofa_mbv3_w1.0"


def theirs() -> Any:
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    return OFAMobileNetV3(
        dropout_rate=0,
        width_mult=1.0,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process's CPU, so that other processes do not count; and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def load_theirs(path: Path) -> Any:
    network = theirs()
    network.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return network.eval()


def measure(path: Path, networks: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each step, medians; `ofa`, `ours` and their ratio."""
    seen: dict[str, dict[str, list[float]]] = {
        step: {"ofa": [], "ours": []} for step in ("load", "first", "again", "load_and_first")
    }
    for repeat in range(repeats):
        loaded_theirs, reference = timed(lambda: load_theirs(path))
        loaded_ours, supernet = timed(lambda: interop.read_supernet(path).eval())
        assert isinstance(supernet, SuperNet)
        seen["load"]["ofa"].append(loaded_theirs)
        seen["load"]["ours"].append(loaded_ours)
        random.seed(repeat)
        chosen = [reference.sample_active_subnet() for _ in range(networks)]
        for step in ("first", "again"):
            for i, choice in enumerate(chosen):
                arch = from_arch_dict({**choice, "r": 224}, NAME)
                reference.set_active_subnet(**choice)
                taken_theirs, _ = timed(reference.get_active_subnet)
                taken_ours, _ = timed(partial(supernet.extract, arch))
                seen[step]["ofa"].append(taken_theirs)
                seen[step]["ours"].append(taken_ours)
                if step == "first" and i == 0:
                    seen["load_and_first"]["ofa"].append(loaded_theirs + taken_theirs)
                    seen["load_and_first"]["ours"].append(loaded_ours + taken_ours)
    rows = {}
    for step, sides in seen.items():
        row = {f"{side}_ms": 1e3 * statistics.median(values) for side, values in sides.items()}
        rows[step] = {**row, "ratio": row["ours_ms"] / row["ofa_ms"]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=20, help="sub-networks (default 20)")
    parser.add_argument("--repeats", type=int, default=5, help="of everything (default 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    try:
        import ofa  # noqa: F401
    except ImportError:
        sys.exit("needs the authors' package: pip install --no-deps ofa")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        torch.save({"state_dict": theirs().state_dict()}, path)
        rows = measure(path, given.networks, given.repeats)
    if given.json:
        print(json.dumps({"networks": given.networks, "repeats": given.repeats, **rows}))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, CPU time, medians of")
    print(f"{given.repeats} x {given.networks} sub-networks of {NAME}\n")
    print("| step | ofa, ms | ours, ms | ratio |\n|---|---|---|---|")
    for step, row in rows.items():
        print(f"| {step} | {row['ofa_ms']:.1f} | {row['ours_ms']:.1f} | {row['ratio']:.2f} |")


if __name__ == "__main__":
    main()
