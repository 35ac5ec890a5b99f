"""Search against enumeration of small spaces, proofs, and refusals."""

import numpy as np
import pytest

from onceforall.errors import InputError
from onceforall.search import Infeasible, Limit, search
from onceforall.space import Population, Space, Stage
from onceforall.tables import Place, Table

SPACE = Space(
    "toy",
    (16, 24),
    (
        Stage((1, 2), (3, 5), (2, 3), (8, 12)),
        Stage((2,), (3,), (2, 4), (16,)),
        Stage((1, 2), (3,), (1, 2), (20, 24, 32)),
    ),
)
LARGE = Space(
    "large",
    tuple(range(128, 225, 4)),
    tuple(Stage((2, 3, 4), (3, 5, 7), (3, 4, 6), (w,)) for w in (24, 40, 80, 112, 160)),
)


def noise(seed: int):
    """A function of places without any order in it."""

    def value(place: Place) -> float:
        return (hash((seed, *place)) % 9973) / 997.3

    return value


def cost(place: Place) -> float:
    """Grows with everything, as costs do."""
    return 1e-3 * place.resolution * (place.kernel + 4 * place.expand) * (place.stage + 2)


@pytest.fixture(scope="module")
def everything() -> Population:
    return SPACE.encode(list(SPACE))


def tables(space: Space) -> tuple[Table, Table, Table]:
    return (
        Table.build(space, noise(1), lambda r, w: r * 0.05 + w * 0.01, name="gain"),
        Table.build(space, cost, name="latency"),
        Table.build(space, noise(2), reduce="max", name="peak"),
    )


def not_additive(population: Population) -> np.ndarray:
    """An objective with products of genes."""
    gain, latency, peak = tables(SPACE)
    return gain(population) - 0.02 * gain(population) * peak(population) + latency(population)


@pytest.mark.parametrize("method", ["evolution", "guided", "exact"])
@pytest.mark.parametrize("quantile", [0.05, 0.4, 0.8])
def test_the_best_of_all_archs(method, quantile, everything):
    gain, latency, peak = tables(SPACE)
    costs, peaks = latency(everything), peak(everything)
    limits = [
        Limit("latency", latency, *np.quantile(costs, (quantile + 0.1, quantile))),
        Limit("peak", peak, at_most=np.quantile(peaks, 0.7)),
    ]
    inside = (costs <= limits[0].high) & (costs >= limits[0].low) & (peaks <= limits[1].high)
    result = search(SPACE, gain, limits, method=method)
    assert result.value == pytest.approx(gain(everything)[inside].max(), rel=1e-9)
    assert limits[0].low <= result.limits["latency"] <= limits[0].high
    assert result.limits["peak"] <= limits[1].high
    assert (result.certificate is not None) == (method == "exact")
    if result.certificate is not None:
        assert result.certificate.gap == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bounds", [(None, 9.0), (9.4, None), (9.0, 9.4)])
def test_exact_with_bounds_on_a_maximum(bounds, everything):
    gain, _, peak = tables(SPACE)
    at_least, at_most = bounds
    peaks = peak(everything)
    inside = (peaks >= (at_least or -np.inf)) & (peaks <= (at_most or np.inf))
    result = search(SPACE, gain, [Limit("peak", peak, at_most, at_least)])
    assert result.method == "exact"
    assert result.value == pytest.approx(gain(everything)[inside].max(), rel=1e-9)


@pytest.mark.parametrize("method", ["evolution", "guided"])
def test_any_objective_and_any_limit(method, everything):
    latency = tables(SPACE)[1]

    def crooked(population: Population) -> np.ndarray:
        return np.sin(latency(population)) * 10

    limits = [
        Limit("latency", latency, at_most=float(np.median(latency(everything)))),
        Limit("crooked", crooked, at_least=5.0),
    ]
    inside = (latency(everything) <= limits[0].high) & (crooked(everything) >= 5.0)
    result = search(SPACE, not_additive, limits, method=method)
    assert result.value == pytest.approx(not_additive(everything)[inside].max(), rel=1e-12)
    values = [c.value for c in result.candidates]
    assert values == sorted(values, reverse=True)
    assert len({c.arch for c in result.candidates}) == len(values) == 10
    assert result.candidates[0].arch == result.arch


