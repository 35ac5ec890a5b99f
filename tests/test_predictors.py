"""Predictors: fits are compared with functions known exactly, and with references."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from onceforall import families, predictors, records
from onceforall.costs import cost_tables
from onceforall.errors import InputError
from onceforall.predictors import circumstances, gp, physics
from onceforall.predictors.accuracy import Scale
from onceforall.predictors.base import held_out, same_archs
from onceforall.predictors.features import Features
from onceforall.predictors.kernels import Kernel
from onceforall.records import Labels
from onceforall.space import Space, Stage
from onceforall.space.stages import block_gene, stage_gene

MINI = families.get("mbv3_mini").space
STRANGE = Space.of_stages(  # no family of this name: features from the space alone
    "strange", (16, 32), tuple(Stage((1, 2), (3, 5), (0.5, 1.0), (8, w)) for w in (12, 24))
)


def top1(population: np.ndarray, space: Space) -> np.ndarray:
    """A made-up accuracy, in points: more of everything helps, less and less."""
    total = sum(
        (space.values(stage_gene(s, "depth"), population) > b) * (1.0 + 0.2 * k + 0.3 * e)
        for s, stage in enumerate(space.stages)
        for b in range(stage.blocks)
        for k, e in [
            [population[:, space.column(block_gene(s, b, kind))] for kind in ("kernel", "expand")]
        ]
    )
    size = np.array(space.resolution)[population[:, 0]] / max(space.resolution)
    return 90 - 20 * np.exp(-0.3 * total * size)


def labels_of(space: Space, n: int, noise: float = 0.05, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    population = space.sample(rng, n)
    return Labels(space, "top1", population, top1(population, space) + rng.normal(0, noise, n))


def times_of(space: Space, n: int, seed: int = 0, start: float = 0.02) -> Labels:
    """A device that starts a layer in `start` ms and computes 1e6 MACs in 1 ms; 2% noise."""
    rng = np.random.default_rng(seed)
    population = space.sample(rng, n)
    macs = cost_tables(families.get(space.family))["macs"](population) / 1e6
    depth = sum(space.values(stage_gene(s, "depth"), population) for s in range(len(space.stages)))
    values = (start * 10 * depth + macs) * np.exp(rng.normal(0, 0.02, n))
    return Labels(space, "latency_ms", population, values)


# --- Gaussian processes


def test_gp_is_the_textbook_one() -> None:
    rng = np.random.default_rng(0)
    x, z, y = rng.normal(size=(30, 4)), rng.normal(size=(7, 4)), rng.normal(size=30)
    kernel = Kernel(("a",), ((("a",), ("b",)),))
    theta = np.array([-0.3, 0.2, 0.1, 0.5, -1.0])  # linear; variance, two lengths; noise

    def by_hand(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        linear = np.exp(-0.3) * p[:, :3] @ q[:, :3].T / 3
        a = ((p[:, None, :3] - q[None, :, :3]) ** 2).sum(-1) / 3 / np.exp(2 * 0.1)
        b = (p[:, None, 3] - q[None, :, 3]) ** 2 / np.exp(2 * 0.5)
        return linear + np.exp(0.2 - 0.5 * (a + b))

    def groups(p: np.ndarray) -> dict[str, np.ndarray]:
        return {"a": p[:, :3], "b": p[:, 3:]}

    process = gp.GP(kernel, theta, groups(x), y, 0.5, 2.0)
    k = by_hand(x, x) + (np.exp(-1.0) + 1e-8) * np.eye(30)
    cross = by_hand(z, x)
    mean, std = process.predict(groups(z))
    assert np.allclose(mean, 0.5 + cross @ np.linalg.solve(k, y - 0.5), atol=1e-4)
    variance = np.diag(by_hand(z, z)) - np.diag(cross @ np.linalg.solve(k, cross.T))
    assert np.allclose(std, 2.0 * np.sqrt(variance), atol=1e-3)
    # left out one by one, by doing it
    mean, spread = process.leave_one_out()
    for i in (0, 7):
        rest = np.delete(np.arange(30), i)
        inner = k[np.ix_(rest, rest)]
        assert np.isclose(mean[i], 0.5 + k[i, rest] @ np.linalg.solve(inner, y[rest] - 0.5))
        left = k[i, i] - k[i, rest] @ np.linalg.solve(inner, k[rest, i])
        assert np.isclose(spread[i], 2.0 * np.sqrt(left))
    assert np.allclose(process.fitted(), 0.5 + by_hand(x, x) @ np.linalg.solve(k, y - 0.5))


def test_the_gradient_of_the_likelihood_is_right() -> None:
    """A maximum found with a wrong slope is none: no small step may be better."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3))
    y = np.sin(x[:, 0]) + 0.3 * x[:, 1] + 0.1 * rng.normal(size=40)
    y = (y - y.mean()) / y.std()
    kernel = Kernel(("a",), ((("a",), ("b",)),), (-1.0,))
    groups = {"a": x[:, :2], "b": x[:, 2:]}
    theta = gp.fit(kernel, groups, y, iterations=300).theta

    def score(at: np.ndarray) -> float:
        k = gp.GP(kernel, at, groups, y, 0.0, 1.0).covariance(groups, groups)
        k += (np.exp(at[-1]) + 1e-8) * np.eye(40)
        prior = ((at - kernel.prior_mean()) / 1.5) ** 2
        return 0.5 * (y @ np.linalg.solve(k, y) + np.linalg.slogdet(k)[1] + prior.sum())

    best = score(theta)
    for i in range(len(theta)):
        for step in (-0.05, 0.05):
            moved = theta.copy()
            moved[i] += step
            assert score(moved) > best - 1e-6


