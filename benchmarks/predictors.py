"""Errors of the predictors on real measurements, in one run.

    python benchmarks/predictors.py --data DATA [--draws 5] [--part accuracy] [--out FILE]

DATA holds `accuracy/ofa_mbv3_w1.0.csv` (measured top-1 of sub-networks) and
`latency/gpu_latency_ms.csv` (measured latencies on nine device settings). Each figure is a mean
over random splits: what is held out is predicted (of few records, over four times as
many splits). Beside the accuracy predictor stands the
authors' recipe, the perceptron of PyPI `ofa` (three layers of 400) trained on the same labels, if
that package is installed. What was aimed at and not reached says so. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import figures
import numpy as np
from authors import perceptron
from numpy.typing import NDArray

from onceforall import families, predictors, records
from onceforall.costs import cost_tables
from onceforall.predictors.base import Report, held_out
from onceforall.predictors.features import Features
from onceforall.records import Labels

FAMILY = "ofa_mbv3_w1.0"
ACCURACY_SIZES, LATENCY_SIZES = (100, 500, 1250), (10, 50, 900)
LABELLED, NOISE = (50, 110, 170), 0.25  # archs; points
SOURCE_SIZE = 600  # records of each other device
MOST = 2800  # latency records: as many as leave some to ask about; what more records could give
WITH_PRIOR = "onceforall, the authors' predictor as prior"
FEW, FEW_TIMES = 100, 4  # up to so many records, so many times the draws
AIMS = {  # RMSE in points, Kendall's tau: at most, at least
    ("onceforall", 100): (0.36, 0.89),
    ("onceforall", 500): (0.32, 0.90),
    ("onceforall", 1250): (0.31, 0.905),
    ("onceforall, shard known", 100): (0.25, 0.92),
    ("onceforall, shard known", 500): (0.20, 0.94),
    ("onceforall, shard known", 1250): (0.18, 0.945),
}
LATENCY_AIMS = {  # MAPE in percent, Spearman's rank correlation
    ("", 10, "32/64"): (4.5, 0.965),
    ("", 50, "32/64"): (3.6, 0.970),
    ("", 900, "32/64"): (2.4, 0.979),
    ("", 10, "1"): (6.3, 0.78),
    ("", 50, "1"): (5.7, 0.81),
    ("", 900, "1"): (5.5, 0.82),
    ("others as source", 10, "all"): (4.9, 0.91),
}
COLUMNS = {
    "predictors-accuracy": {
        "method": "{method}",
        "labels": "{labels}",
        "splits": "{draws}",
        "RMSE, points": "{rmse:.4f}",
        "Kendall's tau": "{kendall_tau:.4f}",
        "in the 90% interval": "{coverage90:.0%}",
        "aimed at": "{aim}",
    },
    "predictors-labelling": {
        "archs": "{archs}",
        "labels": "{labels}",
        "RMSE, points": "{rmse:.3f}",
        "near the budgets": "{rmse near budgets:.3f}",
    },
    "predictors-latency": {
        "records": "{records}",
        "given": "{how}",
        "batch": "{batch}",
        "rank correlation": "{spearman:.4f}",
        "MAPE, %": "{mape:.2f}",
        "in the 90% interval": "{coverage90:.0%}",
        "aimed at": "{aim}",
    },
    "predictors-left": {
        "setting": "{setting}",
        "spread": "{spread:.3f}",
        "archs": "{archs:.3f}",
        "order": "{order:.3f}",
        "other settings": "{other settings:.3f}",
    },
}
Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the measurements")
    parser.add_argument("--draws", type=int, default=5, help="random splits for each figure")
    parser.add_argument(
        "--part", choices=("accuracy", "labelling", "latency", "left"), help="only this part"
    )
    parser.add_argument("--plots", type=Path, help="folder for predicted against measured (PNG)")
    figures.add_option(parser)
    given = parser.parse_args()
    results: dict[str, Rows] = {}
    path = given.data / "accuracy" / f"{FAMILY}.csv"
    labels = records.read_labels(path, families.get(FAMILY).space, "top1")
    if given.part in (None, "accuracy"):
        authors = given.data / "predictors" / "acc_predictor.pth"
        results["accuracy"] = accuracy(labels, authors, given.draws, given.plots)
        print(speed(labels), flush=True)
    if given.part in (None, "labelling"):
        results["labelling"] = labelling(labels, given.draws)
    if given.part in (None, "latency"):
        path = given.data / "latency" / "gpu_latency_ms.csv"
        results["latency"] = latency(path, given.draws, given.plots)
    if given.part in (None, "left"):
        results["left"] = left(given.data / "latency" / "gpu_latency_ms.csv")
    tables = {}
    for part, rows in results.items():
        name = f"predictors-{part}"
        tables[name] = figures.Table(COLUMNS[name], rows)
        print(f"\n{name}\n\n{tables[name]}", flush=True)
    figures.write(given.out, tables, "ofa")


def aimed(error: float, rank: float, aim: tuple[float, float] | None) -> str | None:
    """What was aimed at, and whether that was missed."""
    if aim is None:
        return None
    reached = error <= aim[0] and rank >= aim[1]
    return f"{aim[0]:g}, {aim[1]:g}" + ("" if reached else ": MISSED")


def split(n: int, size: int, draw: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    order = np.random.default_rng(1000 + draw).permutation(n)
    return order[:size], order[size:]


def draws_of(size: int, draws: int) -> int:
    """Few records scatter more from draw to draw, and cost less."""
    return FEW_TIMES * draws if size <= FEW else draws


def mean_of(reports: list[Report], *names: str) -> dict[str, float]:
    return {name: float(np.mean([getattr(r, name) for r in reports])) for name in names}


# --- accuracy


def accuracy(labels: Labels, authors: Path, draws: int, plots: Path | None) -> Rows:
    """Of each method: which covariates are fitted, and which are given when predicting."""
    labels = labels.at_own_resolutions()
    prior = predictors.load(authors, labels.space, prior=True)
    rows = []
    for method, fitted, asked in (
        ("onceforall", (), ()),
        (WITH_PRIOR, (), ()),
        ("onceforall, shard in the records, not asked for", ("shard",), ()),
        ("onceforall, shard known", ("shard",), ("shard",)),
        ("ofa's perceptron", None, None),
    ):
        for size in ACCURACY_SIZES:
            reports = []
            for draw in range(draws_of(size, draws)):
                train, test = (labels.take(part) for part in split(len(labels), size, draw))
                if fitted is None or asked is None:
                    predict = perceptron(train, draw)
                    if predict is None:
                        break
                    mean = predict(test.space, test.population)
                    reports.append(held_out(mean, None, test.values, size))
                    continue
                hint = prior if method == WITH_PRIOR else None
                model = predictors.fit_accuracy(train, fitted, prior=hint, test_fraction=0)
                given = {name: test.columns[name] for name in asked}
                found = model.predict(test.population, **given)
                reports.append(held_out(found.mean, found.std, test.values, size))
                if plots is not None and draw == 0 and hint is None:
                    name = f"accuracy_{size}{'_shard' if asked else ''}"
                    plot(plots, name, found.mean, found.std, test.values, "top-1, %")
            if reports:
                names = ("rmse", "kendall_tau", *(() if fitted is None else ("coverage90",)))
                head = {"method": method, "labels": size, "draws": len(reports)}
                found_means = mean_of(reports, *names)
                aim = AIMS.get((method, size))
                said = aimed(found_means["rmse"], found_means["kendall_tau"], aim)
                rows.append({**head, **found_means, "aim": said})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def speed(labels: Labels) -> dict[str, float]:
    """Seconds of this thread, so that other work on the machine does not count."""
    train = labels.take(split(len(labels), 1250, 0)[0])
    start = time.process_time()
    model = predictors.fit_accuracy(train, ("shard",))
    fit = time.process_time() - start
    population = labels.space.sample(np.random.default_rng(0), 50_000)
    model.predict(population[:10])
    start = time.process_time()
    model.predict(population)
    per_second = len(population) / (time.process_time() - start)
    return {"fit of 1250 labels, s": fit, "archs a second, mean and uncertainty": per_second}


# --- which archs to label


def labelling(labels: Labels, draws: int) -> Rows:
    """Archs chosen in three ways, labelled by a predictor of all records and noise of the size of
    the measurements': its error over the space, and within 10% of two budgets of MACs."""
    oracle = predictors.fit_accuracy(labels, test_fraction=0)
    space, budgets = labels.space, (200e6, 350e6)
    macs = cost_tables(families.get(FAMILY), space.resolution)["macs"].restrict(space)
    everywhere = space.sample(np.random.default_rng(99), 20_000)
    far = np.min([np.abs(np.log(macs(everywhere) / b)) for b in budgets], axis=0)
    tests = {"rmse": everywhere[:3000], "rmse near budgets": everywhere[far < 0.1][:3000]}
    rows: Rows = []
    for way in ("random", "spread", "unsure", "unsure near budgets"):
        errors: dict[int, list[dict[str, float]]] = {}
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            known = labels.take(np.arange(0))
            while len(known) < LABELLED[-1]:
                n = 20 if len(known) else LABELLED[0]
                model = predictors.fit_accuracy(known, test_fraction=0) if len(known) else None
                near: dict[str, Any] = {"cost": macs, "budgets": budgets} if "near" in way else {}
                asked = model if way.startswith("unsure") else None
                archs = (
                    space.sample(rng, n)
                    if way == "random"
                    else predictors.choose(space, asked, known.population, n, rng, **near)
                )
                truth = oracle.predict(archs).mean + NOISE * rng.standard_normal(n)
                known = replace(
                    known,
                    population=np.concatenate([known.population, archs]),
                    values=np.concatenate([known.values, truth]),
                    columns={},
                )
                if len(known) in LABELLED:
                    fitted = predictors.fit_accuracy(known, test_fraction=0)
                    gap = {
                        name: fitted.predict(test).mean - oracle.predict(test).mean
                        for name, test in tests.items()
                    }
                    found = {name: float(np.sqrt((e**2).mean())) for name, e in gap.items()}
                    errors.setdefault(len(known), []).append(found)
        for n, all_found in errors.items():
            means = {name: float(np.mean([each[name] for each in all_found])) for name in tests}
            rows.append({"archs": way, "labels": n, **means})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


