"use strict";
// Accuracy against latency, and the budget that moves the pick.

const measuredLatency = (network) => network.latency_measured_ms;
const isProposed = (network) => network.kind === "proposed";
const latencyOf = (network) => (isProposed(network) ? network.latency_predicted_ms : measuredLatency(network));
const scoreOf = (network) => (isProposed(network) ? network.score_predicted : network.score_validation);

const STATE = { device: DEVICES[0] ?? "", from: "measured", budget: Infinity, judged: "validation", pick: null,
  show: { cloud: true, records: true, proposed: true, predicted: true } };

const networksOn = (device) => DATA.networks.filter((n) => n.device === device && isNumber(measuredLatency(n)));
const proposalsOn = (device) => DATA.proposals.filter((n) => n.device === device && isNumber(n.latency_predicted_ms));
const candidates = () => (STATE.from === "measured" ? networksOn(STATE.device) : proposalsOn(STATE.device));

/** The best network within the budget, by validation or by prediction; else the fastest. */
function pickFor(budget) {
  const all = candidates();
  const within = all.filter((n) => latencyOf(n) <= budget);
  const best = (list, value) => list.reduce((a, b) => (value(b) > value(a) ? b : a), list[0]);
  return within.length ? best(within, (n) => scoreOf(n) ?? -Infinity) : best(all, (n) => -latencyOf(n)) ?? null;
}

/** Those that no other is faster and better than, by rising latency. */
function frontOf(networks) {
  let best = -Infinity;
  return [...networks].sort((a, b) => latencyOf(a) - latencyOf(b)).filter((n) => {
    const better = (scoreOf(n) ?? -Infinity) > best;
    best = Math.max(best, scoreOf(n) ?? -Infinity);
    return better;
  });
}

// --- what is drawn

const shownScore = (network) => (STATE.judged === "test" ? network.score_test : scoreOf(network));

/** Archs of the records with both values measured: [latency, score, row]. */
function recordPoints(device) {
  const columns = DATA.table?.columns ?? [];
  const x = columns.find((c) => c.name === device), y = columns.find((c) => c.name === METRIC.name);
  if (!x || !y) return [];
  const found = [];
  for (let i = 0; i < x.values.length; i++)
    if (x.measured[i] === "1" && y.measured[i] === "1") found.push([x.values[i], y.values[i], i]);
  return found;
}

/** A cross of two intervals about each point: [x, y, half of x's, half of y's]. */
function crosses(name, data, hue) {
  return {
    type: "custom", name, data, silent: true, z: 3, encode: { x: 0, y: 1 },
    renderItem: (params, api) => {
      const [x, y, dx, dy] = [0, 1, 2, 3].map((i) => api.value(i));
      const line = (from, to) => {
        const [x1, y1] = api.coord(from), [x2, y2] = api.coord(to);
        return { type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: hue, lineWidth: 1.2, opacity: 0.55 } };
      };
      const children = [];
      if (dx > 0) children.push(line([x - dx, y], [x + dx, y]));
      if (dy > 0) children.push(line([x, y - dy], [x, y + dy]));
      return { type: "group", children };
    },
  };
}

const pointOf = (network, value) => ({ value, id: network.id });