# --- accuracy


@pytest.mark.parametrize("space", [MINI, STRANGE], ids=["family", "space alone"])
def test_accuracy_is_fitted(space: Space) -> None:
    labels, fresh = labels_of(space, 120), labels_of(space, 200, noise=0.0, seed=1)
    model = predictors.fit_accuracy(labels)
    found = model.predict(fresh.population)
    assert kendalltau(found.mean, fresh.values).statistic > 0.93
    assert np.sqrt(np.mean((found.mean - fresh.values) ** 2)) < 0.15 * fresh.values.std()
    assert found.std is not None
    assert (found.std > 0.02).all()
    assert model.report is not None
    repeated = 120 - len(np.unique(labels.population, axis=0))  # in the small space
    assert model.report.n_test == 120
    assert 96 - repeated <= model.report.n_train <= 96
    assert model.report.rmse < 0.2 * labels.values.std()


def test_covariates_are_fitted_given_or_averaged() -> None:
    labels = labels_of(MINI, 200)
    rng = np.random.default_rng(3)
    shard = rng.integers(0, 2, 200)
    shifted = replace(
        labels, values=labels.values + 2.0 * shard, columns={"shard": shard.astype(str)}
    )
    assert predictors.likely_covariates(shifted) == ("shard",)
    model = predictors.fit_accuracy(shifted, ("shard",))
    fresh = MINI.sample(rng, 100)
    zero, one, mean = (
        model.predict(fresh, shard="0"),
        model.predict(fresh, shard=np.full(100, 1)),
        model.predict(fresh),
    )
    assert np.allclose(one.mean - zero.mean, 2.0, atol=0.2)
    share = shard.mean()
    assert np.allclose(mean.mean, (1 - share) * zero.mean + share * one.mean, atol=0.02)
    assert mean.std is not None
    assert zero.std is not None
    assert (mean.std > 0.9).all()  # two levels 2 points apart: 1 point about their middle
    assert (zero.std < 0.5).all()
    assert np.allclose(model.predict(fresh, shard="new").mean, mean.mean)
    with pytest.raises(InputError, match="covariate 'other' is not one of this predictor's"):
        model.predict(fresh, other=1)
    with pytest.raises(InputError, match="'other' is not a column"):
        predictors.fit_accuracy(shifted, ("other",))


