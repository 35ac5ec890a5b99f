"use strict";
// The pick: its numbers, its picture beside its neighbours, its command, card and layers.

/** The networks to compare the pick with: [what it is to the pick, network]. */
function compared(pick) {
  const own = isProposed(pick) ? proposalsOn(pick.device) : networksOn(pick.device);
  const sorted = [...own].sort((a, b) => latencyOf(a) - latencyOf(b));
  const front = frontOf(own.filter((n) => n !== pick));
  const below = front.filter((n) => latencyOf(n) < latencyOf(pick)).at(-1);
  const above = front.find((n) => latencyOf(n) > latencyOf(pick)) ?? sorted.find((n) => latencyOf(n) > latencyOf(pick));
  const largest = DATA.ends.find((n) => n.device === pick.device) ?? DATA.ends[0];
  const measured = DATA.networks.find((n) => n.device === pick.device && n.arch === largest?.arch);
  const rows = [["the next faster", below], ["the pick", pick], ["the next slower", above], ["the largest there is", measured ?? largest]];
  const seen = new Set();
  return rows.filter(([, n]) => n && !seen.has(n.arch) && seen.add(n.arch))
    .map(([role, n]) => [role === "the next slower" && n.arch === largest?.arch ? "the largest there is" : role, n]);
}

const KERNELS = [...new Set([...EVERY.values()].flatMap((n) => (n.stages ?? []).flat().map((b) => b.kernel)))].sort((a, b) => a - b);
const EXPANDS = [...EVERY.values()].flatMap((n) => (n.stages ?? []).flat().map((b) => b.expand));
const SIZES = [...EVERY.values()].map((n) => n.genes.resolution).filter(isNumber);
const [LEAST_EXPAND, MOST_EXPAND] = [Math.min(...EXPANDS), Math.max(...EXPANDS)];

/** Which of four shades, light to dark, a kernel size has. */
const kernelShade = (kernel) => (KERNELS.length > 1 ? Math.round((3 * KERNELS.indexOf(kernel)) / (KERNELS.length - 1)) : 2);

function blockOf(block) {
  const shade = kernelShade(block.kernel);
  const tall = MOST_EXPAND > LEAST_EXPAND ? (block.expand - LEAST_EXPAND) / (MOST_EXPAND - LEAST_EXPAND) : 0.6;
  const light = isDark() ? shade >= 2 : shade < 2;
  return make("span", { class: "block", "--of": `var(--k${shade})`, "--tall": tall, "--on": light ? "#10231c" : "#f4faf6",
    title: `kernel ${block.kernel}, expand ${block.expand}` }, String(block.kernel), make("small", {}, `×${block.expand}`));
}

function stripOf(role, network, isPick) {
  const size = network.genes.resolution, most = RUN.largest_stages ?? network.stages.map((stage) => stage.length);
  const facts = [isNumber(latencyOf(network)) && `${ms(latencyOf(network))} ms`, isNumber(scoreOf(network)) && `${score(scoreOf(network))}${scoreUnit}`, `${count(network.params)} parameters`];
  const spoken = network.stages.map((stage, i) => `stage ${i + 1}: ${stage.map((b) => `kernel ${b.kernel} expand ${b.expand}`).join(", ")}`).join("; ");
  return make("div", { class: `strip${isPick ? " own" : ""}` },
    make("div", { class: "who" }, network.name, make("small", {}, role), make("small", {}, facts.filter(Boolean).join(" · "))),
    make("div", { class: "stages", role: "img", "aria-label": `${size} pixels; ${spoken}` },
      make("div", { class: "stage" }, make("span", { class: "frame" }, make("span", { class: "image", "--size": isNumber(size) ? size / Math.max(...SIZES) : 1 }, String(size ?? ""))), make("small", {}, "pixels")),
      network.stages.map((stage, s) => make("div", { class: "stage" },
        make("div", { class: "blocks" }, stage.map(blockOf), Array.from({ length: Math.max(0, (most[s] ?? 0) - stage.length) }, () => make("span", { class: "block absent" }))),
        make("small", {}, `${stage[0].width} wide`)))));
}

