// All labels: retract and restore, files in and out, and which of them no model has seen.
import { get, post } from "./api.js";
import { attempt } from "./app.js";
import { h, linkOf, modeWord, moment, number, panel, table, toast, zoneName } from "./dom.js";
import { restore, retract, undo, who } from "./label.js";
import { T } from "./text.js";

export function labelsView(main) {
  const file = h("input", { type: "file", accept: ".csv,.json,text/csv,application/json", hidden: true, "aria-label": T.labels.import, onchange: taken });
  const waiting = h("p", { role: "status" });
  const box = h("div", {});
  const tools = [
    h("a", { class: "button small", href: "/api/v1/labels/export?format=csv", download: "labels.csv" }, T.labels.exportCsv),
    h("a", { class: "button small", href: "/api/v1/labels/export?format=json", download: "labels.json" }, T.labels.exportJson),
    h("button", { class: "small change", onclick: () => file.click() }, T.labels.import), file,
    h("button", { class: "small change", onclick: undo }, T.labels.undo),
  ];
  main.append(panel(T.labels.title, null, tools, waiting, box));

  async function taken() {
    const [given] = file.files;
    file.value = "";
    if (!given) return;
    const content = await given.text();
    const found = await attempt(() => post("labels/import", { content, format: given.name.toLowerCase().endsWith(".json") ? "json" : "csv", ...who() }));
    if (found) toast([T.labels.imported(found.labels, found.new, found.windows), ...found.warnings].join(" "));
  }

  let asked = 0;
  async function load() {
    asked += 1;
    const mine = asked;
    const found = await attempt(() => get("labels"));
    if (!found || mine !== asked) return; // an answer that a newer question has overtaken
    const fresh = new Set(found.not_in_model);
    waiting.replaceChildren(fresh.size ? h("b", {}, T.labels.waiting(fresh.size)) : found.labels.length ? T.labels.inModel : T.labels.none,
      ...(fresh.size ? [" ", h("a", { class: "change", href: "#models" }, T.labels.train)] : []));
    box.replaceChildren(found.labels.length ? table(T.labels.head(zoneName()), found.labels.map((l) => ({
      class: l.retracted ? "retracted" : "",
      cells: [l.point ? h("a", { href: linkOf(l) }, `${l.machine}/${l.point}`) : l.machine, moment(l.start_ms), moment(l.end_ms), T.label.verdicts[l.verdict] || l.verdict,
        modeWord(l.mode), number(l.certainty, 2), T.label.sources[l.source] || l.source, l.author, h("span", {}, l.note || "", fresh.has(l.id) ? h("span", { class: "soft" }, ` (${T.labels.notYet})`) : null),
        h("button", { class: "change", onclick: () => (l.retracted ? restore : retract)(l.id) }, l.retracted ? T.labels.restore : T.labels.retract)],
    })), [5]) : "");
  }
  load();
  return { changed: load, close: () => {} };
}
