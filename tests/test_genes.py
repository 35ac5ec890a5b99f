"""A space that is not made of stages: everything that derives from genes, against brute force."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall import predictors
from onceforall.errors import InputError
from onceforall.records import Labels, read_labels, write_csv
from onceforall.search import Infeasible, Limit, pareto, search
from onceforall.search.guided import changes
from onceforall.space import Arch, Gene, Population, Presence, Space, Table
from onceforall.space.tables import Factor, values_of


def blocks(*counts: int, inner: bool = True) -> list[Gene]:
    """Up to so many blocks; each has heads and an MLP ratio, and some experts by a depth of their
    own: presence within presence."""
    genes = [Gene("depth", counts)]
    for b in range(1, counts[-1] + 1):
        there = Presence("depth", b)
        genes += [Gene(f"block{b}.heads", (3, 6), there), Gene(f"block{b}.mlp", (2, 2.5, 4), there)]
    if inner:
        genes += [
            Gene("experts", (0, 1, 2), Presence("depth", 2)),
            Gene("expert1.size", (8, 16), Presence("experts", 1)),
            Gene("expert2.size", (8, 16, 24), (Presence("experts", 2), Presence("width", 128))),
        ]
    return genes


SHARED = [Gene("resolution", (160, 192)), Gene("width", (64, 128)), Gene("act", ("relu", "gelu"))]
SMALL = Space("small_vit", (*SHARED, *blocks(1, 2)))
LARGE = Space("large_vit", (*SHARED, *blocks(6, 9, 12)))
PLAIN = Space("plain", (Gene("mode", ("b", "a")), *blocks(0, 1, 2, inner=False)))  # no resolution


def by_hand(space: Space) -> set[tuple[tuple[str, object], ...]]:
    """All archs, by trying every combination of values and dropping what is absent."""
    found = set()
    for values in itertools.product(*(gene.values for gene in space.genes)):
        kept: dict[str, object] = {}
        for gene, value in zip(space.genes, values, strict=True):
            if all(p.gene in kept and kept[p.gene] >= p.least for p in gene.present):
                kept[gene.name] = value
        found.add(tuple(kept.items()))
    return found


def value_of(factor: Factor, space: Space, arch: Arch) -> float | None:
    """What a factor says of an arch: the reference."""
    if any(name not in arch.genes for name in factor.genes):
        return None
    if any(p.gene not in arch.genes or arch[p.gene] < p.least for p in factor.present):
        return None
    index = tuple(space.gene(name).values.index(arch[name]) for name in factor.genes)
    return float(factor.values[index])


def table(space: Space, seed: int, reduce: str = "sum", whole: bool = True) -> Table:
    """Random factors: over pairs that meet in a circle, places, and one that a condition of its own
    removes."""
    rng = np.random.default_rng(seed)
    scopes: list[tuple[str, ...]] = [(gene.name,) for gene in space.genes]
    scopes += [("block1.mlp", "block1.heads"), ("depth", space.genes[0].name)]
    if whole:
        scopes += [("block2.mlp", "act", "width"), ("width", "act"), ("width", "experts")]
    factors = [
        Factor(scope, rng.normal(size=[len(space.gene(n).values) for n in scope]))
        for scope in scopes
    ]
    last = space.genes[0].name
    size = len(space.genes[0].values)
    factors.append(Factor((last,), rng.normal(size=size), (Presence("depth", 2),)))
    return Table(space, tuple(factors), reduce, f"table{seed}")


@pytest.mark.parametrize("space", [SMALL, PLAIN], ids=["small", "plain"])
def test_size_and_enumeration(space: Space) -> None:
    archs = list(space)
    assert len(archs) == space.size == len(set(archs))
    assert {arch.values for arch in archs} == by_hand(space)
    assert all(arch in space for arch in archs)
    assert set(space.decode(space.sample(np.random.default_rng(0), 3000))) <= set(archs)


def test_size_by_hand() -> None:
    # 2 * 2 * 2 of resolution, width and act; blocks have 6 each, all depths are at least 2;
    # experts: none, one of 2 sizes, two of 2 * 3 (of 2, where the width is 64)
    per_width = {64: 1 + 2 + 2, 128: 1 + 2 + 2 * 3}
    assert LARGE.size == 2 * 2 * sum(per_width.values()) * (6**6 + 6**9 + 6**12)


@pytest.mark.parametrize("space", [SMALL, LARGE, PLAIN], ids=["small", "large", "plain"])
def test_populations_stay_canonical_and_valid(space: Space) -> None:
    rng = np.random.default_rng(1)
    a, b = space.sample(rng, 400), space.sample(rng, 400)
    mutated, crossed = space.mutate(a, rng, 0.3), space.cross(a, b, rng)
    for found in (a, mutated, crossed):
        assert (space.canonical(found) == found).all()
        archs = space.decode(found)
        assert (space.encode(archs) == found).all()
        for arch in archs[:100]:
            space.check(arch)
    active = space.active(crossed)
    assert ((crossed == a) | (crossed == b))[active].all()
    assert space.largest() in space
    assert space.smallest() in space


@given(st.integers(0, 2**32 - 1))
def test_written_forms_read_back(seed: int) -> None:
    for space in (SMALL, LARGE, PLAIN):
        arch = space.random(np.random.default_rng(seed))
        assert Arch.parse(str(arch)) == arch
        assert Arch.from_json(arch.to_json()) == arch
        assert pickle.loads(pickle.dumps(arch)) == arch
        assert hash(Arch.parse(str(arch))) == hash(arch)
    assert Space.from_dict(LARGE.to_dict()) == pickle.loads(pickle.dumps(LARGE)) == LARGE


TEXTS = st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False) | st.integers()


@given(st.lists(TEXTS, min_size=1, max_size=4), st.text(min_size=1, max_size=6))
def test_any_names_and_values_read_back_or_are_refused(values: list[object], name: str) -> None:
    try:
        space = Space("any", (Gene("depth", (1, 2)), Gene(name, tuple(values))))
    except InputError:
        return  # refused when the space is made
    for arch in space:
        assert Arch.parse(str(arch)) == arch
        assert Arch.from_json(arch.to_json()) == arch


def test_a_text_by_hand() -> None:
    arch = Arch.parse("small_vit@160/width=64,act=gelu,depth=1,block1.heads=3,block1.mlp=2.5")
    assert (arch.resolution, arch["block1.mlp"], arch["act"]) == (160, 2.5, "gelu")
    assert arch in SMALL
    assert str(arch.at(192)).startswith("small_vit@192/width=64,")
    assert arch.to_dict()["genes"]["block1.heads"] == 3
    with pytest.raises(InputError, match="is not made of stages"):
        _ = arch.stages
    with pytest.raises(InputError, match="is not made of stages"):
        _ = SMALL.stages


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("large_vit@160/width=64", "family 'large_vit', not 'small_vit'"),
        ("small_vit@160/width=64,act=gelu,depth=1", "block 1: heads is missing; it can be 3, 6"),
        ("small_vit@99/width=64,act=gelu,depth=1", "resolution 99 is not in .* it has 160, 192"),
        ("small_vit@160/width=64,act=tanh", "act tanh is not in the space .* it has relu, gelu"),
        (
            "small_vit@160/width=64,act=gelu,depth=1,block1.heads=3,block1.mlp=2,block2.mlp=2",
            "block 2: mlp is not there",
        ),
        (
            "small_vit@160/width=64,act=gelu,depth=1,block1.heads=3,block1.mlp=2,colour=2",
            "has a gene colour",
        ),
    ],
)
def test_check_names_gene_value_and_choices(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SMALL.check(Arch.parse(text))


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        ([], "none given"),
        ([Gene("a", (1,)), Gene("a", (2,))], "a is there twice"),
        ([Gene("a", (1,)), Gene("resolution", (2,))], "resolution must be the first"),
        ([Gene("a", (1,), Presence("b", 1)), Gene("b", (1,))], "gene a is present by 'b'"),
        ([Gene("a", ("x",)), Gene("b", (1,), Presence("a", 1))], "gene b is present by 'a'"),
        ([Gene("a", (1, 2)), Gene("b", (1,), Presence("a", 3))], "gene b is never there: a reach"),
    ],
)
def test_spaces_that_make_no_sense(genes: list[Gene], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Space("some", tuple(genes))
    for name, values in (("a b", (1,)), ("a", ()), ("a", (2, 1)), ("a", ("3",)), ("a", (1, "x"))):
        with pytest.raises(InputError, match="gene"):
            Gene(name, values)
    with pytest.raises(InputError, match="family"):
        Space("a/b", (Gene("a", (1, 2)),))


def test_restrict_and_top_by_kind_and_by_name() -> None:
    part = LARGE.restrict(depth=(6, 9), heads=(6,), **{"block1.heads": (3,)})
    assert part.gene("block1.heads").values == (3,)
    assert part.gene("block9.heads").values == (6,)
    assert "block10.heads" not in [gene.name for gene in part.genes]
    assert part.gene("block6.mlp").present == ()  # always there
    assert LARGE.top(depth=1).gene("block12.mlp").present == ()
    assert LARGE.top(mlp=2).gene("block2.mlp").values == (2.5, 4)
    inside = LARGE.decode(LARGE.sample(np.random.default_rng(0), 300))
    shown = [arch in LARGE.top(depth=2) for arch in inside]
    assert shown == [arch["depth"] > 6 for arch in inside]
    with pytest.raises(InputError, match="unknown choice kernel"):
        LARGE.top(kernel=1)
    with pytest.raises(InputError, match="block 1: heads 5 is not in the space; it has 3, 6"):
        LARGE.restrict(heads=(5,))


@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("space", [SMALL, PLAIN], ids=["small", "plain"])
def test_tables_against_brute_force(space: Space, reduce: str, tmp_path) -> None:
    made = [table(space, seed, reduce, whole=space is SMALL) for seed in range(3)]
    archs = list(space)
    population = space.encode(archs)
    join = sum if reduce == "sum" else max
    for one, values in zip(made, values_of(made, population), strict=True):
        parts = [[value_of(f, space, arch) for f in one.factors] for arch in archs]
        wanted = [join([v for v in row if v is not None]) for row in parts]
        np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12)
        for (value, arch), best in ((one.minimum(), min(wanted)), (one.maximum(), max(wanted))):
            assert value == pytest.approx(best, rel=1e-12)
            assert one.of(arch) == pytest.approx(best, rel=1e-12)
        one.save(tmp_path / f"{one.name}.json")
        np.testing.assert_array_equal(Table.load(tmp_path / f"{one.name}.json")(population), values)
        part = space.restrict(depth=(2,), mlp=(2, 4))
        inside = [arch for arch in archs if arch in part]
        np.testing.assert_allclose(
            one.restrict(part)(part.encode(inside)), one(space.encode(inside)), rtol=1e-12
        )


def test_too_many_genes_at_once_are_refused() -> None:
    genes = [Gene(f"g{i}", tuple(range(8))) for i in range(12)]
    space = Space("knot", tuple(genes))
    pairs = itertools.combinations([gene.name for gene in genes], 2)
    knot = Table(space, tuple(Factor(pair, np.ones((8, 8))) for pair in pairs))
    assert knot(space.sample(np.random.default_rng(0), 3)).tolist() == [66.0] * 3
    with pytest.raises(InputError, match=r"knot: .* genes depend on each other at once"):
        knot.minimum()


@pytest.fixture(scope="module")
def everything() -> Population:
    return SMALL.encode(list(SMALL))


def crooked(population: Population) -> np.ndarray:
    """Not additive."""
    gain = table(SMALL, 1)(population)
    return gain + 0.4 * np.sin(3 * gain) * table(SMALL, 7)(population)


@pytest.mark.parametrize("method", ["exact", "guided", "evolution"])
@pytest.mark.parametrize("quantile", [0.05, 0.5])
def test_searches_reach_the_best_of_all(everything, method: str, quantile: float) -> None:
    cost, peak = table(SMALL, 2), table(SMALL, 3, "max")
    costs, peaks = cost(everything), peak(everything)
    bounds = np.quantile(costs, (quantile + 0.1, quantile))
    limits = [Limit("cost", cost, *bounds), Limit("peak", peak, np.quantile(peaks, 0.6))]
    inside = (costs <= bounds[0]) & (costs >= bounds[1]) & (peaks <= limits[1].high)
    objective = table(SMALL, 1) if method == "exact" else crooked
    found = search(SMALL, objective, limits, method=method)
    assert found.value == pytest.approx(objective(everything)[inside].max(), rel=1e-9)
    assert found.arch in SMALL
    if found.certificate is not None:
        assert found.certificate.gap == pytest.approx(0, abs=1e-6)


def test_limits_that_cannot_be_met_together(everything) -> None:
    cost, other = table(SMALL, 2), table(SMALL, 4)
    first = Limit("cost", cost, at_most=float(np.quantile(cost(everything), 0.2)))
    nearest = float(other(everything)[cost(everything) <= first.high].max())
    with pytest.raises(Infeasible, match="limit other: at least") as caught:
        search(SMALL, crooked, [first, Limit("other", other, at_least=nearest + 0.01)])
    assert caught.value.nearest == pytest.approx(nearest, rel=1e-4)


@pytest.mark.parametrize("method", ["guided", "evolution", "nsga2"])
def test_a_front(everything, method: str) -> None:
    if method == "nsga2":
        pytest.importorskip("pymoo")
    cost = table(SMALL, 2)
    budgets = list(np.quantile(cost(everything), (0.2, 0.6)))
    found = pareto(SMALL, crooked, {"cost": cost}, budgets={"cost": budgets}, method=method)
    assert all(result.arch in SMALL for result in found)
    if method != "nsga2":
        best = [crooked(everything)[cost(everything) <= b].max() for b in budgets]
        assert [result.value for result in found] == pytest.approx(best)


def test_spaces_without_a_resolution_are_searched() -> None:
    made, rows = table(PLAIN, 5, whole=False), PLAIN.encode(list(PLAIN))
    for method in ("exact", "guided", "evolution"):
        assert search(PLAIN, made, method=method).value == pytest.approx(made(rows).max())


def test_changes_are_steps_to_other_archs(everything) -> None:
    for row in SMALL.sample(np.random.default_rng(0), 20):
        near, place = changes(SMALL, row)
        assert len(near) == len(place)
        np.testing.assert_array_equal(near, SMALL.canonical(near))
        assert not (near == row).all(1).any()
        # every value of each gene that is there is reached, a depth's next ones
        for column in np.flatnonzero(SMALL.active(row[None])[0]):
            reached = set(near[:, column].tolist()) - {int(row[column])}
            others = set(range(SMALL.gene_sizes[column])) - {int(row[column])}
            if column in SMALL.controls:
                others = {i for i in others if abs(i - int(row[column])) == 1}
            if column == SMALL.column("width"):
                others = {i for i in others if abs(i - int(row[column])) == 1}
            assert reached >= others


def test_records_and_predictors(tmp_path) -> None:
    """A CSV of archs as texts; an accuracy and a latency that nothing but genes explain."""
    rng = np.random.default_rng(0)
    population = LARGE.sample(rng, 80)

    def effect(rows: Population) -> np.ndarray:
        active = LARGE.active(rows)
        total = np.zeros(len(rows))
        for b in range(1, 13):
            there = active[:, LARGE.column(f"block{b}.mlp")]
            total += there * (1 + 0.3 * LARGE.values(f"block{b}.mlp", rows))
        return total * (1 + 0.1 * (LARGE.values("act", rows) == "gelu"))

    path = tmp_path / "records.csv"
    values = 50 + effect(population) + rng.normal(0, 0.05, 80)
    write_csv(path, LARGE, population, {"top1": values, "ms": 0.2 * effect(population)})
    labels = read_labels(path, LARGE, "top1")
    assert (labels.population == population).all()
    model = predictors.fit_accuracy(labels, test_fraction=0.2)
    assert model.report is not None
    assert model.report.kendall_tau > 0.9
    model.save(tmp_path / "p.npz")
    part = LARGE.restrict(depth=(6, 9)).at((176,))
    again = predictors.load(tmp_path / "p.npz", part)
    rows = part.sample(rng, 20)
    wanted = 50 + effect(LARGE.at((176,)).encode(part.decode(rows)))
    assert np.abs(again.predict(rows).mean - wanted).max() < 3
    times = Labels(LARGE, "latency_ms", population, 0.2 * effect(population))
    found = predictors.fit_latency(times, test_fraction=0.2)
    assert found.report is not None
    assert found.report.mape < 5
