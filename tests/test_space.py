"""Archs and spaces: values, sizes, populations."""

import itertools
import pickle

import numpy as np
import pytest

from onceforall import families
from onceforall.errors import InputError
from onceforall.space import MOST_CHOICES, Arch, Block, Space, Stage

TINY = Space.of_stages(
    "tiny",
    (8, 12),
    (Stage((1, 2), (3, 5), (2, 3), (8,)), Stage((1,), (3,), (1, 2), (8, 16))),
)


def test_size_of_the_papers_space() -> None:
    space = families.get("ofa_mbv3_w1.0", resolutions=[224]).space
    assert space.size == (9**2 + 9**3 + 9**4) ** 5
    assert 2.1e19 < space.size < 2.2e19


def test_size_counts_what_enumeration_gives() -> None:
    archs = list(TINY)
    # by hand: 2 resolutions * (4 + 16 blocks choices) * 2 widths * 2 expands
    assert len(archs) == TINY.size == 2 * (4 + 4**2) * 2 * 2
    assert len(set(archs)) == len(archs)
    assert all(arch in TINY for arch in archs)


def test_sample_reaches_every_arch_and_encodes_back() -> None:
    population = TINY.sample(np.random.default_rng(0), 4000)
    archs = TINY.decode(population)
    assert set(archs) == set(TINY)
    assert (TINY.encode(archs) == population).all()
    assert (TINY.canonical(population) == population).all()


def test_sampled_depths_are_equally_likely() -> None:
    space = families.get("ofa_mbv3_w1.0").space
    population = space.sample(np.random.default_rng(0), 6000)
    shares = np.bincount(space.values("stage3.depth", population), minlength=5)[2:] / 6000
    assert np.abs(shares - 1 / 3).max() < 0.03


def test_archs_are_values() -> None:
    rng = np.random.default_rng(1)
    for arch in families.get("ofa_mbv3_w1.0").space.decode(
        families.get("ofa_mbv3_w1.0").space.sample(rng, 50)
    ):
        assert Arch.parse(str(arch)) == arch
        assert Arch.from_json(arch.to_json()) == arch
        assert pickle.loads(pickle.dumps(arch)) == arch
        assert hash(Arch.parse(str(arch))) == hash(arch)
    assert Block(3, 6.0, 8) == Block(3, 6, 8)
    assert str(Block(3, 6.0, 8)) == str(Block(3, 6, 8))


def test_mutation_rates() -> None:
    space = families.get("ofa_mbv3_w1.0").space
    rng = np.random.default_rng(2)
    population = space.sample(rng, 500)
    assert (space.mutate(population, rng, 0.0) == population).all()
    changed = space.mutate(population, rng, 0.1) != population
    # a gene of n choices changes with 0.1 * (n - 1) / n, or because its block comes or goes
    assert 0.05 < changed[:, 0].mean() < 0.15
    mutated = space.mutate(population, rng, 1.0)
    assert (space.canonical(mutated) == mutated).all()


def test_cross_takes_each_gene_from_a_parent() -> None:
    space = families.get("ofa_mbv3_w1.0").space
    rng = np.random.default_rng(3)
    a, b = space.sample(rng, 300), space.sample(rng, 300)
    child = space.cross(a, b, rng)
    active = space.active(child)
    assert ((child == a) | (child == b))[active].all()
    assert (space.canonical(child) == child).all()
    both = (a != b) & space.active(a) & space.active(b) & active
    assert 0.4 < (child == a)[both].mean() < 0.6


