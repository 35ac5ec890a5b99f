"""Files: whole or not at all, and nothing left behind, whatever ends the writer."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onceforall.errors import InputError
from onceforall.files import remove_leftovers, write_atomically, write_text

WRITER = """
import sys
from pathlib import Path
from onceforall.files import write_atomically

def write(path):
    path.write_text("half of it")
    path.with_name("of the library's own").write_text("x")
    print("writing", flush=True)
    sys.stdin.readline()

write_atomically(Path(sys.argv[1]), write, overwrite=True)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, in the midst of writing the file `x.bin`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "x.bin")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_leaves_is_removed_by_the_next(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(names(tmp_path)) == 1
    write_text(tmp_path / "y.bin", "another file")
    assert len(names(tmp_path)) == 2
    write_text(tmp_path / "x.bin", "whole")
    assert names(tmp_path) == ["x.bin", "y.bin"]
    assert (tmp_path / "x.bin").read_text() == "whole"


def test_all_leftovers_of_a_folder_are_removed(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    (tmp_path / ".x.bin.12345678").mkdir()  # not ours: it has no lock
    writer.kill()
    writer.wait()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".x.bin.12345678"]
    remove_leftovers(tmp_path / "none")


def test_the_work_of_a_living_writer_is_left_alone(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    remove_leftovers(tmp_path)
    write_text(tmp_path / "x.bin", "the first to end")
    assert len(names(tmp_path)) == 2
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert names(tmp_path) == ["x.bin"]
    assert (tmp_path / "x.bin").read_text() == "half of it"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        write_atomically(tmp_path / "x[1].bin", fail)
    assert names(tmp_path) == []


def test_what_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long") as raised:
        write_atomically(tmp_path / "there" / ("x" * 250), lambda path: None)
    assert raised.value.filename == str(tmp_path / "there" / ("x" * 250))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if not os.access(closed, os.W_OK):  # as root, all may be written
        with pytest.raises(InputError, match="closed does not allow it"):
            write_atomically(closed / "x", lambda path: None)


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "usual").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
