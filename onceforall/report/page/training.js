"use strict";
// The training's log: loss, the score of whole networks, images a second.

const GROUPS = { largest: "accent", smallest: "reference" };

function startTraining() {
  const found = DATA.training;
  if (!found || !found.columns.step.length) {
    at("training-say").textContent = "The folder has no log of a training.";
    at("training-body").hidden = true;
  } else {
    drawTraining(found);
  }
  const settings = Object.entries(RUN.settings).filter(([, value]) => value !== null && value !== false && value !== 0);
  at("recipe").hidden = !settings.length && !RUN.phases.length;
  const phases = RUN.phases.filter((phase) => phase && typeof phase === "object");
  fill("recipe-body",
    phases.length ? tableOf(["phase", "steps", "learning rate", "networks a step", "kernels", "depths", "expands", "\trule"], phases.map((p) => [p.name, p.steps ?? (p.epochs ? `${p.epochs} epochs` : "–"), p.lr, p.archs, p.kernel, p.depth, p.expand, p.rule].map((v) => asText(v ?? "–")))) : null,
    settings.length ? make("table", { class: "plain" }, make("tbody", {}, settings.map(([key, value]) => make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, asText(value)))))) : null);
}

function drawTraining(found) {
  const { columns, ends, phases } = found, steps = columns.step, last = steps.at(-1);
  const speed = median(columns.images_per_second);
  at("training-say").textContent = [`${many(last, "step")} in ${many(Math.max(1, phases.length), "phase")}`, isNumber(found.seconds) && `${digits(found.seconds, 3)} s`, isNumber(speed) && `${digits(speed, 3)} images a second (median)`].filter(Boolean).join(", ") + (RUN.finished ? "." : ", and not finished yet.");
  const missing = columns.loss.filter((v) => v === null).length;
  if (missing) at("training-say").append(` ${many(missing, "reading")} of the loss ${missing === 1 ? "is" : "are"} no number, and left out.`);
  const series = (values, hue, more = {}) => ({ type: "line", showSymbol: false, connectNulls: false, lineStyle: { color: hue, width: 1.8 }, itemStyle: { color: hue }, data: steps.map((step, i) => [step, values[i]]), ...more });
  const marks = () => ({ markLine: { silent: true, symbol: "none", animation: false, lineStyle: { color: colour("line"), type: "solid", width: 1 }, label: { show: false }, data: phases.slice(1).map((phase) => ({ xAxis: phase.from })) } });
  const options = (name, list, more = {}) => ({
    animation: false, grid: { left: 56, right: 16, top: 12, bottom: 46 },
    tooltip: tooltip((given) => {
      const rows = [given].flat().filter((p) => p.value && isNumber(p.value[1]));
      const step = rows[0]?.value[0], phase = phases.filter((p) => p.from < step).at(-1);
      return rows.length ? tip(`step ${step}${phase ? `, ${phase.name}` : ""}`, ...rows.map((p) => `${p.seriesName} ${digits(p.value[1], 4)}`)) : null;
    }, { trigger: "axis" }),
    xAxis: axis("step", { scale: false, min: 0, max: last }), yAxis: axis(name, { nameGap: 42, ...more }), series: list,
  });
  const body = at("training-body"), label = `${METRIC.label}`;
  figureIn(body, "Loss", "running mean of each step's last network; lines part the phases", "training loss by step", () => options("loss", [series(columns.loss, colour("record"), { name: "loss", ...marks() })]));
  // Of the score the end matters: the steep start below nine tenths of the readings is cut off.
  const readings = [...ends.map((e) => e.value), ...columns[`train_${METRIC.name}`]].filter(isNumber).sort((a, b) => a - b);
  const leastShown = readings.length ? Math.floor(Math.min(readings[Math.floor(readings.length / 10)], ...ends.map((e) => e.value ?? Infinity))) : null;
  const names = [...new Set(ends.map((e) => e.of))];
  figureIn(body, "Score", `validation of ${names.map((n) => `the ${n}`).join(" and ") || "no network yet"}; faint: training images`, `${label} by step`, () => options(scoreLabel, [
    series(columns[`train_${METRIC.name}`], colour("cloud"), { name: "training images", lineStyle: { color: colour("cloud"), width: 1.3 }, ...marks() }),
    ...names.map((name) => ({ type: "line", name, symbol: "circle", symbolSize: 8, lineStyle: { color: colour(GROUPS[name] ?? "proposed"), width: 1.8 }, itemStyle: { color: colour(GROUPS[name] ?? "proposed") },
      endLabel: { show: true, formatter: "{a}", color: colour("soft"), align: "right", offset: [-12, name === "largest" ? -12 : 12] },
      data: ends.filter((e) => e.of === name).map((e) => [e.step, e.value]) })),
  ], { min: leastShown }));
  figureIn(body, "Speed", "images a second", "images a second by step", () => options("images/s", [series(columns.images_per_second, colour("proposed"), { name: "images a second", ...marks() })]));
}
