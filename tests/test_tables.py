"""Tables against direct sums, over small spaces that can be enumerated."""

from pathlib import Path

import numpy as np
import pytest

from onceforall.errors import InputError
from onceforall.space import Arch, Place, Space, Stage, Table
from onceforall.space.tables import values_of

# widths differ within and between stages; depth 1 is a choice in one stage only
SPACE = Space.of_stages(
    "toy",
    (16, 24),
    (
        Stage((1, 2), (3, 5), (2, 3), (8, 12)),
        Stage((2,), (3,), (2, 4), (16,)),
        Stage((1, 2), (3,), (1,), (20, 24, 32)),
    ),
)


def block_value(place: Place) -> float:
    """Any function that depends on every field."""
    number = hash(tuple(place)) % 9973
    return number / 100.0 - 30.0


def fixed_value(resolution: int, width: int) -> float:
    return resolution * 1.5 + width * 0.25


def parts(arch: Arch) -> list[float]:
    """The numbers of an arch, by walking it: the reference."""
    width_in = 0
    values = []
    for s, stage in enumerate(arch.stages):
        for b, block in enumerate(stage):
            place = Place(arch.resolution, s, b, block.kernel, block.expand, width_in, block.width)
            values.append(block_value(place))
            width_in = block.width
    return [*values, fixed_value(arch.resolution, width_in)]


@pytest.fixture(scope="module")
def archs() -> list[Arch]:
    return list(SPACE)


@pytest.mark.parametrize(("reduce", "join"), [("sum", sum), ("max", max)])
def test_every_arch_of_a_space(reduce, join, archs):
    table = Table.build(SPACE, block_value, fixed_value, reduce)
    expected = np.array([join(parts(arch)) for arch in archs])
    values = table(SPACE.encode(archs))
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert table.of(archs[17]) == pytest.approx(expected[17], rel=1e-12)

    smallest, arch = table.minimum()
    assert smallest == pytest.approx(expected.min(), rel=1e-12)
    assert join(parts(arch)) == pytest.approx(smallest, rel=1e-12)
    largest, arch = table.maximum()
    assert largest == pytest.approx(expected.max(), rel=1e-12)
    assert join(parts(arch)) == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_restricted_to_a_part_of_the_space(reduce, archs):
    table = Table.build(SPACE, block_value, fixed_value, reduce)
    part = Space.of_stages(
        "toy",
        (24,),
        (
            Stage((2,), (5,), (2, 3), (12,)),
            Stage((2,), (3,), (4,), (16,)),
            Stage((1,), (3,), (1,), (20, 32)),
        ),
    )
    inside = [arch for arch in archs if arch in part]
    assert inside
    small = table.restrict(part)
    np.testing.assert_allclose(small(part.encode(inside)), table(SPACE.encode(inside)), rtol=1e-12)
    assert small.minimum()[1] in part
    with pytest.raises(InputError, match="resolution 32"):
        table.restrict(Space.of_stages("toy", (32,), SPACE.stages))


def test_several_tables_in_one_pass(archs):
    tables = [Table.build(SPACE, block_value, fixed_value, reduce) for reduce in ("sum", "max")]
    population = SPACE.encode(archs)
    both = values_of(tables, population)
    assert both.shape == (2, len(archs))
    for row, table in zip(both, tables, strict=True):
        np.testing.assert_array_equal(row, table(population))


def test_more_archs_than_one_chunk():
    table = Table.build(SPACE, block_value, fixed_value)
    population = SPACE.sample(np.random.default_rng(0), 20_001)
    np.testing.assert_array_equal(
        table(population), np.concatenate([table(population[:13]), table(population[13:])])
    )


def test_scaled(archs):
    table = Table.build(SPACE, block_value, fixed_value)
    population = SPACE.encode(archs[:50])
    np.testing.assert_allclose(table.scaled(-2.0)(population), -2.0 * table(population))


def test_file_round_trip(tmp_path: Path, archs):
    table = Table.build(SPACE, block_value, fixed_value, "max", "noise", "ms")
    path = tmp_path / "noise.json"
    table.save(path)
    again = Table.load(path)
    assert (again.space, again.reduce, again.name, again.unit) == (SPACE, "max", "noise", "ms")
    population = SPACE.encode(archs)
    np.testing.assert_array_equal(again(population), table(population))
    with pytest.raises(InputError, match="exists already"):
        table.save(path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("format", "another", "format"),
        ("version", 99, "version"),
        ("reduce", "mean", "reduce"),
        ("factors", [], "no factors"),
        ("factors", [{"genes": ["resolution"], "values": [1.0], "present": []}], "do not fit"),
        ("factors", [{"genes": [], "values": "x", "present": []}], "could not convert"),
        ("factors", [{"genes": ["colour"], "values": [1.0], "present": []}], "no gene 'colour'"),
        ("space", {"family": "toy", "resolution": [16], "stages": [{"depth": [1]}]}, "Stage"),
        ("space", None, "not iterable"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, field, value, said):
    data = Table.build(SPACE, block_value, fixed_value).to_dict()
    data[field] = value
    with pytest.raises(InputError, match=said):
        Table.from_dict(data, "latency.json")
    del data[field]
    with pytest.raises(InputError, match=r"latency\.json"):
        Table.from_dict(data, "latency.json")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("fixed", [[1.0]], "do not fit"),
        ("fixed", [["x"] * 3] * 2, "could not convert"),
        ("stages", [], "not made of stages"),
        ("stages", [{"depth": [1]}], "Stage"),
        ("resolution", None, "not iterable"),
        ("version", 1, ""),
    ],
)
def test_files_of_the_first_version(field, value, said, archs):
    """They had blocks in lists of lists, each with an axis for the widths before, and the rest."""
    table = Table.build(SPACE, block_value, fixed_value, "max", "noise", "ms")
    arrays = iter(table.factors)
    blocks = [
        [
            next(arrays).values.tolist()
            if s > 0 and b == 0
            else next(arrays).values[:, None].tolist()
            for b in range(stage.blocks)
        ]
        for s, stage in enumerate(SPACE.stages)
    ]
    data = {"format": "onceforall.table", "version": 1, "name": "noise", "unit": "ms"}
    data |= {"reduce": "max", "blocks": blocks, "fixed": next(arrays).values.tolist()}
    data |= SPACE.to_dict() | {field: value}
    if said:
        with pytest.raises(InputError, match=said):
            Table.from_dict(data, "latency.json")
    else:
        again = Table.from_dict(data, "latency.json")
        population = SPACE.encode(archs)
        np.testing.assert_array_equal(again(population), table(population))


def test_no_number_is_missing():
    with pytest.raises(InputError, match="finite"):
        Table.build(SPACE, lambda place: float("nan"))
