// The tables: alarms, data quality, settings with the changes made on the page.
import { get } from "./api.js";
import { acknowledge, attempt, store } from "./app.js";
import { duration, h, iso, linkOf, modeWord, moment, number, panel, percent, stateWord, table, when, zoneName } from "./dom.js";
import { labelDialog } from "./label.js";
import { T } from "./text.js";

function evidenceOf(alarm) {
  const text = alarm.evidence.length ? alarm.evidence.join("; ") : T.alarms.noEvidence;
  return h("div", { class: "evidence" }, text, alarm.confirmed === false ? h("b", {}, ` (${T.alarms.unconfirmed})`) : null);
}

function statusOf(alarm) {
  if (alarm.cleared) return (alarm.ended === "revoked" ? T.alarms.revoked : T.alarms.cleared)(when(alarm.cleared / 1e6));
  return alarm.acknowledged ? T.alarms.acknowledged(when(alarm.acknowledged / 1e6)) : T.alarms.unacknowledged;
}

// An alarm that has ended is looked at in its own hour.
const placeOf = (alarm) => (alarm.cleared ? `${linkOf(alarm)}?${new URLSearchParams({ range: "1 h", to: iso(Math.min(alarm.raised + 1800e3, Date.now())) })}` : linkOf(alarm));

export const reportLink = (alarm) => h("a", { class: "button", href: `/api/v1/alarms/report?id=${encodeURIComponent(alarm.id)}`, download: `alarm-${alarm.machine}-${alarm.point}.html`, title: T.alarms.reportHint }, T.alarms.report);

export function alarmTable(alarms, saved = () => {}) {
  if (!alarms.length) return h("p", { class: "soft" }, T.alarms.none);
  const { raised, machine, state, mode, p, evidence, status } = T.alarms;
  return table([raised(zoneName()), machine, state, mode, p, evidence, status, ""], alarms.map((a) => [
    moment(a.raised), h("a", { href: placeOf(a) }, `${a.machine}/${a.point}`), stateWord(a.cleared ? "normal" : "alarm"), modeWord(a.shown), number(a.p, 2),
    evidenceOf(a), statusOf(a),
    h("div", { class: "tools" },
      reportLink(a),
      a.cleared || a.acknowledged ? null : h("button", { class: "change", onclick: () => acknowledge(a.id) }, T.alarms.ack),
      h("button", { class: "primary change", onclick: () => labelDialog({ machine: a.machine, point: a.point, from: a.since, to: a.cleared ? a.cleared / 1e6 : Date.now(), mode: a.mode }, saved) }, T.alarms.label)),
  ]), [4]);
}

// A view that asks for its document, draws it, and asks again every few seconds or when something changed.
function page(main, title, hint, path, every, draw) {
  const box = h("div", {});
  const part = panel(title, hint, [], box);
  main.append(part);
  let said = "";
  let asked = 0;
  async function load() {
    asked += 1;
    const mine = asked;
    const document = await attempt(() => get(path));
    const text = JSON.stringify(document);
    if (!document || mine !== asked || text === said || store.paused) return;
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

export function qualityView(main) {
  return page(main, T.quality.title, null, "quality", 5000, (found) => {
    const checks = found.health.map((c) => [c.name, c.status === "pass" ? T.quality.pass : h("b", { class: "bad" }, c.status), c.output]);
    const streams = found.streams.map((s) => [h("a", { href: linkOf(s) }, `${s.machine}/${s.point}`), s.age_s === null ? T.fleet.never : duration(s.age_s), String(s.windows),
      s.coverage === null ? "–" : percent(s.coverage), String(s.gaps), String(s.missing_samples), String(s.late),
      Object.entries(s.remarks).map(([name, n]) => `${modeWord(name)} ${n}`).join(", ")]);
    const reasons = Object.entries(found.quarantine.reasons).map(([reason, n]) => `${reason} ${n}`).join(", ");
    return [
      h("h3", {}, T.quality.streams), table(T.quality.head, streams, [1, 2, 3, 4, 5, 6]),
      h("h3", {}, `${T.quality.quarantine}${reasons ? `: ${reasons}` : ""}`),
      found.quarantine.newest.length ? table(T.quality.quarantineHead(zoneName()), found.quarantine.newest.map((q) => [moment(q.at), q.reason, q.topic, String(q.size_bytes)]), [3]) : h("p", { class: "soft" }, T.quality.noQuarantine),
      h("h3", {}, T.quality.messages), table(Object.keys(found.messages).map(modeWord), [Object.values(found.messages).map(String)], [0, 1, 2, 3, 4, 5, 6]),
      h("h3", {}, T.quality.health), table(T.quality.checkHead, checks),
    ];
  });
}

export function settingsView(main) {
  const values = page(main, T.settings.title, T.settings.hint, "settings", 0, (found) => table(T.settings.head,
    found.settings.map((s) => [s.key, h("span", { class: "long" }, typeof s.value === "string" ? s.value : JSON.stringify(s.value)), s.source, s.place]), [], true));
  const changes = page(main, T.settings.changes, null, "audit", 0, (found) => (found.changes.length ? table(T.settings.changesHead(zoneName()),
    found.changes.map((c) => [moment(Date.parse(c.at)), c.by, c.client, c.path.replace("/api/v1/", ""), Object.entries(c.given).filter(([name]) => !["client_token", "by", "author"].includes(name)).map(([name, value]) => `${name} ${value}`).join(", ")])) : h("p", { class: "soft" }, T.settings.noChanges)));
  return { changed: changes.changed, close: () => { values.close(); changes.close(); } };
}