# --- latency


def latency(path: Path, draws: int, plots: Path | None) -> Rows:
    space = families.get(FAMILY).space
    names = records.read_archs(path, space).latencies()
    every = {name: records.read_labels(path, space, name, positive=True) for name in names}
    sources = {name: _source(labels) for name, labels in every.items()}
    rows: Rows = []
    cases = [(size, False, False) for size in LATENCY_SIZES]
    cases += [(900, False, True), (MOST, False, False), (10, True, False)]
    for size, with_source, timed in cases:
        found = {}
        for name in names:
            others = [sources[n] for n in names if _gpu(n) != _gpu(name)] if with_source else []
            reports = []
            for draw in range(1 if size == MOST else draws_of(size, draws)):
                labels = every[name]
                train, test = split(len(labels), size, draw)
                known = labels.take(train)
                if timed:
                    known = _timed(known, train)
                model = predictors.fit_latency(known, others, test_fraction=0)
                given = {"order": test} if timed and model.drift is not None else {}
                guess = model.predict(labels.population[test], **given)
                reports.append(held_out(guess.mean, guess.std, labels.values[test], size))
                if plots is not None and draw == 0 and not timed:
                    title = f"latency_{name}_{size}{'_source' if with_source else ''}"
                    plot(plots, title, guess.mean, guess.std, labels.values[test], "ms")
            found[name] = mean_of(reports, "spearman", "mape", "coverage90")
            print(size, with_source, timed, name, found[name], file=sys.stderr, flush=True)
        for batch, kept in (
            ("32/64", [n for n in names if not n.endswith("_1")]),
            ("1", [n for n in names if n.endswith("_1")]),
            ("all", names),
        ):
            means = {k: float(np.mean([found[n][k] for n in kept])) for k in found[names[0]]}
            how = "others as source" if with_source else "time of measuring known" if timed else ""
            said = aimed(means["mape"], means["spearman"], LATENCY_AIMS.get((how, size, batch)))
            rows.append({"records": size, "batch": batch, "how": how, **means, "aim": said})
    for name in names:
        rows.append({"records": 10, "batch": name, "how": "others as source", **found[name]})
    return rows


