"use strict";
// All archs of the records in parallel coordinates. Ranges of axes are brushed with the pointer, or
// typed; both are kept in `RANGES`, by the column's place.

const RANGES = new Map();
const BANDS = 5; // of the score, each with a colour
let parallelChart = null;

const shownColumns = () => DATA.table.columns;
const rowCount = () => DATA.table.columns[0]?.values.length ?? 0;

/** The rows that are within all ranges. */
function selected() {
  const columns = shownColumns(), ranges = [...RANGES], found = [];
  for (let i = 0; i < rowCount(); i++)
    if (ranges.every(([c, [low, high]]) => { const v = columns[c].values[i]; return v !== null && v >= low && v <= high; })) found.push(i);
  return found;
}

/** The band of the first column's value that each row is in: rows of a band are one series. */
function bandsOf() {
  const values = shownColumns()[0].values, sorted = values.filter(isNumber).sort((a, b) => a - b);
  const cuts = Array.from({ length: BANDS - 1 }, (_, i) => sorted[Math.floor(((i + 1) * sorted.length) / BANDS)]);
  return values.map((v) => cuts.filter((cut) => v >= cut).length);
}

function parallelOptions() {
  const columns = shownColumns(), bands = bandsOf(), n = rowCount();
  const rows = Array.from({ length: BANDS }, () => []);
  for (let i = 0; i < n; i++) rows[bands[i]].push(columns.map((c) => c.values[i] ?? "-"));
  const hues = ["#8c96a3", "#6fa3a8", "#55a583", "#2f9163", "#0b6e4f"], night = ["#4a5560", "#3f6e78", "#3f8f7a", "#52b592", "#7fe0b4"];
  const opacity = Math.max(0.06, Math.min(0.7, 60 / n));
  return {
    animation: false,
    parallel: { left: 50, right: 60, top: 52, bottom: 26, axisExpandable: false,
      parallelAxisDefault: { type: "value", scale: true, realtime: n < 3000, nameLocation: "end", nameGap: 16,
        nameTextStyle: { color: colour("ink"), fontSize: 12, lineHeight: 15 },
        axisLabel: { color: colour("soft"), fontSize: 11 }, axisLine: { lineStyle: { color: colour("soft") } }, axisTick: { show: false }, splitLine: { show: false },
        areaSelectStyle: { width: 22, borderColor: colour("accent"), color: colour("accent"), opacity: 0.25 } } },
    parallelAxis: columns.map((c, i) => ({ dim: i, id: `axis${i}`, name: c.label.replace(", ", ",\n") + (c.unit ? `, ${c.unit}` : ""), ...spanOf(c) })),
    series: rows.map((data, band) => ({ type: "parallel", smooth: false, progressive: 1500, progressiveThreshold: 1500, data,
      lineStyle: { width: 1, color: (isDark() ? night : hues)[band], opacity }, inactiveOpacity: n > 2000 ? 0 : 0.03, activeOpacity: Math.min(0.8, opacity * 2.5), silent: true })),
  };
}

/** The ends of an axis: those of its values, which a column of one value has not. */
function spanOf(column) {
  let low = Infinity, high = -Infinity;
  for (const v of column.values) if (isNumber(v)) { if (v < low) low = v; if (v > high) high = v; }
  return low < high ? {} : { min: low - 1, max: low + 1 };
}

function showSelection() {
  const rows = selected(), columns = shownColumns();
  const ranges = [...RANGES].map(([c, [low, high]]) => `${columns[c].label} ${digits(low, 4)} to ${digits(high, 4)}`);
  fill("records-count", make("strong", {}, `${rows.length.toLocaleString("en")} of ${many(rowCount(), "network")}`), ranges.length ? ` within ${ranges.join("; ")}.` : " shown. The best of them:");
  const best = rows.filter((i) => isNumber(columns[0].values[i])).sort((a, b) => columns[0].values[b] - columns[0].values[a]).slice(0, 6);
  const cell = (c, i) => `${digits(c.values[i], 4)}${c.measured?.[i] === "0" ? "*" : ""}`;
  const archs = DATA.table.archs;
  fill("records-best", best.length ? tableOf([...columns.map((c) => c.label), ...(archs ? ["\tarch"] : [])], best.map((i) => [...columns.map((c) => cell(c, i)), ...(archs ? [make("code", {}, archs[i])] : [])])) : null);
}

