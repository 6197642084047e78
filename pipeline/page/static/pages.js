// The tables: alarms, labels, models, data quality, settings.
import { get } from "./api.js";
import { acknowledge, attempt, store } from "./app.js";
import { duration, h, linkOf, modeWord, number, panel, percent, stateWord, table, when } from "./dom.js";
import { labelDialog, retract } from "./label.js";
import { T } from "./text.js";

function evidenceOf(alarm) {
  const text = alarm.evidence.length ? alarm.evidence.join("; ") : T.alarms.noEvidence;
  return h("div", { class: "evidence" }, text, alarm.confirmed === false ? h("b", {}, ` (${T.alarms.unconfirmed})`) : null);
}

function statusOf(alarm) {
  if (alarm.cleared) return (alarm.ended === "revoked" ? T.alarms.revoked : T.alarms.cleared)(when(alarm.cleared / 1e6));
  return alarm.acknowledged ? T.alarms.acknowledged(when(alarm.acknowledged / 1e6)) : T.alarms.unacknowledged;
}

export function alarmTable(alarms, saved = () => {}) {
  if (!alarms.length) return h("p", { class: "soft" }, T.alarms.none);
  const { raised, machine, state, mode, p, evidence, status } = T.alarms;
  return table([raised, machine, state, mode, p, evidence, status, ""], alarms.map((a) => [
    when(a.raised), h("a", { href: linkOf(a) }, `${a.machine}/${a.point}`), stateWord(a.cleared ? "normal" : "alarm"), modeWord(a.shown), number(a.p, 2),
    evidenceOf(a), statusOf(a),
    h("div", { class: "tools" },
      a.cleared || a.acknowledged ? null : h("button", { onclick: () => acknowledge(a.id) }, T.alarms.ack),
      h("button", { class: "primary", onclick: () => labelDialog({ machine: a.machine, point: a.point, from: a.since, to: a.cleared ? a.cleared / 1e6 : Date.now(), mode: a.mode }, saved) }, T.alarms.label)),
  ]), [4]);
}

// A view that asks for its document, draws it, and asks again every few seconds or when something changed.
function page(main, title, hint, path, every, draw) {
  const box = h("div", {});
  const part = panel(title, hint, [], box);
  main.append(part);
  let said = "";
  async function load() {
    const document = await attempt(() => get(path));
    const text = JSON.stringify(document);
    if (!document || text === said || store.paused) return;
    said = text;
    box.replaceChildren(...[draw(document, load)].flat());
  }
  load();
  const timer = every ? setInterval(load, every) : 0;
  return { changed: load, update: (content) => content.alarms && path === "alarms" && load(), close: () => clearInterval(timer) };
}

export function alarmsView(main) {
  return page(main, T.alarms.title, T.alarms.hint, "alarms", 0, (found) => [
    alarmTable(found.open), ...(found.ended.length ? [h("h3", {}, T.alarms.ended), alarmTable(found.ended)] : []),
  ]);
}

export function labelsView(main) {
  return page(main, T.labels.title, null, "labels", 0, (found, load) => {
    if (!found.labels.length) return h("p", { class: "soft" }, T.labels.none);
    const waiting = found.not_in_model.length ? h("p", {}, h("b", {}, T.labels.waiting(found.not_in_model.length))) : h("p", { class: "soft" }, T.labels.inModel);
    const rows = found.labels.map((l) => ({
      class: l.retracted ? "retracted" : "",
      cells: [l.point ? h("a", { href: linkOf(l) }, `${l.machine}/${l.point}`) : l.machine, when(l.start_ms), when(l.end_ms), T.label.verdicts[l.verdict] || l.verdict,
        modeWord(l.mode), number(l.certainty, 2), T.label.sources[l.source] || l.source, l.author, l.note || "",
        l.retracted ? "" : h("button", { onclick: async () => { await retract(l.id); load(); } }, T.label.retract)],
    }));
    return [waiting, table(T.labels.head, rows, [5])];
  });
}

function versionPart(v) {
  if (!v.per_class) return null;
  const rows = Object.entries(v.per_class).map(([mode, n]) => [modeWord(mode), number(n.precision), number(n.recall), number(n.f1), number(n.support, 6)]);
  const matrix = v.confusion && v.confusion.labels ? h("div", { class: "scroll" }, h("h3", {}, T.models.confusion), h("table", { class: "confusion" },
    h("thead", {}, h("tr", {}, h("th", {}), v.confusion.labels.map((c) => h("th", {}, modeWord(c))))),
    h("tbody", {}, v.confusion.matrix.map((line, i) => h("tr", {}, h("th", { scope: "row" }, modeWord(v.confusion.labels[i])), line.map((n) => h("td", { class: "number" }, String(n)))))))) : null;
  return h("details", { open: v.serves }, h("summary", {}, `${v.version}: ${T.models.classes}`), table(T.models.perClass, rows, [1, 2, 3, 4]), matrix);
}

export function modelsView(main) {
  return page(main, T.models.title, null, "models", 10000, (found) => {
    if (!found.versions.length) return h("p", { class: "soft" }, T.models.none);
    const rows = found.versions.map((v) => [h("b", {}, v.version), [...v.aliases, ...(v.serves ? [T.models.serves] : [])].join(", "),
      v.problem ? `${T.models.problem}: ${v.problem}` : number(v.windows, 7), number(v.accuracy), number(v.macro_f1), number(v.ece), v.split || "–"]);
    const moves = found.history.map((m) => [m.at, m.alias, `${m.from || "–"} → ${m.to}`, m.by, m.why]);
    return [table(T.models.head, rows, [2, 3, 4, 5]), ...found.versions.map(versionPart).filter(Boolean), h("h3", {}, T.models.history), table(["At (UTC)", "Alias", "Move", "By", "Why"], moves)];
  });
}

export function qualityView(main) {
  return page(main, T.quality.title, null, "quality", 5000, (found) => {
    const checks = found.health.map((c) => [c.name, c.status === "pass" ? "pass" : h("b", { class: "bad" }, c.status), c.output]);
    const streams = found.streams.map((s) => [h("a", { href: linkOf(s) }, `${s.machine}/${s.point}`), s.age_s === null ? T.fleet.never : duration(s.age_s), String(s.windows),
      s.coverage === null ? "–" : percent(s.coverage), String(s.gaps), String(s.missing_samples), String(s.late),
      Object.entries(s.remarks).map(([name, n]) => `${modeWord(name)} ${n}`).join(", ")]);
    const reasons = Object.entries(found.quarantine.reasons).map(([reason, n]) => `${reason} ${n}`).join(", ");
    return [
      h("h3", {}, T.quality.streams), table(T.quality.head, streams, [1, 2, 3, 4, 5, 6]),
      h("h3", {}, `${T.quality.quarantine}${reasons ? `: ${reasons}` : ""}`),
      found.quarantine.newest.length ? table(T.quality.quarantineHead, found.quarantine.newest.map((q) => [when(q.at), q.reason, q.topic, String(q.size_bytes)]), [3]) : h("p", { class: "soft" }, T.quality.noQuarantine),
      h("h3", {}, T.quality.messages), table(Object.keys(found.messages).map(modeWord), [Object.values(found.messages).map(String)], [0, 1, 2, 3, 4, 5, 6]),
      h("h3", {}, T.quality.health), table(["Check", "Status", ""], checks),
    ];
  });
}

export function settingsView(main) {
  return page(main, T.settings.title, T.settings.hint, "settings", 0, (found) => table(T.settings.head,
    found.settings.map((s) => [s.key, typeof s.value === "string" ? s.value : JSON.stringify(s.value), s.source, s.place])));
}
