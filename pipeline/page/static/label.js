// The label dialog: one drag and Ctrl+Enter is enough for the usual case.
import { post, token } from "./api.js";
import { attempt, store } from "./app.js";
import { h, iso, modeWord, nameOf, percent, toast } from "./dom.js";
import { T } from "./text.js";

const REMEMBERED = "thrumcast.author";

function choices(name, words, chosen, onchange) {
  return h("fieldset", { class: "wide" }, h("legend", { class: "skip" }, name),
    Object.entries(words).map(([value, text]) => h("label", { class: "choice" },
      h("input", { type: "radio", name, value, checked: value === chosen, onchange }), text)));
}

// given: {machine, point, from, to, verdict?, mode?}; times in ms. saved() is called after a label is stored.
export function labelDialog(given, saved) {
  const name = nameOf(given);
  const stream = store.streams.get(name);
  const said = stream && stream.mode;
  const modes = store.header ? store.header.modes : [];
  const mode = given.mode || (said && said !== "healthy" ? said : null) || said || "healthy";
  const client_token = token();
  let author = "";
  try { author = localStorage.getItem(REMEMBERED) || ""; } catch { /* no storage: asked each time */ }

  const from = h("input", { type: "text", name: "start", value: iso(given.from), "aria-label": T.label.from, onchange: preview });
  const to = h("input", { type: "text", name: "end", value: iso(given.to), "aria-label": T.label.to, onchange: preview });
  const verdict = choices("verdict", T.label.verdicts, given.verdict || "confirmed", () => {
    const value = chosen("verdict");
    if (value === "false_alarm") select.value = "healthy";
    select.disabled = value === "unsure";
  });
  const select = h("select", { name: "mode", "aria-label": T.label.mode }, modes.map((m) => h("option", { value: m, selected: m === mode }, modeWord(m))));
  const stage = choices("stage", { "": "–", ...T.label.stages }, "");
  const source = h("select", { name: "source", "aria-label": T.label.evidence }, Object.entries(T.label.sources).map(([value, text]) => h("option", { value, selected: value === "operator" }, text)));
  const certainty = choices("certainty", T.label.certainties, "sure");
  const order = h("input", { type: "text", name: "work_order", maxLength: 80, placeholder: "WO-…", "aria-label": T.label.order });
  const note = h("textarea", { name: "note", rows: 2, maxLength: 4000, "aria-label": T.label.note });
  const by = h("input", { type: "text", name: "author", maxLength: 64, value: store.me.name || author, disabled: Boolean(store.me.name), "aria-label": T.label.by });
  const told = h("p", { class: "note", role: "status" }, T.label.rules);
  const wrong = h("p", { class: "error", role: "alert" });
  const save = h("button", { class: "primary", type: "button", onclick: store_ }, T.label.save);
  const row = (text, ...content) => [h("span", {}, text), h("div", { class: "wide" }, ...content)];
  const dialog = h("dialog", { "aria-label": T.label.title(name) },
    h("h2", {}, T.label.title(name)),
    h("div", { class: "form" }, row(T.label.interval, from, to), row(T.label.verdict, verdict), row(T.label.mode, select), row(T.label.stage, stage),
      row(T.label.evidence, source), row(T.label.certainty, certainty), row(T.label.order, order), row(T.label.note, note), row(T.label.by, by)),
    told, wrong, h("div", { class: "end" }, h("button", { type: "button", onclick: () => dialog.close() }, T.label.cancel), save));
  const chosen = (what) => dialog.querySelector(`input[name=${what}]:checked`).value;

  function fields() {
    const value = chosen("verdict");
    const found = { machine: given.machine, point: given.point, start: from.value.trim(), end: to.value.trim(), verdict: value, client_token };
    if (value !== "unsure") found.mode = select.value;
    if (chosen("stage")) found.stage = chosen("stage");
    Object.assign(found, { source: source.value, certainty: chosen("certainty") });
    if (order.value.trim()) found.work_order = order.value.trim();
    if (note.value.trim()) found.note = note.value.trim();
    if (by.value.trim()) found.author = by.value.trim();
    return found;
  }

  async function preview() {
    try {
      const found = await post("labels/preview", fields());
      told.textContent = `${T.label.covers(found.windows, found.said && modeWord(found.said), found.last && `${modeWord(found.last)} ${percent(found.last_p)}`)} ${T.label.rules}`;
      wrong.textContent = "";
    } catch (error) { wrong.textContent = error.message; }
  }

  async function store_() {
    save.disabled = true;
    try { if (!by.disabled) localStorage.setItem(REMEMBERED, by.value.trim()); } catch { /* no storage */ }
    try {
      const found = await post("labels", fields());
      if (found.new) can(() => change(found.id, "retract"));
      toast([T.label.saved(found.windows), ...found.warnings].join(" "), { text: T.labels.undo, run: undo });
      dialog.close();
      saved(found.label);
    } catch (error) {
      wrong.textContent = error.message;
      save.disabled = false;
    }
  }

  dialog.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); if (!save.disabled) store_(); } });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  from.focus();
  preview();
}

// What can be undone, newest last: each entry does it and says whether it succeeded.
const MOST_UNDO = 50;
const undoable = [];
function can(action) {
  undoable.push(action);
  if (undoable.length > MOST_UNDO) undoable.shift();
}
const change = (id, what) => attempt(() => post(`labels/${encodeURIComponent(id)}/${what}`, who()));
export function who() {
  let by = null;
  try { by = localStorage.getItem(REMEMBERED) || null; } catch { /* no storage: the page */ }
  return store.me.name || !by ? {} : { by };
}

export async function undo() {
  const action = undoable.pop();
  if (!action) toast(T.labels.nothing);
  else if (await action()) toast(T.labels.undone);
}

export async function retract(id) {
  if (!(await change(id, "retract"))) return;
  can(() => change(id, "restore"));
  toast(T.label.retracted, { text: T.labels.undo, run: undo });
}

export async function restore(id) {
  const found = await change(id, "restore");
  if (!found) return;
  can(() => change(found.id, "retract"));
  toast(T.labels.restored, { text: T.labels.undo, run: undo });
}