def test_restrict_and_top_are_spaces() -> None:
    space = families.get("ofa_mbv3_w1.0").space
    assert space.restrict(kernel=(7,), depth=(4,), expand=(6,)).size == len(space.resolution)
    assert space.top(kernel=1, depth=1, expand=1, width=1).largest() == space.largest()
    part = space.top(kernel=2, depth=1, expand=1)
    assert all(stage.kernel == (5, 7) for stage in part.stages)
    assert all(arch in space for arch in part.decode(part.sample(np.random.default_rng(0), 20)))
    with pytest.raises(InputError, match=r"kernel 9 is not in the space; it has 3, 5, 7"):
        space.restrict(kernel=(9,))
    with pytest.raises(InputError, match="unknown choice colour"):
        space.restrict(colour=(1,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "other"}, "family 'other'"),
        ({"resolution": 10}, "resolution 10 is not in the space of tiny; it has 8, 12"),
        ({"stages": ()}, "stage 1: width is missing; it can be 8"),
        (
            {"stages": ((Block(3, 2, 8),) * 3, (Block(3, 1, 8),))},
            "stage 1: depth 3 is not in the space",
        ),
        (
            {"stages": ((Block(7, 2, 8),), (Block(3, 1, 8),))},
            "stage 1 block 1: kernel 7 .* it has 3, 5",
        ),
        (
            {"stages": ((Block(3, 2, 8),), (Block(3, 1, 24),))},
            "stage 2: width 24 .* it has 8, 16",
        ),
    ],
)
def test_check_names_what_is_outside(change: dict[str, object], message: str) -> None:
    own = {"family": "tiny", "resolution": 8, "stages": TINY.smallest().stages}
    arch = Arch.of_stages(**own | change)  # type: ignore[arg-type]
    assert arch not in TINY
    with pytest.raises(InputError, match=message):
        TINY.check(arch)
    with pytest.raises(InputError, match="arch 2: "):
        TINY.encode([TINY.smallest(), arch])


@pytest.mark.parametrize(
    "text",
    ["", "tiny", "tiny@8", "tiny@8/", "tiny@x/8:3x2", "tiny@8/8:3", "@8/8:3x2", "tiny@8/8:4x2"],
)
def test_bad_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        Arch.parse(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "object was expected"),
        ({"family": "tiny", "resolution": 8}, "'stages' is missing"),
        ({"family": "tiny", "resolution": 8, "stages": [], "x": 1}, "unknown key 'x'"),
        ({"family": "tiny", "resolution": 8.5, "stages": [1]}, "int given"),
        (
            {
                "family": "tiny",
                "resolution": 8,
                "stages": [{"width": 8, "kernel": [3, 3], "expand": [2]}],
            },
            "2 kernels but 1 expand ratios",
        ),
        (
            {
                "family": "tiny",
                "resolution": True,
                "stages": [{"width": 8, "kernel": [3], "expand": [2]}],
            },
            "resolution: True",
        ),
    ],
)
def test_bad_json_is_refused(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Arch.from_dict(data)


def test_stages_refuse_bad_choices() -> None:
    for choices in ((), (3, 3), (5, 3), (0, 3)):
        with pytest.raises(InputError, match="kernel"):
            Stage((1,), choices, (1,), (8,))


def test_enumeration_is_lazy() -> None:
    space = families.get("ofa_mbv3_w1.0").space.restrict(depth=(2,), kernel=(3,))
    assert len(list(itertools.islice(space, 5))) == 5


def wide(**choices: int) -> Space:
    """A space whose genes have so many choices."""
    given = {"resolution": 2, "depth": 1, "kernel": 1, "expand": 2, "width": 1} | choices
    values = {name: tuple(range(1, 2 * n, 2)) for name, n in given.items()}
    resolution = values.pop("resolution")
    return Space.of_stages("wide", resolution, (Stage(**values), Stage(**values | {"depth": (1,)})))


@pytest.mark.parametrize("name", ["resolution", "kernel", "expand", "width"])
@pytest.mark.parametrize("n", [127, 128, 129, 200, 300])
def test_a_gene_of_many_choices_holds_each_of_them(name: str, n: int) -> None:
    space = wide(**{name: n})
    rng = np.random.default_rng(n)
    population = space.sample(rng, 40 * n)
    columns = [i for i, gene in enumerate(space.genes) if gene.kind == name]
    for column in columns:
        assert set(population[:, column].tolist()) == set(range(n))
    assert population.min() == 0
    archs = space.decode(population)
    assert (space.encode(archs) == population).all()
    assert all(arch in space for arch in archs[:50])
    mutated = space.mutate(population, rng, 0.5)
    crossed = space.cross(population, mutated, rng)
    for found in (mutated, crossed):
        assert (found >= 0).all()
        assert (found < space.gene_sizes).all()
        assert (space.encode(space.decode(found)) == found).all()


def test_more_choices_than_a_gene_can_hold_are_refused() -> None:
    assert len(wide(resolution=MOST_CHOICES).genes[0].values) == 32767
    with pytest.raises(InputError, match="gene resolution: 32768 choices; at most 32767 are"):
        wide(resolution=MOST_CHOICES + 1)
    with pytest.raises(InputError, match=r"gene stage1\.width: 40000 choices; at most 32767"):
        wide(width=40_000)
