"use strict";
// What the other scripts stand on: the data, elements made of text, numbers as people write them,
// and charts that follow the theme and the window. Nothing of a run becomes markup here: strings
// only ever go into `textContent`.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUN = DATA.run;
const METRIC = RUN.metric;

const at = (id) => document.getElementById(id);

/** An element; children are elements or texts. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) if (child != null && child !== false) made.append(child);
  return made;
}

const fill = (id, ...children) => at(id).replaceChildren(...children.flat(Infinity).filter((c) => c != null));
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A number with so many significant digits; a dash where there is none. */
function digits(value, n = 3) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size >= 10 ** n) return Math.round(value).toLocaleString("en");
  if (size && size < 1e-5) return value.toExponential(n - 1);
  return Number(value.toPrecision(n)).toLocaleString("en", { maximumSignificantDigits: n });
}
const padded = (value, n) => (isNumber(value) ? Number(value.toPrecision(n)).toFixed(Math.max(0, n - 1 - Math.floor(Math.log10(Math.abs(value) || 1)))) : "–");
const ms = (value) => padded(value, 3);
const score = (value) => (isNumber(value) ? (METRIC.unit === "%" ? value.toFixed(2) : digits(value, 4)) : "–");
const scoreUnit = METRIC.unit === "%" ? "%" : METRIC.unit ? ` ${METRIC.unit}` : "";
const scoreLabel = METRIC.unit ? `${METRIC.label}, ${METRIC.unit}` : METRIC.label;
const points = METRIC.unit === "%" ? "points" : METRIC.unit || `of ${METRIC.label}`;
function count(value) {
  if (!isNumber(value)) return "–";
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (value >= size) return `${padded(value / size, 3)}${unit}`;
  return String(value);
}
function bytes(value) {
  if (!isNumber(value)) return "–";
  for (const [size, unit] of [[2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (value >= size) return `${padded(value / size, 3)} ${unit}`;
  return `${value} B`;
}
/** A count and its noun. */
const many = (n, noun, plural = `${noun}s`) => `${n.toLocaleString("en")} ${n === 1 ? noun : plural}`;
const median = (values) => {
  const sorted = values.filter(isNumber).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : NaN;
};

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const DEVICES = DATA.devices.map((device) => device.name);
const HUES = { light: ["#0b6e4f", "#2b5fa8", "#a3420f", "#6a3d9a", "#00798c", "#8c6d00"],
  dark: ["#58c79b", "#7fb0f0", "#f0905a", "#c5a3ea", "#58c9da", "#dcc050"] };
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const printing = window.matchMedia("print");
const isDark = () => dark.matches && !printing.matches;
const deviceColour = (name) => {
  const hues = HUES[isDark() ? "dark" : "light"];
  return hues[Math.max(0, DEVICES.indexOf(name)) % hues.length];
};

// --- charts

const CHARTS = [];

/** A chart in an element, drawn again by `options()` when the theme changes; `draw` redraws it. */
function chartIn(element, label, options) {
  element.setAttribute("aria-label", label);
  const chart = echarts.init(element, null, { renderer: "canvas" });
  const kept = { chart, draw: () => chart.setOption({ textStyle: { fontFamily: getComputedStyle(document.body).fontFamily }, ...options() }, { notMerge: true }) };
  CHARTS.push(kept);
  kept.draw();
  return kept;
}

function axis(name, more = {}) {
  return {
    type: "value", name, nameLocation: "middle", nameGap: 30, scale: true,
    nameTextStyle: { color: colour("soft") },
    axisLabel: { color: colour("soft"), hideOverlap: true },
    axisLine: { show: true, lineStyle: { color: colour("line") } },
    axisTick: { show: false },
    splitLine: { lineStyle: { color: colour("line"), opacity: 0.6 } },
    ...more,
  };
}

/** A tooltip whose content is an element made of texts. */
const tooltip = (content, more = {}) => ({
  trigger: "item", confine: true, padding: [8, 12],
  backgroundColor: colour("raised"), borderColor: colour("line"),
  textStyle: { color: colour("ink"), fontFamily: "inherit" },
  formatter: (given) => content(given) ?? make("span"),
  ...more,
});

const tip = (title, ...lines) => make("div", { class: "tip" }, make("b", {}, title), lines.filter(Boolean).map((line) => make("div", {}, line)));

const redraw = () => CHARTS.forEach(({ draw }) => draw());
const fit = () => CHARTS.forEach(({ chart }) => chart.resize());
dark.addEventListener("change", redraw);
printing.addEventListener("change", () => { fit(); redraw(); });
window.addEventListener("resize", fit);

// --- tables and files

/** A table of texts and elements. Headers that start with a tab are of columns of text. */
function tableOf(headers, rows, attributes = () => ({})) {
  const cell = (tag, content, i) =>
    make(tag, { class: headers[i].startsWith("\t") ? "text" : null, scope: tag === "th" ? "col" : null },
      tag === "th" ? content.replace("\t", "") : content);
  return make("table", {},
    make("thead", {}, make("tr", {}, headers.map((header, i) => cell("th", header, i)))),
    make("tbody", {}, rows.map((row, n) =>
      make("tr", attributes(n), row.map((content, i) =>
        content instanceof HTMLTableCellElement ? content : cell("td", content, i))))));
}

function barCell(value, most, hue) {
  return make("td", { class: "bars" }, value > 0 && make("span", { class: "bar", "--share": most ? value / most : 0, "--of": hue }));
}

const quoted = (value) => {
  const text = value == null ? "" : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csv = (headers, rows) => [headers, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
const fileName = (rest) => `${RUN.name.replace(/[^\w.-]+/g, "-") || "run"}-${rest}`;