def test_a_prior_helps_where_labels_are_few() -> None:
    teacher = predictors.fit_accuracy(labels_of(MINI, 300))
    few, fresh = labels_of(MINI, 12, seed=5), labels_of(MINI, 200, 0.0, seed=6)
    few, fresh = (replace(x, values=0.5 * x.values + 10) for x in (few, fresh))
    errors = []
    for prior in (None, teacher):
        mean = predictors.fit_accuracy(few, prior=prior).predict(fresh.population).mean
        errors.append(np.sqrt(np.mean((mean - fresh.values) ** 2)))
    assert errors[1] < 0.6 * errors[0]


def test_extrapolation_is_flagged() -> None:
    labels = labels_of(MINI, 100)
    small = labels.take(labels.population[:, 0] == 0)
    model = predictors.fit_accuracy(small)
    known = model.predict(small.population).extrapolates
    beyond = small.population.copy()
    beyond[:, 0] = 2
    assert not known.any()
    assert model.predict(beyond).extrapolates.all()


@pytest.mark.parametrize("multiplied", [True, False])
def test_the_scale_is_the_one_on_which_effects_add(multiplied: bool) -> None:
    rng = np.random.default_rng(0)
    labels = labels_of(MINI, 150)
    blocks = [
        MINI.values(stage_gene(s, "depth"), labels.population) for s in range(len(MINI.stages))
    ]
    effect = np.sum(blocks, 0, float) + 0.5 * labels.population[:, 0]
    effect = 0.8 * (effect - effect.mean()) / np.ptp(effect) * 2 + 0.03 * rng.standard_normal(150)
    values = 100 - 20 * np.exp(-effect) if multiplied else 75 + 10 * effect
    model = predictors.fit_accuracy(replace(labels, values=values), test_fraction=0)
    assert (model.scale.limit is not None) == multiplied
    found = model.predict(MINI.sample(rng, 500))
    if model.scale.limit is not None:
        assert found.mean.max() < model.scale.limit


def test_a_bent_scale_comes_back() -> None:
    values = np.linspace(66.0, 77.0, 12)
    scale = Scale.bent(values)
    assert scale.limit == 99.0
    bent = scale.of(values)
    mean, std = scale.back(bent, np.full(12, 1e-6))
    assert np.allclose(mean, values)
    low, high = (scale.back(bent + step, std)[0] for step in (-1e-6, 1e-6))
    assert np.allclose(std, (high - low) / 2, rtol=1e-4)
    assert scale.log_slope(values) == pytest.approx(np.log(np.gradient(bent, values)).sum(), 0.01)
    assert std[0] / std[-1] == pytest.approx(1.5)


# --- latency


def test_physics_finds_what_made_the_times() -> None:
    rng = np.random.default_rng(0)
    starts, computes = rng.uniform(1, 3, (200, 1)), rng.uniform(1, 30, (200, 1))
    times = np.maximum(2.0 * starts[:, 0], 0.5 * computes[:, 0])
    terms = physics.Terms(starts, computes, np.ones(1), np.ones(1))
    spoilt = np.log(times) + rng.normal(0, 0.005, 200)
    spoilt[:20] += 1.0  # a tenth of the measurements are far too slow
    found = physics.fit(terms, spoilt)
    law = found.physics
    assert np.abs(law(terms) - np.log(times)).mean() < 0.02
    assert found.weights[:20].max() < 0.05
    assert found.spread < 0.03
    slopes = law.slopes(terms)
    moved = replace(law, theta=law.theta + 1e-5 * np.eye(len(law.theta))[0])
    assert np.allclose((moved(terms) - law(terms)) / 1e-5, slopes[:, 0] / 3.0, atol=1e-4)


