"""Names of many images: as a list of paths, and small in every worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from onceforall.data import list_folder
from onceforall.data.paths import Names, items_of

TEXTS = ["cat/1.jpg", "", "cät/ü.png", "caf\udce9/1.png", "new\nline.jpg", "x" * 300]


def test_names_are_kept_as_they_are() -> None:
    names = Names.of(TEXTS)
    assert [names[i] for i in range(len(names))] == TEXTS
    rows = [5, 0, 3, 3, 1]
    taken = names.take(rows)
    assert [taken[i] for i in range(len(taken))] == [TEXTS[i] for i in rows]
    assert len(names.take([])) == 0
    assert len(Names.of([])) == 0


def test_paths_are_a_list_of_paths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.jpg").touch()
    files, _ = list_folder(tmp_path)
    expected = sorted(tmp_path.rglob("*.jpg"))
    assert list(files.paths) == expected
    assert files.paths[-1] == expected[-1]
    assert files.paths[1:3] == expected[1:3]
    assert files.paths.index(expected[4]) == 4
    assert expected[2] in files.paths
    assert set(items_of(expected)) == set(files.paths)
    assert list(files.paths.take([3, 1])) == [expected[3], expected[1]]
    assert files.paths.name(4) == "b/1.jpg"
    with pytest.raises(IndexError):
        files.paths[6]


PRIVATE = """
from pathlib import Path
import torch
from onceforall.data import FileImages, Normalisation, Request
from onceforall.data import reading
from onceforall.data.paths import Names, Paths

class Own(reading._Views):  # looks at every 20th name, then says how much memory is its own
    def __getitem__(self, key):
        for row in range(0, len(self.files), 20):
            self.files.paths[row]
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return torch.zeros((3, 2, 2)), int(line.split()[1]) // 1024, []

reading._Views = Own
norm = Normalisation((0.5,) * 3, (0.5,) * 3)
for n in (10, 1_000_000):
    names = Names.of(f"n{i % 1000:08}/photo_number_{i:010}.jpeg" for i in range(n))
    files = FileImages(Paths(Path("/images"), names), torch.zeros(n), norm, 3, "crop", workers=1)
    (_, megabytes, _), = reading.batches(files, [Request([0], 2, 1)])
    print(int(megabytes))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks Linux for memory")
def test_a_million_paths_take_no_memory_in_a_worker() -> None:
    """Of a list of a million paths each worker copies what it looks at, and in the end all."""
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < 20  # MB
    names = Names.of(f"n{i % 1000:08}/photo_number_{i:010}.jpeg" for i in range(1000))
    assert (names.bytes.nbytes + names.starts.nbytes) / 1000 < 60  # bytes a path, once