function frontSeries() {
  const series = [], judgedByTest = STATE.judged === "test";
  const device = DATA.devices.find((d) => d.name === STATE.device);
  const hue = deviceColour(STATE.device), amber = colour("proposed"), purple = colour("reference");
  if (STATE.show.cloud && device?.cloud && !judgedByTest)
    series.push({ type: "scatter", name: "cloud", silent: true, z: 1, large: true, largeThreshold: 1500, symbolSize: 2.5,
      itemStyle: { color: colour("cloud"), opacity: 0.7 },
      data: device.cloud.latency.map((x, i) => [x, device.cloud.score[i]]) });
  if (STATE.show.records && !judgedByTest) {
    const data = recordPoints(STATE.device);
    if (data.length)
      series.push({ type: "scatter", name: "records", z: 2, large: data.length > 2000, largeThreshold: 2000,
        symbolSize: data.length > 2000 ? 2.5 : 5, itemStyle: { color: colour("record"), opacity: 0.75 }, data });
  }
  if (STATE.show.proposed && !judgedByTest) {
    const proposals = proposalsOn(STATE.device);
    series.push(crosses("intervals", proposals.map((n) => [n.latency_predicted_ms, n.score_predicted, n.latency_interval_ms, n.score_interval]), amber));
    series.push({ type: "line", name: "proposed", z: 4, symbol: "circle", symbolSize: 8,
      lineStyle: { color: amber, width: 1.5, type: [5, 4] }, itemStyle: { color: colour("paper"), borderColor: amber, borderWidth: 2 },
      data: proposals.map((n) => pointOf(n, [n.latency_predicted_ms, n.score_predicted])) });
  }
  const own = networksOn(STATE.device);
  if (STATE.show.predicted && !judgedByTest) {
    const both = own.filter((n) => isNumber(n.latency_predicted_ms) && isNumber(n.score_predicted));
    series.push(crosses("predicted intervals", both.map((n) => [n.latency_predicted_ms, n.score_predicted, n.latency_interval_ms ?? 0, n.score_interval ?? 0]), hue));
    series.push({ type: "scatter", name: "predicted", z: 4, symbolSize: 8, itemStyle: { color: "transparent", borderColor: hue, borderWidth: 1.5, opacity: 0.8 },
      data: both.map((n) => pointOf(n, [n.latency_predicted_ms, n.score_predicted])) });
    for (const n of both)
      series.push({ type: "line", name: "between", silent: true, symbol: "none", z: 3, lineStyle: { color: hue, width: 1, opacity: 0.5 },
        data: [[n.latency_predicted_ms, n.score_predicted], [measuredLatency(n), scoreOf(n)]] });
  }
  for (const name of DEVICES) {
    const delivered = networksOn(name), mine = name === STATE.device, tone = deviceColour(name);
    const front = frontOf(delivered);
    series.push({ type: "line", name: "front", silent: true, symbol: "none", z: 4, step: "end",
      lineStyle: { color: tone, width: mine ? 1.6 : 1, opacity: mine ? 0.8 : 0.4 },
      data: front.map((n) => [measuredLatency(n), shownScore(n)]) });
    for (const [kind, symbol, fillOf] of [["delivered", "circle", tone], ["reference", "rect", purple]])
      series.push({ type: "scatter", name: kind, symbol, symbolSize: mine ? 12 : 8, z: mine ? 6 : 5,
        itemStyle: { color: fillOf, borderColor: colour("paper"), borderWidth: 1.5, opacity: mine ? 1 : 0.6 },
        label: { show: mine && window.innerWidth > 560, formatter: (p) => byId(p.data.id)?.name ?? "", position: kind === "reference" ? "right" : "top", color: colour("ink"), fontSize: 12, textBorderColor: colour("paper"), textBorderWidth: 3 },
        labelLayout: { hideOverlap: true },
        data: delivered.filter((n) => n.kind === kind).map((n) => pointOf(n, [measuredLatency(n), shownScore(n)])) });
  }
  series.push(pickSeries());
  return series;
}

/** The budget's line, and a ring about the pick. */
function pickSeries() {
  const pick = STATE.pick, budget = STATE.budget;
  return {
    id: "pick", type: "scatter", name: "pick", symbol: "circle", symbolSize: 22, z: 8, silent: true,
    itemStyle: { color: "transparent", borderColor: colour("ink"), borderWidth: 2 },
    data: pick && isNumber(shownScore(pick)) ? [[latencyOf(pick), shownScore(pick)]] : [],
    markLine: { silent: true, symbol: "none", animation: false, precision: 12, label: { show: false },
      lineStyle: { color: colour("ink"), width: 1, type: "solid", opacity: 0.55 },
      data: Number.isFinite(budget) ? [{ xAxis: budget }] : [] },
  };
}

