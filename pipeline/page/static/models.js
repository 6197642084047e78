// Model versions: train one, see it beside the champion with the gate's verdict, promote or roll back with a reason.
import { get, post } from "./api.js";
import { attempt, store } from "./app.js";
import { duration, h, modeWord, number, panel, table, toast } from "./dom.js";
import { who } from "./label.js";
import { T } from "./text.js";

const M = T.models;
const FEWER_IS_BETTER = ["ece", "false_alarms"];
const share = (value) => (typeof value === "number" ? value.toFixed(3) : "–");
const NO_MERIT = ["windows", "labels", "healthy_machine_days"];

// The trained process: a button, what it says, and its log.
function trainingPart(main, trained) {
  const settings = h("input", { type: "text", name: "settings", placeholder: "members=3 epochs=0", size: 32 });
  const split = h("input", { type: "text", name: "split", placeholder: M.splitHint, size: 16 });
  const start = h("button", { class: "primary change", onclick: begin }, M.train);
  const stop = h("button", { class: "change", onclick: () => attempt(() => post("training/cancel", who())) }, M.cancel);
  const waiting = h("b", { hidden: true });
  const said = h("p", { role: "status" });
  const bar = h("progress", { "aria-label": M.training, hidden: true });
  const log = h("pre", { class: "log", tabIndex: 0, "aria-label": M.log });
  const logBox = h("details", { hidden: true }, h("summary", {}, M.log), log);
  const hint = h("span", { class: "soft" });
  main.append(panel(M.training, null, [], h("div", { class: "tools" }, waiting, start, stop, hint), bar, said,
    h("details", { class: "change" }, h("summary", {}, M.advanced), h("div", { class: "tools" }, h("label", {}, `${M.settings} `, settings), h("label", {}, `${M.split} `, split))), logBox));
  let last = "";

  async function begin() {
    start.disabled = true;
    if (await attempt(() => post("training", { settings: settings.value.trim(), split: split.value.trim() || null, ...who() }))) load();
    else start.disabled = false;
  }
  let asked = 0;
  async function load() {
    asked += 1;
    const mine = asked;
    const [labels, found] = [await attempt(() => get("labels")), await attempt(() => get("training"))];
    if (!found || !labels || mine !== asked) return; // an answer that a newer question has overtaken
    const running = found.state === "running";
    start.disabled = running;
    stop.hidden = bar.hidden = !running;
    waiting.textContent = labels.not_in_model.length ? T.labels.waiting(labels.not_in_model.length) : "";
    waiting.hidden = !labels.not_in_model.length;
    hint.textContent = M.memory(found.memory_mib);
    const lines = running ? [found.status || M.states.running, M.running(found.by, duration((Date.now() - found.began) / 1000))]
      : found.state === "done" ? [M.done(found.version)] : [M.states[found.state], found.failed, found.hint];
    said.textContent = lines.filter(Boolean).join(" · ");
    said.className = found.state === "failed" ? "error" : "";
    logBox.hidden = !found.log.length;
    log.textContent = found.log.join("\n");
    if (last === "running" && !running) { trained(); if (found.version) toast(M.done(found.version)); }
    last = found.state;
  }
  load();
  return load;
}

function difference(name, one, two) {
  if (typeof one !== "number" || typeof two !== "number" || NO_MERIT.includes(name)) return "";
  const by = two - one;
  if (Math.abs(by) < 5e-4) return "=";
  const good = FEWER_IS_BETTER.includes(name) ? by < 0 : by > 0;
  return h("span", { class: good ? "" : "bad" }, `${by > 0 ? "+" : "−"}${number(Math.abs(by))} ${good ? M.better : M.worse}`);
}

function sideBySide(one, two) {
  const of = (v, name) => (v.events && name in v.events ? v.events[name] : v[name]);
  const shown = (name, v) => (["accuracy", "macro_f1", "ece", "recordings"].includes(name) ? share(of(v, name)) : number(of(v, name), name === "healthy_machine_days" ? 3 : 7));
  const rows = Object.entries(M.numbers).map(([name, text]) => [text, shown(name, one), shown(name, two), difference(name, of(one, name), of(two, name))]);
  const modes = [...new Set([...Object.keys(one.per_class || {}), ...Object.keys(two.per_class || {})])];
  for (const mode of modes) {
    const [a, b] = [one, two].map((v) => (v.per_class && v.per_class[mode] ? v.per_class[mode].recall : null));
    rows.push([M.recall(modeWord(mode)), share(a), share(b), difference("recall", a, b)]);
  }
  return table([M.measure, one.version, two.version, M.change], rows, [1, 2]);
}

function gateWords(v) {
  if (v.problem) return h("p", { class: "error" }, v.problem);
  if (v.aliases.includes("champion")) return h("p", {}, M.isChampion(v.version));
  if (!v.gate) return h("p", {}, M.noGate);
  const remarks = v.gate.remarks.map((text) => h("li", { class: "soft" }, text));
  if (v.gate.passes) return h("div", {}, h("p", {}, h("b", {}, `✓ ${M.passes(v.version)}`)), h("ul", {}, remarks));
  return h("div", {}, h("p", {}, h("b", { class: "bad" }, `✗ ${M.refuses(v.version)}`)), h("ul", {}, v.gate.problems.map((text) => h("li", {}, text)), remarks));
}