/** Blocks in stages; where the family has none, the genes side by side. */
function pictureOf(pick) {
  const rows = compared(pick);
  if (rows.every(([, n]) => n.stages))
    return [rows.map(([role, n]) => stripOf(role, n, n === pick)),
      make("div", { class: "key" }, KERNELS.map((k) => make("span", {}, make("span", { class: "swatch square", "--of": `var(--k${kernelShade(k)})` }), `kernel ${k}`)),
        make("span", {}, LEAST_EXPAND < MOST_EXPAND ? `height: expand ratio, ${LEAST_EXPAND} to ${MOST_EXPAND}` : `expand ratio ${MOST_EXPAND}`), make("span", {}, "dashed: a block that the largest has"))];
  const names = [...new Set(rows.flatMap(([, n]) => Object.keys(n.genes)))];
  const values = names.map((name) => [name.replaceAll(".", " "), ...rows.map(([, n]) => (name in n.genes ? String(n.genes[name]) : "–"))]);
  return [make("div", { class: "wide" }, tableOf(["choice", ...rows.map(([role, n]) => `${n.name} (${role})`)], values,
    (i) => ({ class: new Set(values[i].slice(1)).size > 1 ? "differs" : null })))];
}

function figure(name, value, unit, beside) {
  return make("div", {}, make("dt", {}, name), make("dd", { class: "value" }, value, make("small", {}, unit)), beside ? make("dd", { class: "beside" }, beside) : null);
}

function figuresOf(n) {
  const predicted = (value, interval, shown, unit) => (isNumber(value) ? `predicted ${shown(value)}${plusMinus(interval, (v) => digits(v, 2))}${unit}` : null);
  const proposed = isProposed(n);
  return [
    figure(proposed ? `${METRIC.label}, predicted` : `${METRIC.label}, validation`, score(scoreOf(n)), scoreUnit, proposed ? isNumber(n.score_interval) ? `± ${digits(n.score_interval, 2)} ${points} (90%)` : null : predicted(n.score_predicted, n.score_interval, score, scoreUnit)),
    isNumber(n.score_test) ? figure(`${METRIC.label}, test`, score(n.score_test), scoreUnit, n.card?.test_images ? `${n.card.test_images.toLocaleString("en")} images` : null) : null,
    figure(proposed ? "latency, predicted" : "latency, measured", ms(latencyOf(n)), " ms", proposed ? isNumber(n.latency_interval_ms) ? `± ${digits(n.latency_interval_ms, 2)} ms (90%)` : null : predicted(n.latency_predicted_ms, n.latency_interval_ms, ms, " ms")),
    figure("parameters", count(n.params), "", isNumber(n.file_bytes) ? `${bytes(n.file_bytes)} on disk` : null),
    figure("multiply-adds", count(n.macs), "", null),
    isNumber(n.peak_activation_bytes) ? figure("activations, peak", bytes(n.peak_activation_bytes), "", null) : null,
  ];
}

const badge = (kind, text) => make("span", { class: `badge ${kind}` }, text);

function badgesOf(n) {
  const words = { delivered: "delivered", reference: "a reference", proposed: "proposed, not yet measured" };
  return [badge(n.kind, words[n.kind] ?? n.kind), n.precision && n.precision !== "fp32" ? badge("", n.precision) : null,
    n.disturbed ? badge("warn", "the machine was busy while it was timed") : null,
    n.extrapolates ? badge("warn", "its prediction is extrapolated") : null];
}

function commandOf(text) {
  const shown = make("pre", {}, text);
  const button = make("button", { type: "button", onclick: async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(shown); button.textContent = "Selected"; }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } }, "Copy");
  return [shown, button];
}

function layersOf(n) {
  if (!n.layers.length) return make("p", { class: "say" }, "The family of this network is not known here, so its layers are not counted.");
  const most = (key) => Math.max(...n.layers.map((layer) => layer[key]));
  const total = (key) => n.layers.reduce((sum, layer) => sum + layer[key], 0);
  const share = (layer, key) => (total(key) ? `${((100 * layer[key]) / total(key)).toFixed(1)}%` : "–");
  const hue = deviceColour(n.device);
  return tableOf(["layer", "output", "MACs", "share", "\t", "parameters", "share", "\t"], n.layers.map((layer) => [layer.name, layer.output ?? "", count(layer.macs), share(layer, "macs"), barCell(layer.macs, most("macs"), hue), count(layer.params), share(layer, "params"), barCell(layer.params, most("params"), "var(--reference)")]));
}

