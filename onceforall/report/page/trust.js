"use strict";
// How far to trust the predictors and the measurements.

function figureIn(parent, title, small, label, options, extra = "") {
  const place = make("div", { class: `chart ${extra}`, role: "img" });
  parent.append(make("figure", {}, make("figcaption", {}, title, make("small", {}, small)), place));
  return chartIn(place, label, options);
}

/** Predicted against measured, with intervals, about the line where both agree. */
function heldOutChart(parent, title, quality, shown, unit, hue) {
  const held = quality.held_out, error = quality.error;
  const small = [`${many(held.order.length, "held-out record")} of ${quality.records.toLocaleString("en")}`,
    unit === "ms" ? `typical error ${digits(error.mape, 2)}%` : `typical error ${digits(error.rmse, 2)} ${points}`,
    isNumber(error.kendall_tau) && `Kendall τ ${error.kendall_tau.toFixed(2)}`,
    isNumber(error.coverage90) && `${Math.round(100 * error.coverage90)}% within the 90% intervals`].filter(Boolean).join(" · ");
  const all = [...held.measured, ...held.predicted].filter(isNumber);
  const [low, high] = [Math.min(...all), Math.max(...all)], margin = 0.04 * (high - low || 1);
  const ends = [low - margin, high + margin];
  const big = held.order.length > 2000;
  figureIn(parent, title, small, `${title}: predicted against measured`, () => ({
    animation: false, grid: { left: 62, right: 16, top: 12, bottom: 48 },
    tooltip: tooltip((p) => (p.seriesName === "records" ? tip(`measured ${shown(p.value[0])}${unit === "ms" ? " ms" : scoreUnit}`, `predicted ${shown(p.value[1])}${plusMinus(held.interval[p.dataIndex], (v) => digits(v, 2))}`, held.extrapolates[p.dataIndex] ? "extrapolated" : null) : null)),
    xAxis: axis(`measured, ${unit}`, { min: ends[0], max: ends[1], axisLabel: { color: colour("soft"), hideOverlap: true, formatter: shown, showMinLabel: false, showMaxLabel: false } }),
    yAxis: axis(`predicted, ${unit}`, { min: ends[0], max: ends[1], nameGap: 46, axisLabel: { color: colour("soft"), formatter: shown, showMinLabel: false, showMaxLabel: false } }),
    series: [
      { type: "line", silent: true, symbol: "none", lineStyle: { color: colour("soft"), width: 1 }, data: [[ends[0], ends[0]], [ends[1], ends[1]]] },
      ...(big ? [] : [crosses("intervals", held.measured.map((x, i) => [x, held.predicted[i], 0, held.interval[i] ?? 0]), hue())]),
      { type: "scatter", name: "records", symbolSize: big ? 3 : 7, z: 4, large: big,
        itemStyle: { color: hue(), opacity: 0.8 },
        data: held.measured.map((x, i) => (held.extrapolates[i] ? { value: [x, held.predicted[i]], symbol: "diamond", itemStyle: { color: colour("proposed") } } : [x, held.predicted[i]])) },
    ],
  }));
}

/** Measured over predicted, in the order of measuring: a drift of the machine would show. */
function driftChart(parent, device, latency) {
  const held = latency.held_out;
  const ratio = held.measured.map((x, i) => [held.order[i], 100 * (x / held.predicted[i] - 1)]);
  const window = Math.max(5, Math.floor(ratio.length / 8));
  const smooth = ratio.map(([x], i) => [x, median(ratio.slice(Math.max(0, i - window), i + window + 1).map((p) => p[1]))]);
  const small = latency.drift ? `a drift of ${digits(100 * latency.drift, 2)}% was seen, and is taken out before the fit` : "no drift of the machine's pace was seen";
  figureIn(parent, `${device} over time`, small, `${device}: measured over predicted latency in the order of measuring`, () => ({
    animation: false, grid: { left: 62, right: 16, top: 12, bottom: 48 },
    tooltip: tooltip((p) => tip(`record ${p.value[0]}`, `${p.value[1] > 0 ? "+" : ""}${digits(p.value[1], 2)}% against its prediction`)),
    xAxis: axis("record, in the order of measuring", { scale: false, min: 0 }), yAxis: axis("slower than predicted, %", { nameGap: 40 }),
    series: [
      { type: "scatter", symbolSize: 6, itemStyle: { color: deviceColour(device), opacity: 0.7 }, data: ratio },
      { type: "line", silent: true, symbol: "none", lineStyle: { color: colour("ink"), width: 1.5 }, data: smooth,
        markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: colour("soft"), type: "dashed" }, data: [{ yAxis: 0 }] } },
    ],
  }));
}