const EVERY = new Map([...DATA.networks, ...DATA.proposals, ...DATA.ends].map((network) => [network.id, network]));
const byId = (id) => EVERY.get(id);

const plusMinus = (interval, shown) => (isNumber(interval) ? ` ± ${shown(interval)}` : "");

function frontTip(given) {
  const network = byId(given.data?.id);
  if (network)
    return tip(`${network.name}, ${network.device}`,
      isNumber(network.score_validation) && `${METRIC.label} ${score(network.score_validation)}${scoreUnit} on validation, ${score(network.score_test)}${scoreUnit} on test images`,
      isNumber(network.score_predicted) && `predicted ${score(network.score_predicted)}${scoreUnit}${plusMinus(network.score_interval, (v) => digits(v, 2))}`,
      isNumber(network.latency_measured_ms) && `${ms(network.latency_measured_ms)} ms measured`,
      isNumber(network.latency_predicted_ms) && `${ms(network.latency_predicted_ms)} ms predicted${plusMinus(network.latency_interval_ms, (v) => digits(v, 2))}`,
      `${count(network.params)} parameters, ${count(network.macs)} MACs`);
  if (given.seriesName === "records")
    return tip(DATA.table.archs?.[given.value[2]] ?? "a record", `${score(given.value[1])}${scoreUnit}, ${ms(given.value[0])} ms, both measured`);
  return null;
}

function frontOptions() {
  const zoom = (of) => ({ type: "inside", [of]: 0, filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, preventDefaultMouseMove: false });
  return {
    animation: false,
    grid: { left: 64, right: 24, top: 18, bottom: 50 },
    tooltip: tooltip(frontTip),
    dataZoom: [zoom("xAxisIndex"), zoom("yAxisIndex")],
    xAxis: axis("latency, ms", { nameGap: 32 }),
    yAxis: axis(STATE.judged === "test" ? `${scoreLabel} (test images)` : `${scoreLabel} (validation images)`, { nameGap: 46, nameRotate: 90 }),
    series: frontSeries(),
  };
}

// --- what moves it

let frontChart = null;
const movePick = () => frontChart?.chart.setOption({ series: [pickSeries()] });

/** The range of the slider, ms. */
function range() {
  const all = candidates().map(latencyOf);
  if (!all.length) return [0, 1];
  const low = Math.min(...all), high = Math.max(...all);
  const margin = 0.04 * (high - low || high);
  return [Math.max(0, low - margin), high + margin];
}

function budgetAt(position) {
  const [low, high] = range();
  return low + (position / 1000) * (high - low);
}

function chooseBudget(position) {
  STATE.budget = budgetAt(position);
  STATE.pick = pickFor(STATE.budget);
  at("budget-text").textContent = `${ms(STATE.budget)} ms`;
  at("budget").setAttribute("aria-valuetext", `${ms(STATE.budget)} ms: ${STATE.pick?.name ?? "nothing"}`);
  movePick();
  showPick();
}

/** Picks a network that was pointed at: the budget becomes its latency. */
function choose(id) {
  const network = byId(id);
  if (!network || network.kind === "end") return;
  const other = network.device !== STATE.device, from = isProposed(network) ? "predicted" : "measured";
  if (other || from !== STATE.from) {
    STATE.device = network.device;
    STATE.from = from;
    frontControls();
  }
  const [low, high] = range();
  at("budget").value = Math.ceil((1000 * (latencyOf(network) - low)) / (high - low) / 5) * 5;
  STATE.budget = budgetAt(Number(at("budget").value));
  at("budget-text").textContent = `${ms(STATE.budget)} ms`;
  STATE.pick = network;
  other ? frontChart?.draw() : movePick();
  showPick();
}

function switchOf(name, label, options, chosen, change) {
  return make("div", { class: "switch", role: "radiogroup", "aria-label": label }, options.map(([value, text, enabled]) =>
    make("label", {}, make("input", { type: "radio", name, value, checked: value === chosen, disabled: !enabled,
      onchange: () => change(value) }), text)));
}