@pytest.mark.parametrize(("starting", "right"), [(False, 1), (True, 2)])
def test_evidence_says_what_a_device_waits_for(starting: bool, right: int) -> None:
    """From ten noisy records, 20 times: the prior that what made them counts is mostly the most
    probable, and its fit ranks fresh archs better than that of the prior that both count."""
    rng = np.random.default_rng(3)
    few, fresh = np.arange(10), np.arange(10, 210)
    chosen, errors = [], []
    for _ in range(20):
        starts, computes = np.exp(rng.normal(0, 0.4, (2, 210, 1)))
        made = np.log(starts if starting else computes)[:, 0]
        terms = physics.Terms(starts, computes, np.ones(1), np.ones(1))
        measured = made[few] + 0.08 * rng.standard_normal(10)
        fits = [physics.fit(terms.take(few), measured, prior) for prior in physics.PRIORS]
        chosen.append(int(np.argmax([fit.evidence for fit in fits])))
        errors.append([np.std(fit.physics(terms.take(fresh)) - made[fresh]) for fit in fits])
    assert chosen.count(right) >= 15
    assert np.mean(errors, 0)[right] < 0.7 * np.mean(errors, 0)[0]


@pytest.mark.parametrize(("n", "error"), [(10, 7.0), (60, 2.5)])
def test_latency_is_fitted(n: int, error: float) -> None:
    model = predictors.fit_latency(times_of(MINI, n))
    fresh = times_of(MINI, 200, seed=1)
    found = model.predict(fresh.population)
    assert held_out(found.mean, found.std, fresh.values, n).mape < error
    assert model.report is not None
    assert model.report.n_test == n


def test_other_devices_help() -> None:
    """The new device is half as fast as a known one, whose times no law here explains well."""

    def device(n: int, seed: int, factor: float) -> Labels:
        made = times_of(MINI, n, seed)
        column = [gene.name for gene in MINI.genes].index
        slow = 0.4 * made.population[:, column("stage2.block1.kernel")]  # one that it is bad at
        fast = -0.2 * made.population[:, column("stage3.block1.expand")]
        return replace(made, values=factor * made.values * np.exp(slow + fast))

    few, fresh, source = device(10, 1, 2.0), device(200, 2, 2.0), device(400, 3, 1.0)
    alone = predictors.fit_latency(few).predict(fresh.population)
    helped = predictors.fit_latency(few, [source]).predict(fresh.population)
    errors = [held_out(p.mean, p.std, fresh.values, 10).mape for p in (alone, helped)]
    assert errors[1] < 0.6 * errors[0]


def test_the_device_that_is_alike_is_picked_out() -> None:
    """Of two others one ranks the new device's archs, one does not: ten noisy records say which."""
    rng = np.random.default_rng(5)
    alike, unlike, few, fresh = (
        times_of(MINI, n, seed) for seed, n in enumerate((300, 300, 10, 200))
    )
    unlike = replace(unlike, values=unlike.values * np.exp(0.5 * rng.standard_normal(300)))
    few = replace(few, values=3 * few.values * np.exp(0.05 * rng.standard_normal(10)))
    model = predictors.fit_latency(few, [unlike, alike])
    shares = {law.sources: law.share for law in model.laws}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares.get((1,), 0) > shares.get((0,), 0)
    helped, alone = (m.predict(fresh.population) for m in (model, predictors.fit_latency(few)))
    errors = [held_out(p.mean, p.std, 3 * fresh.values, 10) for p in (helped, alone)]
    assert errors[0].spearman > 0.99
    assert errors[0].mape < errors[1].mape


