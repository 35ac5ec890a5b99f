"""The energy of a run, read from counters as Linux has them."""

import time
from pathlib import Path

import pytest

from onceforall.devices import ENERGY, energy, tells_energy, time_calls


def zone(root: Path, name: str, uj: int, most: int = 10_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder / "energy_uj"


def test_packages_are_summed_and_counters_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "ROOT", tmp_path)
    assert not tells_energy()
    first = zone(tmp_path, "intel-rapl:0", 1_000)
    second = zone(tmp_path, "intel-rapl:1", 9_999_000)
    zone(tmp_path, "intel-rapl:0:0", 5)  # the cores of the first, which it holds already
    meter = energy.Meter()
    first.write_text("3000\n")
    second.write_text("1000\n")  # begun anew after 1,000 more
    assert meter.spent_mj() == pytest.approx(2 + 2)
    assert meter.spent_mj() == 0
    first.unlink()  # no longer to be read
    assert meter.spent_mj() is None


def test_the_energy_of_a_run_is_among_the_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(cost: int) -> None:
        time.sleep(0.002)
        counter.write_text(str(int(counter.read_text()) + cost))

    (alone,) = time_calls([lambda: time.sleep(0.001)], 2)
    assert ENERGY not in alone.facts
    monkeypatch.setattr(energy, "ROOT", tmp_path)
    counter = zone(tmp_path, "intel-rapl:0", 0)
    low, high = time_calls([lambda: run(4_000), lambda: run(12_000)], 3)
    assert low.facts[ENERGY] == pytest.approx(4)
    assert high.facts[ENERGY] == pytest.approx(12)
