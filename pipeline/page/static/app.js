// The page: header, tree, routes, keys, and the state that the event stream keeps up to date.
import { listen, post, Problem } from "./api.js";
import { clock, duration, h, linkOf, mark, nameOf, toast } from "./dom.js";
import { T } from "./text.js";
import { fleetView } from "./fleet.js";
import { machineView } from "./machine.js";
import { alarmsView, labelsView, modelsView, qualityView, settingsView } from "./pages.js";

export const store = { header: null, streams: new Map(), alarms: [], heard: 0, paused: false };

const RANK = ["alarm", "warning", "unknown", "sensor_fault", "stale", "warming_up", "no_model", "not_running", "normal"];
const VIEWS = { fleet: fleetView, alarms: alarmsView, labels: labelsView, models: modelsView, quality: qualityView, settings: settingsView };
let view = null;
let route = "";

export const rank = (s) => RANK.indexOf(s.state);
export const sorted = () => [...store.streams.values()].sort((a, b) => rank(a) - rank(b) || (rank(a) < 2 ? (b.p || 0) - (a.p || 0) : 0) || nameOf(a).localeCompare(nameOf(b)));
const byName = () => [...store.streams.values()].sort((a, b) => (a.area || "~").localeCompare(b.area || "~") || nameOf(a).localeCompare(nameOf(b)));

// Several points of one machine are told apart; one point is called by its machine.
export function label(s) {
  let same = 0;
  for (const other of store.streams.values()) if (other.machine === s.machine) same += 1;
  return same > 1 ? nameOf(s) : s.machine;
}

export async function acknowledge(id) {
  const done = await attempt(() => post("alarms/acknowledge", { id }));
  if (done) toast(done.pending ? T.alarms.pending : T.alarms.acked);
}

export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (error instanceof Problem && error.status === 401) askToken();
    else toast(error instanceof Problem ? error.message : T.errors.offline);
    return null;
  }
}

function parse(hash) {
  const [path, query] = hash.replace(/^#/, "").split("?");
  const parts = path.split("/").map(decodeURIComponent);
  return { parts, query: new URLSearchParams(query || "") };
}

function show() {
  const { parts, query } = parse(location.hash || "#fleet");
  const next = parts.join("/");
  if (view && next === route && view.query) { view.query(query); return; }
  if (view && view.close) view.close();
  route = next;
  const main = document.getElementById("main");
  main.replaceChildren();
  scrollTo(0, 0);
  view = parts.length === 2 ? machineView(main, { machine: parts[0], point: parts[1] }, query) : (VIEWS[parts[0]] || fleetView)(main, query);
  document.title = `${parts.length === 2 ? parts[0] : T.nav[parts[0]] || T.nav.fleet} · ${T.brand}`;
  drawHeader();
  drawTree();
}

function drawHeader() {
  const head = store.header;
  const unseen = store.alarms.filter((a) => !a.acknowledged).length;
  const silent = store.heard ? (Date.now() - store.heard) / 1000 : 0;
  const links = Object.entries(T.nav).map(([name, text]) => h("a", { href: `#${name}`, "aria-current": route === name ? "page" : null }, text));
  const right = [];
  if (silent > 15) right.push(h("span", { class: "bad", role: "alert" }, T.header.lost(duration(silent))));
  if (store.paused) right.push(h("span", { class: "bad" }, T.header.paused));
  if (unseen) right.push(h("a", { class: "pill", href: "#alarms" }, T.header.unacknowledged(unseen)));
  if (head) {
    if (head.refusal) right.push(h("span", { class: "bad" }, T.header.refusal(head.refusal)));
    right.push(h("span", { class: head.broker ? "" : "bad" }, `${T.header.broker} ${head.broker ? "● " + T.header.connected : "○ " + T.header.gone}`));
    right.push(head.model ? h("span", {}, `${T.header.model} `, h("b", {}, head.model), ` (${head.alias})`) : h("span", {}, T.header.noModel));
    if (head.lag_s !== null) right.push(h("span", {}, T.header.lag(duration(head.lag_s))));
  }
  right.push(h("span", { id: "clock" }, `${clock(Date.now())} UTC`));
  document.getElementById("header").replaceChildren(h("span", { class: "brand" }, T.brand), h("nav", { "aria-label": "Views" }, links), h("div", { class: "right" }, right));
}

let treeSaid = "";
function drawTree() {
  const streams = byName();
  const said = route + streams.map((s) => nameOf(s) + s.state + s.area).join();
  if (said === treeSaid) return;
  treeSaid = said;
  const nodes = [];
  let area = null;
  for (const s of streams) {
    if (s.area !== area) {
      area = s.area;
      const open = store.alarms.filter((a) => streams.some((t) => t.area === area && t.machine === a.machine && t.point === a.point)).length;
      nodes.push(h("h2", {}, area || T.fleet.other, open ? h("span", { class: "bad" }, String(open)) : null));
    }
    nodes.push(h("a", { href: linkOf(s), "aria-current": route === nameOf(s) ? "page" : null }, mark(s.state), label(s)));
  }
  document.getElementById("tree").replaceChildren(h("a", { href: "#fleet", "aria-current": route === "fleet" ? "page" : null }, "▦ ", T.nav.fleet), ...nodes);
}

function took(content, whole) {
  store.heard = Date.now();
  store.header = content.header;
  if (whole) store.streams = new Map();
  for (const s of content.streams) store.streams.set(nameOf(s), { ...store.streams.get(nameOf(s)), ...s });
  if (content.alarms) store.alarms = content.alarms;
  drawHeader();
  drawTree();
  if (view && view.update && !store.paused) view.update(content);
}

function neighbour(step) {
  const names = byName().map(nameOf);
  const at = names.indexOf(route);
  if (at < 0 || !names.length) return;
  const s = store.streams.get(names[(at + step + names.length) % names.length]);
  location.hash = linkOf(s);
}

function pressed(event) {
  if (event.target.closest("input, select, textarea, dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "[") neighbour(-1);
  else if (event.key === "]") neighbour(1);
  else if (event.key === " " && !event.target.closest("button, a, summary")) { event.preventDefault(); store.paused = !store.paused; drawHeader(); }
  else if (event.key === "?") showKeys();
  else if (view && view.key) view.key(event);
}

function modal(...children) {
  const dialog = h("dialog", {}, ...children);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  return dialog;
}

function showKeys() {
  const rows = T.keys.list.map(([key, text]) => h("p", {}, h("kbd", {}, key), ` ${text}`));
  const dialog = modal(h("h2", {}, T.keys.title), ...rows, h("div", { class: "end" }, h("button", { onclick: () => dialog.close() }, T.label.cancel)));
}

let asking = false;
function askToken() {
  if (asking) return;
  asking = true;
  const input = h("input", { type: "password", autocomplete: "current-password", "aria-label": T.token.title });
  const send = async () => { await post("session", { token: input.value }).then(() => location.reload(), (error) => toast(error.message)); };
  const dialog = modal(h("h2", {}, T.token.title), h("p", {}, T.token.text), input,
    h("div", { class: "end" }, h("button", { class: "primary", onclick: send }, T.token.enter)));
  dialog.addEventListener("close", () => { asking = false; });
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") send(); });
}

window.addEventListener("hashchange", show);
document.addEventListener("keydown", pressed);
setInterval(drawHeader, 1000);
show();
listen({
  fleet: (content) => took(content, true),
  tick: (content) => took(content, false),
  changed: (content) => view && view.changed && view.changed(content),
  error: async () => { if ((await fetch("/api/v1/features").catch(() => ({ status: 0 }))).status === 401) askToken(); },
});