def test_drift_is_found_taken_out_and_put_back() -> None:
    labels = times_of(MINI, 300)
    when = np.arange(300)
    pace = np.where(when > 200, 0.2, 0.0)  # the last third is 20% slower
    slowed = replace(labels, values=labels.values * np.exp(pace))
    model = predictors.fit_latency(slowed)
    assert model.drift is not None
    early, late = (model.predict(labels.population, order=t).mean for t in (50, 280))
    assert np.allclose(np.log(late / early), 0.2, atol=0.05)
    assert np.abs(np.log(model.predict(labels.population).mean / labels.values)).mean() < 0.04
    assert predictors.fit_latency(labels).drift is None


def test_no_drift_is_found_in_noise() -> None:
    rng = np.random.default_rng(0)
    found = [circumstances.find_drift(np.arange(200.0), rng.standard_t(3, 200)) for _ in range(20)]
    assert sum(f is not None for f in found) <= 2


# --- what cannot be fitted


@pytest.mark.parametrize("n", [30, 300])
def test_an_arch_measured_often_is_held_out_as_one(n: int) -> None:
    """Twice the measurements of the same archs say no more of other archs."""
    labels = labels_of(MINI, n, noise=0.01)
    again = np.tile(np.arange(n), 2)
    twice = replace(labels.take(again), values=labels.values[again] + 0.01 * (again % 3))
    assert np.array_equal(same_archs(twice), again)
    once, often = (predictors.fit_accuracy(given).report for given in (labels, twice))
    assert once is not None
    assert often is not None
    assert often.n_test == 2 * once.n_test
    assert often.rmse > 0.7 * once.rmse
    with pytest.raises(InputError, match="30 records of 1 archs"):
        predictors.fit_accuracy(replace(labels.take(np.zeros(30, int)), values=np.arange(30.0)))


def test_a_time_that_is_none_is_refused() -> None:
    labels = times_of(MINI, 20)
    for bad in ("x", "nan", ""):
        order = np.array([*map(str, range(19)), bad])
        with pytest.raises(InputError, match="of record 20, is not a finite number"):
            predictors.fit_latency(replace(labels, columns={"order": order}))


@pytest.mark.parametrize("fit", [predictors.fit_accuracy, predictors.fit_latency])
def test_too_little_is_refused(fit: object) -> None:
    labels = labels_of(MINI, 30)
    with pytest.raises(InputError, match="1 records"):
        fit(labels.take(np.array([0])))  # type: ignore[operator]
    with pytest.raises(InputError, match="nothing to fit"):
        fit(replace(labels, values=np.full(30, 70.0)))  # type: ignore[operator]


def test_latency_below_zero_is_refused() -> None:
    labels = times_of(MINI, 10)
    with pytest.raises(InputError, match="is not a latency above 0"):
        predictors.fit_latency(replace(labels, values=labels.values - 1e6))


# --- files


def fitted() -> list[predictors.Predictor]:
    shard = {"shard": np.array(["0", "1"] * 30)}
    source = times_of(MINI, 30, seed=4)
    accuracy = predictors.fit_accuracy(replace(labels_of(MINI, 60), columns=shard), ("shard",))
    return [
        accuracy,
        predictors.fit_accuracy(labels_of(MINI, 20), prior=accuracy),
        predictors.fit_latency(times_of(MINI, 40)),
        predictors.fit_latency(times_of(MINI, 10), [source]),
    ]