@pytest.mark.parametrize("method", ["evolution", "guided"])
def test_each_arch_is_evaluated_once_and_no_more_than_allowed(method):
    _, latency, _ = tables(LARGE)
    seen: list[bytes] = []

    def objective(population: Population) -> np.ndarray:
        seen.extend(row.tobytes() for row in population)
        return latency(population)

    limit = Limit("latency", latency, at_most=latency.minimum()[0] * 2)
    result = search(LARGE, objective, [limit], evaluations=1500, method=method, seed=3)
    assert len(seen) == len(set(seen)) == result.evaluations == 1500
    again = search(LARGE, latency.__call__, [limit], evaluations=1500, method=method, seed=3)
    assert (again.arch, again.value, again.curve) == (result.arch, result.value, result.curve)


def test_a_limit_that_cannot_be_met_is_named():
    gain, latency, _ = tables(SPACE)
    smallest, largest = latency.minimum()[0], latency.maximum()[0]
    for objective in (gain, not_additive):
        with pytest.raises(Infeasible, match="limit latency: at most") as caught:
            search(SPACE, objective, [Limit("latency", latency, at_most=smallest / 2)])
        assert caught.value.nearest == smallest
        assert f"{smallest:.8g}" in str(caught.value)
    with pytest.raises(Infeasible, match="at least") as caught:
        search(SPACE, gain, [Limit("latency", latency, at_least=largest * 2)])
    assert caught.value.nearest == largest


def test_limits_that_cannot_be_met_together(everything):
    gain, latency, peak = tables(SPACE)
    at_least = Limit("latency", latency, at_least=float(np.quantile(latency(everything), 0.5)))
    inside = latency(everything) >= at_least.low
    nearest = float(gain(everything)[inside].min())
    with pytest.raises(Infeasible, match=r"limit gain: .* with the limits before it met") as caught:
        search(SPACE, gain, [at_least, Limit("gain", gain, at_most=nearest * 0.999)])
    assert caught.value.nearest == pytest.approx(nearest, rel=1e-4)
    nearest = float(peak(everything)[inside].min())
    with pytest.raises(Infeasible, match="limit peak") as caught:
        search(SPACE, gain, [at_least, Limit("peak", peak, at_most=nearest * 0.999)])
    assert caught.value.nearest == nearest
    assert caught.value.proven


def test_a_function_that_cannot_be_met_ends():
    gain, latency, _ = tables(LARGE)
    limits = [
        Limit("count", lambda p: gain(p) * 0 + 5.0, at_most=4.0),
        Limit("latency", latency, at_most=latency.minimum()[0] * 2),
    ]
    with pytest.raises(Infeasible, match=r"limit count: at most 4 .* found .* is 5") as caught:
        search(LARGE, gain, limits)
    assert not caught.value.proven


def test_settings_that_make_no_sense():
    gain, latency, _ = tables(SPACE)
    limit = Limit("latency", latency, at_most=1e9)
    with pytest.raises(InputError, match="given twice"):
        search(SPACE, gain, [limit, limit])
    with pytest.raises(InputError, match="evaluations: 0"):
        search(SPACE, gain, evaluations=0)
    with pytest.raises(InputError, match=r"seconds: nan"):
        search(SPACE, gain, seconds=float("nan"))
    with pytest.raises(InputError, match=r"method: 'guess'.*auto, exact"):
        search(SPACE, gain, method="guess")
    with pytest.raises(InputError, match="exact: the objective must be"):
        search(SPACE, not_additive, method="exact")
    with pytest.raises(InputError, match="exclude each other"):
        Limit("latency", latency, at_most=1, at_least=2)
    with pytest.raises(InputError, match="neither"):
        Limit("latency", latency)
    with pytest.raises(InputError, match="nan"):
        Limit("latency", latency, at_most=float("nan"))
    with pytest.raises(InputError, match="not a number"):
        search(SPACE, lambda p: np.full(len(p), np.nan))
    with pytest.raises(InputError, match="shape"):
        search(SPACE, lambda p: np.zeros((len(p), 2)))
