// The page: header, tree, routes, keys, and the state that the event stream keeps up to date.
import { get, listen, post, Problem } from "./api.js";
import { duration, h, linkOf, mark, nameOf, stamp, switchZone, toast } from "./dom.js";
import { T } from "./text.js";
import { fleetView } from "./fleet.js";
import { machineView } from "./machine.js";
import { undo } from "./label.js";
import { labelsView } from "./labels.js";
import { modelsView } from "./models.js";
import { alarmsView, qualityView, settingsView } from "./pages.js";

export const store = { header: null, streams: new Map(), alarms: [], heard: 0, paused: false, me: { name: null, may_change: true } };

const RANK = ["alarm", "warning", "unknown", "sensor_fault", "stale", "warming_up", "no_model", "not_running", "normal"];
const VIEWS = { fleet: fleetView, alarms: alarmsView, labels: labelsView, models: modelsView, quality: qualityView, settings: settingsView };
let view = null;
let route = "";

export const rank = (s) => RANK.indexOf(s.state);
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0); // localeCompare is slow for thousands
export const sorted = () => [...store.streams.values()].sort((a, b) => rank(a) - rank(b) || (rank(a) < 2 ? (b.p || 0) - (a.p || 0) : 0) || compare(a.name, b.name));
const byName = () => [...store.streams.values()].sort((a, b) => compare(a.area || "~", b.area || "~") || compare(a.name, b.name));

// Several points of one machine are told apart; one point is called by its machine.
let points = new Map();
function countPoints() {
  points = new Map();
  for (const s of store.streams.values()) points.set(s.machine, (points.get(s.machine) || 0) + 1);
}
export const label = (s) => (points.get(s.machine) > 1 ? nameOf(s) : s.machine);

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

// The header is made once: what changes is replaced, so that the keyboard's place in it is kept.
const links = Object.entries(T.nav).map(([name, text]) => h("a", { href: `#${name}` }, text));
const told = h("span", { class: "right" });
const time = h("button", { id: "clock", class: "small", title: T.header.zone, onclick: () => { switchZone(); drawHeader(); route = ""; show(); } });
document.getElementById("header").replaceChildren(h("span", { class: "brand" }, T.brand), h("nav", { "aria-label": T.views }, links), h("div", { class: "right" }, told, time));
document.getElementById("tree").setAttribute("aria-label", T.machines);
document.querySelector("a.skip").textContent = T.skip;