/** What each operation takes on the device, the slowest first; nothing where it was not timed. */
function profileOf(n) {
  if (!n.profile?.layers.length) return [];
  const layers = [...n.profile.layers].sort((a, b) => b.ms - a.ms).slice(0, 15), total = n.profile.layers.reduce((sum, layer) => sum + layer.ms, 0);
  return [make("h3", {}, `Where the time goes on ${n.profile.device}`),
    tableOf(["operation", "\tkind", "ms", "share", "\t"], layers.map((layer) => [layer.name, layer.kind, ms(layer.ms), `${((100 * layer.ms) / total).toFixed(1)}%`, barCell(layer.ms, layers[0].ms, "var(--proposed)")])),
    make("p", { class: "say" }, `${ms(total)} ms in ${many(n.profile.layers.length, "operation")}, which take longer one by one than in a run that is not watched` + (layers.length < n.profile.layers.length ? `; the ${layers.length} slowest are shown.` : "."))];
}

const asText = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

function cardOf(n) {
  const rows = Object.entries(n.card).map(([key, value]) => make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, asText(value))));
  return [make("table", { class: "plain" }, make("tbody", {}, rows)),
    make("p", {}, make("button", { type: "button", onclick: () => download(fileName(`${n.name}-card.json`), "application/json", JSON.stringify(n.card, null, 1)) }, "Card as JSON"))];
}

function showPick() {
  const n = STATE.pick;
  if (!n) return;
  const slower = latencyOf(n) > STATE.budget;
  fill("pick-title", n.name === "smallest" || n.name === "largest" || isProposed(n) ? `The pick: ${n.name}` : `The pick for ${n.name}`);
  fill("budget-pick", "buys ", make("strong", {}, n.name), `: ${score(scoreOf(n))}${scoreUnit}${isProposed(n) ? " predicted" : ""}, ${ms(latencyOf(n))} ms, ${count(n.params)} parameters, ${count(n.macs)} MACs`);
  fill("pick-say", badgesOf(n), make("code", {}, n.arch), ` on ${n.device}.`, slower ? " Nothing is within the budget; this is the fastest." : "");
  fill("figures", figuresOf(n));
  fill("picture", pictureOf(n));
  fill("command", commandOf(n.command));
  at("card").hidden = !n.card;
  if (n.card) fill("card-body", cardOf(n));
  fill("layers", layersOf(n), profileOf(n));
  for (const row of document.querySelectorAll("#networks tbody tr")) row.classList.toggle("own", row.dataset.id === n.id);
}

/** Predicted beside measured, a row a network, with a button that picks it. */
function networkTable(all) {
  const several = DEVICES.length > 1;
  const headers = ["\tnetwork", several ? "\tdevice" : null, "parameters", "MACs", `${METRIC.label} predicted`, "validation", "test", "ms predicted", "measured", "\t"].filter((h) => h !== null);
  const rows = all.map((n) => [n.name, several ? n.device : null, count(n.params), count(n.macs),
    `${score(n.score_predicted)}${plusMinus(n.score_interval, (v) => digits(v, 2))}`, score(n.score_validation), score(n.score_test),
    `${ms(n.latency_predicted_ms)}${plusMinus(n.latency_interval_ms, (v) => digits(v, 2))}`, ms(n.latency_measured_ms),
    make("button", { type: "button", "aria-label": `Pick ${n.name}`, onclick: () => choose(n.id) }, "pick")].filter((c) => c !== null));
  return tableOf(headers, rows, (i) => ({ "data-id": all[i].id }));
}

function showNetworks() {
  const delivered = DATA.networks, proposals = DATA.proposals;
  at("networks").hidden = !delivered.length && !proposals.length;
  at("proposals").hidden = !proposals.length;
  at("proposals").open = !delivered.length;
  fill("networks-table", delivered.length ? networkTable(delivered) : null);
  fill("proposals-title", `${many(proposals.length, "network")} that search proposes, not measured yet`);
  fill("proposals-table", networkTable(proposals));
}