function repeatsOf(quality, what, relative) {
  if (!quality.repeats.length) return null;
  const spread = quality.repeats.map((values) => { const wide = Math.max(...values) - Math.min(...values); return relative ? (100 * wide) / Math.min(...values) : wide; });
  const unit = relative ? "%" : ` ${points}`;
  return `${what}: ${many(quality.repeats.length, "network")} measured more than once; the values differ by ${digits(median(spread), 2)}${unit} (median), ${digits(Math.max(...spread), 2)}${unit} at most.`;
}

function trustFacts() {
  const facts = [];
  const own = DATA.networks.filter((n) => isNumber(n.score_predicted) && isNumber(n.latency_predicted_ms));
  if (own.length) {
    const apart = own.map((n) => 100 * Math.abs(measuredLatency(n) / n.latency_predicted_ms - 1)), scores = own.map((n) => Math.abs(n.score_validation - n.score_predicted));
    facts.push(`Of the ${many(own.length, "network")} delivered, predicted and measured latency differ by ${digits(median(apart), 2)}% (median), ${digits(Math.max(...apart), 2)}% at most; scores by ${digits(median(scores), 2)} and ${digits(Math.max(...scores), 2)} ${points}.`);
  }
  for (const { name, latency } of DATA.devices) {
    if (!latency) continue;
    if (latency.spread)
      facts.push(`${name}: one run in ten takes ${digits(100 * (latency.spread.high - 1), 2)}% more than the median, one in ten ${digits(100 * (1 - latency.spread.low), 2)}% less (typical record)${isNumber(latency.spread.noise) ? `; the median itself is known to ± ${digits(100 * latency.spread.noise, 2)}%` : ""}.`);
    facts.push(repeatsOf(latency, name, true));
  }
  if (DATA.score) facts.push(repeatsOf(DATA.score, METRIC.label, false));
  const beyond = (list) => list.filter((n) => n.extrapolates);
  const outside = [...beyond(DATA.networks).map((n) => n.name), ...(beyond(DATA.proposals).length ? [`${beyond(DATA.proposals).length} of what search proposes`] : [])];
  if (DATA.devices.some((d) => d.latency?.held_out))
    facts.push(outside.length ? `Outside the range of the records, so extrapolated: ${outside.join(", ")}.` : "No network shown is outside the range of the records.");
  const busy = DATA.networks.filter((n) => n.disturbed);
  if (busy.length) facts.push(`Something else kept the machine busy while these were timed: ${busy.map((n) => n.name).join(", ")}.`);
  for (const { name, facts: about } of DATA.devices)
    if (Object.keys(about).length) facts.push(`${name}: ${[about.runtime, about.processor, about.machine, about.system].filter(Boolean).join(", ")}.`);
  return facts.filter(Boolean);
}

function startTrust() {
  const body = at("trust-body");
  if (DATA.score?.held_out) heldOutChart(body, `${METRIC.label} of sub-networks`, DATA.score, score, METRIC.unit || METRIC.label, () => colour("reference"));
  for (const { name, latency } of DATA.devices)
    if (latency?.held_out) {
      heldOutChart(body, `latency on ${name}`, latency, (v) => digits(v, 3), "ms", () => deviceColour(name));
      driftChart(body, name, latency);
    }
  if (!body.children.length) at("trust").querySelector(".say").textContent = "There are too few records to fit predictors on, so nothing can be said of them.";
  fill("trust-facts", trustFacts().map((fact) => make("li", {}, fact)));
}