function versionPart(v) {
  if (!v.per_class) return null;
  const rows = Object.entries(v.per_class).map(([mode, n]) => [modeWord(mode), share(n.precision), share(n.recall), share(n.f1), number(n.support, 6)]);
  const matrix = v.confusion && v.confusion.labels ? [h("h3", {}, M.confusion), h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": `${v.version} ${M.confusion}` }, h("table", { class: "confusion" },
    h("thead", {}, h("tr", {}, h("td", {}), v.confusion.labels.map((c) => h("th", { scope: "col" }, modeWord(c))))),
    h("tbody", {}, v.confusion.matrix.map((line, i) => h("tr", {}, h("th", { scope: "row" }, modeWord(v.confusion.labels[i])), line.map((n) => h("td", { class: "number" }, String(n)))))))) ] : [];
  const pictures = (v.pictures || []).map((name) => {
    const text = M.pictures[name.replace(".png", "")] || name;
    return h("figure", {}, h("img", { src: `/api/v1/models/${v.version}/pictures/${name}`, alt: `${text} ${v.version}`, loading: "lazy" }), h("figcaption", {}, text));
  });
  return h("details", {}, h("summary", {}, `${v.version}: ${M.classes}`), table(M.perClass, rows, [1, 2, 3, 4]), ...matrix, pictures.length ? h("div", { class: "pictures" }, pictures) : null);
}

export function modelsView(main) {
  const training = trainingPart(main, load);
  const first = h("select", { "aria-label": M.first, onchange: compare });
  const second = h("select", { "aria-label": M.second, onchange: compare });
  const sides = h("div", {});
  const gate = h("div", {});
  const why = h("input", { type: "text", name: "why", maxLength: 400, size: 40, placeholder: M.whyHint });
  const force = h("input", { type: "checkbox", name: "force" });
  const forceBox = h("label", {}, force, ` ${M.force}`);
  const promote = h("button", { class: "primary", onclick: () => decide(`models/${encodeURIComponent(second.value)}/promote`, { force: force.checked }) });
  const back = h("button", { onclick: () => decide("models/rollback", {}) });
  const versions = h("div", {});
  const decision = h("div", { class: "decide change" }, h("label", {}, `${M.why} `, why), forceBox, h("div", { class: "tools" }, promote, back));
  const both = panel(M.compare, null, [first, second], h("div", { class: "two" }, sides, h("div", {}, h("h3", {}, M.gate), gate, decision)));
  both.hidden = true; // until there are two versions
  main.append(both, panel(M.versions, null, [], versions));
  let found = null;
  let said = "";

  async function decide(path, more) {
    if (!why.value.trim()) { toast(M.needReason); why.focus(); return; }
    const done = await attempt(() => post(path, { why: why.value.trim(), ...more, ...who() }));
    if (!done) return;
    why.value = "";
    force.checked = false;
    toast([M.promoted(done.champion), ...done.remarks].join(" "));
    load();
  }

  function compare() {
    const [one, two] = [first.value, second.value].map((name) => found.versions.find((v) => v.version === name));
    if (!one || !two) return;
    sides.replaceChildren(sideBySide(one, two));
    gate.replaceChildren(gateWords(two));
    const champion = two.aliases.includes("champion");
    promote.hidden = champion;
    promote.textContent = M.promote(two.version);
    forceBox.hidden = champion || !two.gate || two.gate.passes;
    if (forceBox.hidden) force.checked = false;
    back.hidden = !found.rollback_to;
    back.textContent = M.rollback(found.rollback_to);
    decision.hidden = promote.hidden && back.hidden;
  }

  let asked = 0;
  async function load() {
    asked += 1;
    const mine = asked;
    const now = await attempt(() => get("models"));
    const text = JSON.stringify(now);
    if (!now || mine !== asked || text === said || store.paused) return;
    said = text;
    const before = found;
    found = now;
    if (!found.versions.length) { versions.replaceChildren(h("p", { class: "soft" }, M.none)); return; }
    const names = found.versions.map((v) => v.version);
    both.hidden = names.length < 2;
    const usual = [found.aliases.champion || names[0], found.aliases.challenger || names[0]];
    const fresh = !before || before.versions.length !== names.length || JSON.stringify(before.aliases) !== JSON.stringify(found.aliases);
    for (const [i, select] of [first, second].entries()) {
      const chosen = fresh || !names.includes(select.value) ? usual[i] : select.value;
      select.replaceChildren(...found.versions.map((v) => h("option", { value: v.version }, [v.version, ...v.aliases].join(" · "))));
      select.value = names.includes(chosen) ? chosen : names[0];
    }
    compare();
    const rows = found.versions.map((v) => [h("b", {}, v.version), [...v.aliases, ...(v.serves ? [M.serves] : [])].join(", "),
      v.problem ? `${M.problem}: ${v.problem}` : number(v.windows, 7), number(v.labels, 6), share(v.accuracy), share(v.macro_f1), share(v.ece), v.split || "–"]);
    const moves = found.history.map((m) => [m.at.replace("T", " ").replace("+00:00", ""), m.alias, `${m.from || "–"} → ${m.to}`, m.by, m.why]);
    versions.replaceChildren(table(M.head, rows, [2, 3, 4, 5, 6]), ...found.versions.map(versionPart).filter(Boolean), h("h3", {}, M.history), table(M.moves, moves));
  }
  load();
  const timer = setInterval(load, 10000);
  return { changed: () => { load(); training(); }, training, close: () => clearInterval(timer) };
}