def test_saved_is_loaded_and_serves_parts_of_the_space(tmp_path: Path) -> None:
    part = MINI.restrict(depth=(2, 3), kernel=(5,)).at((18, 24))
    whole = MINI.at((18, 20, 24, 28))
    population = part.sample(np.random.default_rng(0), 20)
    same = whole.encode(part.decode(population))
    for i, model in enumerate(fitted()):
        path = tmp_path / f"{i}.npz"
        model.save(path)
        loaded = predictors.load(path, part)
        a, b = loaded.predict(population), model.on(whole).predict(same)
        assert np.allclose(a.mean, b.mean)
        assert a.std is not None
        assert b.std is not None
        assert np.allclose(a.std, b.std)
        assert np.array_equal(a.extrapolates, b.extrapolates)
        assert loaded.report == model.report
        assert predictors.load(path).space == MINI


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path, cut = tmp_path / "p.npz", tmp_path / "cut.npz"
    predictors.fit_accuracy(labels_of(MINI, 10)).save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match="damaged"):
            predictors.load(cut)
    for at in range(60, len(content) - 400, 211):
        cut.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            predictors.load(cut)
        except InputError:
            continue  # a flipped bit in a field that zip does not check is harmless
    with pytest.raises(InputError, match="is for mbv3_mini, not for ofa_mbv3_w1"):
        predictors.load(path, families.get("ofa_mbv3_w1.0").space)
    larger = Space.of_stages(
        MINI.family, (28,), (replace(MINI.stages[0], kernel=(3, 7)), *MINI.stages[1:])
    )
    with pytest.raises(InputError, match="stage 1 block 1: kernel 7 is not in it"):
        predictors.load(path, larger)
    with pytest.raises(InputError, match="no such file"):
        predictors.load(tmp_path / "none.npz")
    np.savez(cut, json=np.array([1], dtype=object), allow_pickle=True)
    with pytest.raises(InputError):
        predictors.load(cut)


# --- what to label next


def test_choose_spreads_and_then_asks_where_it_is_unsure() -> None:
    rng = np.random.default_rng(0)
    none = MINI.sample(rng, 0)
    chosen = predictors.choose(MINI, None, none, 40, rng)
    assert len(np.unique(chosen, axis=0)) == 40
    features = Features.of(MINI, MINI.sample(rng, 500), {})

    def nearest(population: np.ndarray) -> float:
        x = np.hstack([v / np.sqrt(v.shape[1]) for v in features(population).values()])
        d = ((x[:, None] - x[None]) ** 2).sum(-1)
        return float(np.sqrt(d[~np.eye(len(x), dtype=bool)].reshape(len(x), -1).min(1)).mean())

    assert nearest(chosen) > 1.1 * nearest(MINI.sample(rng, 40))
    labels = labels_of(MINI, 60)
    small = labels.take(labels.population[:, 0] == 0)
    small = small.take(np.arange(len(small)).repeat(4)[:60])
    model = predictors.fit_accuracy(
        replace(small, values=small.values + rng.normal(0, 0.01, len(small)))
    )
    unsure = predictors.choose(MINI, model, small.population, 20, rng)
    assert (unsure[:, 0] > 0).mean() > 0.7  # one resolution only is in its records
    macs = cost_tables(families.get("mbv3_mini"))["macs"]
    budget = float(np.median(macs(chosen)))
    near = predictors.choose(MINI, model, small.population, 20, rng, cost=macs, budgets=[budget])
    away = [np.abs(np.log(macs(p) / budget)).mean() for p in (near, unsure)]
    assert away[0] < away[1]


def test_choose_says_when_a_space_is_used_up() -> None:
    tiny = Space.of_stages("tiny", (16,), (Stage((1,), (3, 5), (2,), (8,)),))
    with pytest.raises(InputError, match="only 1 are left"):
        predictors.choose(tiny, None, tiny.encode(list(tiny))[:1], 2, np.random.default_rng(0))


def test_stalled() -> None:
    assert not predictors.stalled([1.0, 0.8, 0.6, 0.5, 0.4])
    assert predictors.stalled([1.0, 0.5, 0.5, 0.495, 0.51])
    assert not predictors.stalled([0.5, 0.5])


# --- figures on real records; the whole tables are in benchmarks/predictors.py


def accuracy_labels(data_dir: Path) -> Labels:
    space = families.get("ofa_mbv3_w1.0").space
    return records.read_labels(data_dir / "accuracy" / "ofa_mbv3_w1.0.csv", space, "top1")


