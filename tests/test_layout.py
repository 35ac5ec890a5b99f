"""The rooms of the house: imports point down, and the light ones stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "onceforall"

# From the top down; rooms on one line do not import each other.
ROOMS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"pipeline", "testing"},
    {"training"},
    {"report"},
    {"search"},
    {"predictors"},
    {"devices"},
    {"export"},
    {"interop"},
    {"supernet"},
    {"data"},
    {"records"},
    {"costs"},
    {"families"},
    {"space"},
    {"blas", "columns", "files", "plugins", "precision", "progress", "units"},
    {"errors"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def imports_of(path: Path) -> set[str]:
    """Rooms of the package that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            if parts == ["onceforall"]:
                found |= {alias.name for alias in node.names}
            elif parts[0] == "onceforall":
                found.add(parts[1])
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: a relative import")
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {parts[1] for parts in names if parts[0] == "onceforall" and len(parts) > 1}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{room} has no place in the house"
    for other in imports_of(path) - {room, "__version__"}:
        assert other in LEVEL, f"{path.name} imports {other}, which has no place in the house"
        assert LEVEL[other] > LEVEL[room], f"{path.name}: {room} imports {other}, which is above it"


@pytest.mark.parametrize("room", ["space", "search", "records", "interop.zoo", "cli"])
def test_no_torch_in(room: str) -> None:
    code = f"import onceforall.{room}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_face_is_light() -> None:
    """What the package shows is there without further imports, and none is made before."""
    code = (
        "import sys, onceforall;"
        "assert not {'torch', 'numpy'} & set(sys.modules);"
        "onceforall.search.search, onceforall.search.pareto;"
        "assert 'torch' not in sys.modules;"
        "assert onceforall.families.get('mbv3_mini').space.size > 1;"
        "assert all(getattr(onceforall, name) for name in onceforall.__all__);"
        "assert set(dir(onceforall)) == set(onceforall.__all__);"
        "from onceforall import *;"
        "assert SuperNet.__module__ == 'onceforall.supernet.supernet'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
