"use strict";
// Fills the page: title, sections, downloads.

function spaceSize() {
  const text = RUN.networks_in_space;
  if (!text) return "";
  return text.length < 10 ? Number(text).toLocaleString("en") 
    : `more than 10${[...String(text.length - 1)].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")}`;
}

function startHead() {
  document.title = `${RUN.name}: onceforall report`;
  at("title").textContent = RUN.name;
  const delivered = DATA.networks.length, images = RUN.data?.name ? ` on ${RUN.data.name}` : "";
  const size = spaceSize();
  at("lead").textContent = `One supernet${RUN.family ? ` (${RUN.family})` : ""}, trained once${images}${size ? `, that holds ${size} networks` : ""}. `
    + (delivered ? `${many(delivered, "network")} taken from it, timed and scored on ${DEVICES.join(", ")}.` : "No network has been taken from it yet.");
  at("notes").hidden = !DATA.notes.length;
  fill("notes", DATA.notes.map((note) => make("li", {}, note)));
  const sections = [...document.querySelectorAll("main section")].filter((s) => !s.hidden);
  const short = { front: "Budget", pick: "The pick", networks: "Networks", trust: "Trust", training: "Training", records: "Records" };
  fill("contents", sections.map((s) => make("a", { href: `#${s.id}` }, short[s.id])));
}

function networksCsv() {
  const keys = ["name", "kind", "device", "precision", "arch", "params", "macs", "peak_activation_bytes", "score_predicted", "score_interval", "score_validation", "score_test", "latency_predicted_ms", "latency_interval_ms", "latency_measured_ms", "disturbed", "extrapolates", "file", "command"];
  return csv(keys, [...DATA.networks, ...DATA.proposals].map((n) => keys.map((key) => n[key])));
}

function startFoot() {
  const classes = RUN.data?.classes;
  if (Array.isArray(classes) && classes.length)
    at("classes").textContent = `Classes: ${classes.slice(0, 100).join(", ")}${classes.length > 100 ? ` and ${classes.length - 100} more` : ""}.`;
  const button = (text, act) => make("button", { type: "button", onclick: act }, text);
  fill("downloads", DATA.networks.length || DATA.proposals.length ? button("Networks as CSV", () => download(fileName("networks.csv"), "text/csv", networksCsv())) : null,
    DATA.table && rowCount() ? button("Selected records as CSV", () => download(fileName("records.csv"), "text/csv", recordsCsv())) : null,
    button("Everything as JSON", () => download(fileName("report.json"), "application/json", JSON.stringify(DATA, null, 1))));
  at("colophon").textContent = `Made by onceforall ${DATA.onceforall} from the files in ${RUN.folder}${RUN.supernet ? `, supernet ${RUN.supernet}` : ""}.`;
}

showNetworks();
startFront();
startTrust();
startTraining();
startRecords();
startHead();
startFoot();
for (const media of [dark, printing]) media.addEventListener("change", showPick);