@pytest.mark.data
@pytest.mark.parametrize(
    ("covariates", "rmse", "tau"), [((), 0.42, 0.87), (("shard",), 0.30, 0.90)]
)
def test_real_accuracy_from_100_labels(
    data_dir: Path, covariates: tuple[str, ...], rmse: float, tau: float
) -> None:
    labels = accuracy_labels(data_dir)
    order = np.random.default_rng(0).permutation(len(labels))
    model = predictors.fit_accuracy(labels.take(order[:100]), covariates)
    rest = labels.take(order[100:])
    found = model.predict(rest.population, **{c: rest.columns[c] for c in covariates})
    report = held_out(found.mean, found.std, rest.values, 100)
    assert report.rmse < rmse
    assert report.kendall_tau > tau
    assert 0.82 < report.coverage90 < 0.97


@pytest.mark.data
def test_the_second_opinion_knows_its_records(data_dir: Path) -> None:
    """A linear model is worse than the processes, and yet no stranger to the archs."""
    labels = accuracy_labels(data_dir)
    order = np.random.default_rng(0).permutation(len(labels))
    known, rest = labels.take(order[:100]), labels.take(order[100:])
    model = predictors.fit_accuracy(known, ("shard",), test_fraction=0)
    second = predictors.SecondOpinion(model)(rest.population)
    report = held_out(second, None, rest.values, 100)
    first = model.predict(rest.population).mean
    assert report.rmse < 0.5
    assert report.kendall_tau > 0.85
    assert 0.02 < np.std(second - first) < 0.5


@pytest.mark.data
def test_the_authors_predictor_as_prior(data_dir: Path, tmp_path: Path) -> None:
    """It knows 8 resolutions, the family has 25: what the records need of it is enough."""
    labels = accuracy_labels(data_dir)
    order = np.random.default_rng(0).permutation(len(labels))
    few, rest = labels.take(order[:50]), labels.take(order[50:])
    authors = data_dir / "predictors" / "acc_predictor.pth"
    prior = predictors.load(authors, few.at_own_resolutions().space, prior=True)
    rmse = []
    for hint in (None, prior):
        model = predictors.fit_accuracy(few, prior=hint, test_fraction=0)
        here = rest if hint is None else rest.at_own_resolutions()
        found = model.predict(here.population)
        rmse.append(held_out(found.mean, found.std, here.values, 50).rmse)
    assert rmse[1] < rmse[0]
    model.save(tmp_path / "p.npz")
    with pytest.raises(InputError, match="no input for resolution 132"):
        predictors.load(tmp_path / "p.npz", labels.space)


@pytest.mark.data
def test_real_latency_from_ten_records(data_dir: Path) -> None:
    space = families.get("ofa_mbv3_w1.0").space
    path = data_dir / "latency" / "gpu_latency_ms.csv"
    labels = records.read_labels(path, space, "titan_rtx_64", positive=True)
    order = np.random.default_rng(0).permutation(len(labels))
    model = predictors.fit_latency(labels.take(order[:10]))
    rest = labels.take(order[10:])
    found = model.predict(rest.population)
    assert held_out(found.mean, found.std, rest.values, 10).spearman > 0.99
    assert held_out(found.mean, found.std, rest.values, 10).mape < 4


def test_archs_are_counted_with_the_settings_of_their_family() -> None:
    """Against the networks themselves, built with 100 classes and one channel."""
    from onceforall.predictors.work import Work, amounts, work_of

    settings = {"classes": 100, "in_channels": 1}
    family = families.get("mbv3_mini", **settings)
    archs = family.space.sample(np.random.default_rng(0), 5)
    work = work_of(family.space, family.space.resolution, settings)
    usual = work_of(family.space, family.space.resolution, {})
    assert isinstance(work, Work)
    assert isinstance(usual, Work)
    built = [family.build(arch) for arch in family.space.decode(archs)]
    params = [sum(p.numel() for p in network.parameters()) for network in built]
    assert amounts([work.params], archs)[0].tolist() == params
    assert (amounts([usual.params], archs)[0] < params).all()