function frontControls() {
  const again = () => { frontControls(); frontChart?.draw(); chooseBudget(Number(at("budget").value)); };
  const set = (key) => (value) => { STATE[key] = value; again(); at("front-controls").querySelector(`[value="${CSS.escape(value)}"]`)?.focus(); };
  const has = (list) => list.length > 0;
  if (!has(candidates())) STATE.from = has(networksOn(STATE.device)) || !has(proposalsOn(STATE.device)) ? "measured" : "predicted";
  fill("front-controls",
    DEVICES.length > 1 ? make("label", {}, "Device ", make("select", { id: "device", onchange: (e) => { STATE.device = e.target.value; again(); at("device").focus(); } },
      DEVICES.map((name) => make("option", { value: name, selected: name === STATE.device }, name)))) : null,
    switchOf("from", "Pick from", [["measured", "Delivered, measured", has(networksOn(STATE.device))], ["predicted", "Proposed, predicted", has(proposalsOn(STATE.device))]], STATE.from, set("from")),
    switchOf("judged", "Images", [["validation", "Validation", true], ["test", "Test", has(networksOn(STATE.device))]], STATE.judged, set("judged")),
    make("button", { type: "button", onclick: () => frontChart?.draw() }, "Whole view"));
}

function frontLegend() {
  const hue = () => deviceColour(STATE.device), own = networksOn(STATE.device);
  const box = (key, text, swatch, tone) => make("label", {},
    make("input", { type: "checkbox", checked: STATE.show[key], onchange: (e) => { STATE.show[key] = e.target.checked; frontChart?.draw(); } }),
    make("span", { class: `swatch ${swatch}`, "--of": tone }), text);
  const device = DATA.devices.find((d) => d.name === STATE.device);
  const plainKey = (text, swatch, tone) => make("label", {}, make("span", { class: `swatch ${swatch}`, "--of": tone }), text);
  fill("front-legend",
    own.length ? [plainKey("delivered for a budget, measured", "", hue()),
      own.some((n) => n.kind === "reference") ? plainKey("given archs, measured", "square", "var(--reference)") : null,
      box("predicted", "what was predicted for them, 90%", "ring", hue())] : null,
    DEVICES.filter((name) => name !== STATE.device && networksOn(name).length).map((name) => plainKey(`delivered on ${name}`, "", deviceColour(name))),
    proposalsOn(STATE.device).length ? box("proposed", "proposed by search, predicted, 90%", "ring", "var(--proposed)") : null,
    device?.cloud ? box("cloud", "random networks of the space, predicted", "", "var(--cloud)") : null,
    recordPoints(STATE.device).length ? box("records", "records, both measured", "", "var(--record)") : null);
}

function startFront() {
  const nothing = !DATA.networks.length && !DATA.proposals.length && !DATA.devices.some((d) => d.cloud);
  if (nothing) {
    for (const id of ["front-controls", "front-chart", "front-legend", "slider", "pick"]) at(id).hidden = true;
    at("front-say").textContent = "There is nothing to choose from yet: no network was delivered, and there are too few records to propose one.";
    return;
  }
  at("front-say").textContent = "Move the budget: the best network within it is picked and shown below. Points can be clicked, too; Ctrl and the wheel zoom.";
  frontControls();
  at("budget").addEventListener("input", (event) => chooseBudget(Number(event.target.value)));
  frontChart = chartIn(at("front-chart"), "Accuracy against latency; the table of all networks below has the same numbers", () => {
    frontLegend();
    return frontOptions();
  });
  frontChart.chart.on("click", (given) => choose(given.data?.id));
  const first = frontOf(candidates().filter((n) => n.kind !== "reference")).at(-1) ?? candidates().at(-1);
  if (first) choose(first.id);
  else { at("slider").hidden = true; at("pick").hidden = true; }
}