let headSaid = "";
function drawHeader() {
  const head = store.header;
  const unseen = store.alarms.filter((a) => !a.acknowledged).length;
  const silent = store.heard ? (Date.now() - store.heard) / 1000 : 0;
  const right = [];
  if (silent > 15) right.push(["bad", T.header.lost(duration(silent))]);
  if (store.paused) right.push(["bad", T.header.paused]);
  if (!store.me.may_change) right.push(["", store.me.name ? T.header.readerName(store.me.name) : T.header.reader]);
  else if (store.me.name) right.push(["", store.me.name]);
  if (unseen) right.push(["pill", T.header.unacknowledged(unseen)]);
  if (head) {
    if (head.refusal) right.push(["bad", T.header.refusal(head.refusal)]);
    right.push([head.broker ? "" : "bad", `${T.header.broker} ${head.broker ? "● " + T.header.connected : "○ " + T.header.gone}`]);
    right.push(["", head.model ? `${T.header.model} ${head.model} (${head.alias})` : T.header.noModel]);
    if (head.lag_s !== null) right.push(["lag", T.header.lag(duration(head.lag_s))]);
  }
  time.textContent = stamp(Date.now());
  for (const link of links) {
    if (link.hash === `#${route}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const said = JSON.stringify(right);
  if (said === headSaid) return;
  headSaid = said;
  told.replaceChildren(...right.map(([kind, text]) => (kind === "pill" ? h("a", { class: "pill", href: "#alarms" }, text) : h("span", { class: kind, role: kind === "bad" ? "alert" : null }, text))));
}

// The tree: areas, and in them the points. A large area is filled when it is opened.
const LARGE = 200;
const home = h("a", { href: "#fleet" }, `▦ ${T.nav.fleet}`);
const opened = new Set();
let nodes = new Map(); // name -> {link, state}
let treeSaid = "";
let shape = 0; // grows when streams come or change their area
function branch(s) {
  const link = h("a", { href: linkOf(s) }, mark(s.state), label(s));
  nodes.set(nameOf(s), { link, state: s.state });
  return link;
}
function drawTree() {
  const said = `${shape} ${store.alarms.map(nameOf).join()}`;
  if (said !== treeSaid) {
    treeSaid = said;
    const streams = byName();
    const bad = new Map();
    for (const a of store.alarms) bad.set(nameOf(a), (bad.get(nameOf(a)) || 0) + 1);
    const areas = new Map();
    for (const s of streams) {
      const area = areas.get(s.area) || { streams: [], alarms: 0 };
      area.streams.push(s);
      area.alarms += bad.get(s.name) || 0;
      areas.set(s.area, area);
    }
    nodes = new Map();
    const parts = [...areas].map(([name, { streams: some, alarms }]) => {
      const title = [name || T.fleet.other, alarms ? h("span", { class: "bad" }, String(alarms)) : null];
      if (streams.length <= LARGE) return [h("h2", {}, title), ...some.map(branch)];
      const fill = (node) => { if (node.open && node.childElementCount === 1) node.append(...some.map(branch)); };
      const node = h("details", { open: opened.has(name), ontoggle: () => { opened[node.open ? "add" : "delete"](name); fill(node); } }, h("summary", {}, title, h("span", { class: "soft" }, ` ${some.length}`)));
      fill(node);
      return node;
    });
    document.getElementById("tree").replaceChildren(home, ...parts.flat());
  }
  if (route === "fleet") home.setAttribute("aria-current", "page");
  else home.removeAttribute("aria-current");
  for (const [name, known] of nodes) {
    const s = store.streams.get(name);
    if (s && s.state !== known.state) { known.link.firstChild.replaceWith(mark(s.state)); known.state = s.state; }
    if (name === route) known.link.setAttribute("aria-current", "page");
    else if (known.link.hasAttribute("aria-current")) known.link.removeAttribute("aria-current");
  }
}

function took(content, whole) {
  store.heard = Date.now();
  store.header = content.header;
  const before = store.streams;
  if (whole) store.streams = new Map();
  let known = !whole || before.size === content.streams.length;
  for (const s of content.streams) {
    const name = nameOf(s);
    const old = before.get(name);
    known = known && old !== undefined && old.area === s.area;
    store.streams.set(name, Object.assign(old || { name }, s)); // in place: thousands of copies per tick are too many
  }
  if (content.alarms) store.alarms = content.alarms;
  if (!known) { shape += 1; countPoints(); }
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
  else if (event.key === "z" || event.key === "Z") undo();
  else if (Object.keys(T.nav)[Number(event.key) - 1]) location.hash = `#${Object.keys(T.nav)[Number(event.key) - 1]}`;
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
  const dialog = modal(h("h2", {}, T.keys.title), ...rows, h("div", { class: "end" }, h("button", { onclick: () => dialog.close() }, T.keys.close)));
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

async function whoAmI() {
  store.me = (await attempt(() => get("me"))) || store.me;
  document.body.classList.toggle("reader", !store.me.may_change);
  drawHeader();
}

window.addEventListener("hashchange", show);
document.addEventListener("keydown", pressed);
setInterval(drawHeader, 1000);
show();
whoAmI();
listen({
  fleet: (content) => took(content, true),
  tick: (content) => took(content, false),
  changed: (content) => view && view.changed && view.changed(content),
  training: (content) => view && view.training && view.training(content),
  error: async () => { if ((await fetch("/api/v1/features").catch(() => ({ status: 0 }))).status === 401) askToken(); },
});