def left(path: Path) -> Rows:
    """The residuals of held-out latencies (two halves, each predicted from the other), and the
    share of their variance (R^2, five folds) that extremely randomised trees explain from the
    features of the archs, the place in the measuring order, and what is left
    over on the other settings. Logarithms, cut off at -0.2 and 0.3."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    space = families.get(FAMILY).space
    names = records.read_archs(path, space).latencies()
    every = {name: records.read_labels(path, space, name, positive=True) for name in names}
    over = {}
    for name, labels in every.items():
        rows = np.arange(len(labels))
        over[name] = np.empty(len(labels))
        for half in (rows % 2 == 0, rows % 2 == 1):
            model = predictors.fit_latency(labels.take(half), test_fraction=0)
            mean = model.predict(labels.population[~half]).mean
            over[name][~half] = np.clip(np.log(labels.values[~half] / mean), -0.2, 0.3)
    labels = every[names[0]]
    groups = Features.of(labels.space, labels.population, labels.settings)(labels.population)
    inputs = {
        "archs": np.hstack(list(groups.values())),
        "order": np.arange(float(len(labels)))[:, None],
    }
    found: Rows = []
    for name in names:
        inputs["other settings"] = np.stack([over[other] for other in names if other != name], 1)
        row: dict[str, Any] = {"setting": name, "spread": float(over[name].std())}
        for by, x in inputs.items():
            trees = ExtraTreesRegressor(
                200, min_samples_leaf=5, max_features=0.4, random_state=0, n_jobs=-1
            )
            folds = KFold(5, shuffle=True, random_state=0)
            guess = cross_val_predict(trees, x, over[name], cv=folds)
            row[by] = float(1 - np.mean((over[name] - guess) ** 2) / over[name].var())
        found.append(row)
        print(row, file=sys.stderr, flush=True)
    return found


def _source(labels: Labels) -> predictors.Latency:
    rows = np.random.default_rng(0).permutation(len(labels))[:SOURCE_SIZE]
    return predictors.fit_latency(labels.take(rows), test_fraction=0)


def _timed(labels: Labels, when: NDArray[np.intp]) -> Labels:
    return Labels(
        labels.space,
        labels.metric,
        labels.population,
        labels.values,
        {"order": when.astype(np.str_)},
    )


def _gpu(name: str) -> str:
    return name.rsplit("_", 1)[0]


def plot(
    folder: Path,
    name: str,
    mean: NDArray[np.float64],
    std: NDArray[np.float64] | None,
    measured: NDArray[np.float64],
    unit: str,
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(5, 5))
    axes.errorbar(measured, mean, yerr=std, fmt=".", ms=2, lw=0.3, alpha=0.5)
    ends = [float(measured.min()), float(measured.max())]
    axes.plot(ends, ends, color="black", lw=0.8)
    axes.set_xlabel(f"measured, {unit}")
    axes.set_ylabel(f"predicted, {unit}")
    axes.set_title(name)
    figure.tight_layout()
    figure.savefig(folder / f"{name}.png", dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