function setRange(column, range) {
  if (range) RANGES.set(column, range); else RANGES.delete(column);
  requestAnimationFrame(showSelection);
}

/** The axis to type a range of, its two ends, and what clears all. */
function recordControls() {
  const columns = shownColumns();
  const axisOf = make("select", { id: "range-axis", "aria-label": "Axis" }, columns.map((c, i) => make("option", { value: i }, c.label)));
  const [low, high] = ["least", "most"].map((name) => make("input", { type: "number", step: "any", "aria-label": `${name} value`, placeholder: name }));
  const apply = () => {
    const i = Number(axisOf.value), given = [low, high].map((box) => (box.value === "" ? null : Number(box.value)));
    const range = given.every((v) => v === null) ? null : [given[0] ?? -Infinity, given[1] ?? Infinity];
    setRange(i, range);
    const finite = columns[i].values.filter(isNumber), extreme = (of) => finite.reduce((a, b) => of(a, b));
    const clipped = range && [Math.max(range[0], extreme(Math.min)), Math.min(range[1], extreme(Math.max))];
    parallelChart.chart.dispatchAction({ type: "axisAreaSelect", parallelAxisId: `axis${i}`, intervals: clipped ? [clipped] : [] });
    if (range) RANGES.set(i, range);
  };
  axisOf.addEventListener("change", () => { const range = RANGES.get(Number(axisOf.value)) ?? []; [low, high].forEach((box, i) => { box.value = Number.isFinite(range[i]) ? range[i] : ""; }); });
  [low, high].forEach((box) => box.addEventListener("change", apply));
  fill("records-controls", make("label", {}, "Keep", axisOf), make("label", {}, "from", low), make("label", {}, "to", high),
    make("button", { type: "button", onclick: () => { RANGES.clear(); low.value = high.value = ""; parallelChart.draw(); showSelection(); } }, "Clear"));
}

function startRecords() {
  if (!DATA.table || !rowCount()) { at("records").hidden = true; return; }
  const measured = shownColumns().filter((c) => c.measured).map((c) => `${c.label} of ${c.measured.replaceAll("0", "").length.toLocaleString("en")}`);
  const left = DATA.table.total - rowCount();
  at("records-say").textContent = `A line is a network that was measured: ${measured.join(", ")}. Where a value was not measured, it is predicted (*). Greener lines score better. Draw along an axis to keep a range of it, or type one.`
    + (left ? ` Of ${many(DATA.table.total, "network")} ${rowCount().toLocaleString("en")} are shown, evenly, to keep the file small.` : "");
  recordControls();
  parallelChart = chartIn(at("records-chart"), "All records in parallel coordinates", parallelOptions);
  parallelChart.chart.on("axisareaselected", (given) => {
    for (const { parallelAxisId, intervals } of given.batch ?? [given]) {
      const place = Number(String(parallelAxisId ?? "").replace("axis", ""));
      setRange(place, intervals?.length ? [...intervals[0]].sort((a, b) => a - b) : null);
    }
  });
  showSelection();
}

/** The rows that are selected, as a table in a file. */
function recordsCsv() {
  const columns = shownColumns(), archs = DATA.table.archs;
  const headers = [...(archs ? ["arch"] : []), ...columns.flatMap((c) => (c.measured ? [c.label, `${c.label} is measured`] : [c.label]))];
  return csv(headers, selected().map((i) => [...(archs ? [archs[i]] : []), ...columns.flatMap((c) => (c.measured ? [c.values[i], c.measured[i]] : [c.values[i]]))]));
}
