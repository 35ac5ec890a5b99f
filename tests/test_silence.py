"""What libraries print is kept from the terminal, and only that."""

import os
import subprocess
import sys
import warnings

import pytest

from onceforall.export.silence import silent


def say(text: str) -> None:
    """As Python does, as C++ does, and as a warning."""
    print(text)
    print(text, file=sys.stderr)
    os.write(1, f"{text}\n".encode())
    os.write(2, f"{text}\n".encode())
    warnings.warn(text, stacklevel=1)


def test_nothing_is_seen_while_it_lasts_and_all_else_is() -> None:
    """In a process of its own, whose output nobody else has a hand in."""
    code = (
        "from test_silence import say, silent;"
        "say('before');"
        "\\nwith silent():\\n say('hidden')\\n with silent():\\n  say('hidden')\\n say('hidden')\\n"
        "say('after')"
    ).replace("\\n", "\n")
    here = os.path.dirname(__file__)  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        capture_output=True,
        text=True,
        cwd=here,
        check=True,
    )
    assert "hidden" not in done.stdout + done.stderr
    assert sorted(done.stdout.split()) == ["after"] * 2 + ["before"] * 2
    lines = [line for line in done.stderr.splitlines() if "arn" not in line]
    assert sorted(lines) == ["after"] * 2 + ["before"] * 2
    assert done.stderr.count("UserWarning: ") == 2


def test_output_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="odd"), silent():
        raise ValueError("odd")
    os.write(1, b"there\n")
    assert capfd.readouterr().out == "there\n"
