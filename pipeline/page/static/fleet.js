// The fleet: tiles, worst first, and the alarms below them.
import { duration, h, linkOf, mark, modeWord, nameOf, number, panel, percent, svg } from "./dom.js";
import { T } from "./text.js";
import { label, sorted, store } from "./app.js";
import { alarmTable } from "./pages.js";

export function zone(s) {
  return s.zone ? h("span", { class: `zone ${s.zone}`, title: s.zone_note || "" }, s.zone) : h("span", { class: "soft", title: s.zone_note || T.fleet.notAssessable }, "");
}

export function whatOf(s) {
  if (s.state === "alarm" && s.alarm) {
    if (s.alarm !== s.mode) return modeWord(s.alarm_shown); // the alarm stands, the newest window says something else
    return `${modeWord(s.shown)} ${percent(s.p)}${s.confirmed === false && s.shown === s.mode ? ` · ${T.alarms.unconfirmed}` : ""}`;
  }
  if (["alarm", "warning"].includes(s.state) && s.shown && s.shown !== "healthy") {
    return `${modeWord(s.shown)} ${percent(s.p)}${s.confirmed === false ? ` · ${T.alarms.unconfirmed}` : ""}`;
  }
  return s.state === "sensor_fault" && s.quality.length ? `${T.states.sensor_fault}: ${modeWord(s.quality[0])}` : T.states[s.state] || s.state;
}

function sparkPoints(s) {
  const values = s.spark || [];
  const known = values.filter((v) => v !== null);
  const top = 1.3 * Math.max(...known, 1e-9);
  return values.map((v, i) => (v === null ? null : `${(100 * i) / Math.max(1, values.length - 1)},${25 - (23 * v) / top}`)).filter(Boolean).join(" ");
}

const age = (s) => (s.heard ? T.fleet.ago(duration(Math.max(0, Date.now() / 1000 - s.heard))) : T.fleet.never);

// A tile is made once and then kept up to date in place, so that it keeps the focus and costs little.
function tile(s) {
  const name = h("span", { class: "name" });
  const what = h("span", { class: "what" });
  const velocity = h("b", {});
  const letter = h("span", {});
  const line = svg("polyline", { points: "" });
  const span = h("span", {});
  const ago = h("span", {});
  const head = h("span", { class: "row" }, name, mark(s.state));
  const node = h("a", { href: linkOf(s) }, head, what, h("span", { class: "row" }, h("span", {}, velocity, " mm/s"), letter),
    svg("svg", { class: "spark", viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" }, line), h("span", { class: "row soft" }, span, ago));
  let state = s.state;
  let was = "";
  let drawnSpark = null;
  function show(now) {
    const said = `${label(now)} ${now.state} ${whatOf(now)} ${now.velocity_rms_mm_s} ${now.zone} ${now.spark_s}`;
    if (said !== was) {
      was = said;
      node.className = `tile ${now.state}`;
      name.textContent = label(now);
      if (now.state !== state) { head.lastChild.replaceWith(mark(now.state)); state = now.state; }
      what.textContent = whatOf(now);
      what.title = (now.evidence || []).join("; ");
      velocity.textContent = number(now.velocity_rms_mm_s);
      letter.replaceChildren(zone(now));
      span.textContent = now.spark_s ? T.fleet.spark(duration(now.spark_s)) : "";
    }
    if (now.spark !== drawnSpark) { drawnSpark = now.spark; line.setAttribute("points", sparkPoints(now)); }
    ago.textContent = age(now);
  }
  show(s);
  return { node, show, tick: (now) => { const text = age(now); if (text !== ago.textContent) ago.textContent = text; } };
}

const FEW = 300; // tiles that are sorted anew with every event; more only once a second
const AHEAD = 4; // rows of tiles that are drawn beyond what is visible

export function fleetView(main) {
  const tiles = new Map(); // of what is drawn
  const search = h("input", { type: "search", placeholder: T.fleet.search, "aria-label": T.fleet.search, oninput: () => arrange() });
  const state = h("select", { "aria-label": T.alarms.state, onchange: () => arrange() }, h("option", { value: "" }, T.fleet.all),
    Object.entries(T.states).map(([value, text]) => h("option", { value }, text)));
  const count = h("span", { class: "soft", role: "status" });
  const box = h("div", { id: "tiles" });
  const before = h("div", { class: "spacer" });
  const after = h("div", { class: "spacer" });
  const alarms = h("div", {});
  main.append(h("h1", { class: "skip" }, T.fleet.title), h("div", { class: "tools" }, search, state, count), box, panel(T.alarms.title, T.alarms.hint, [], alarms));
  let shown = [];
  let drawn = "";
  let row = 0; // height of a row of tiles in pixels, with its gap

  function arrange() {
    const text = search.value.trim().toLowerCase();
    shown = sorted().filter((s) => (!text || `${s.name} ${s.area} ${s.shown || ""}`.toLowerCase().includes(text)) && (!state.value || s.state === state.value));
    count.textContent = T.fleet.count(shown.length, store.streams.size, shown.filter((s) => s.state === "alarm").length);
    draw();
  }

  // Draws the tiles that can be seen; two spacers stand for the others.
  function draw() {
    if (!shown.length) { drawn = ""; box.replaceChildren(h("p", { class: "empty" }, store.streams.size ? T.fleet.noMatch : T.fleet.none)); return; }
    const columns = Math.max(1, getComputedStyle(box).gridTemplateColumns.split(" ").length);
    const rows = Math.ceil(shown.length / columns);
    const top = -box.getBoundingClientRect().top;
    const first = row ? Math.min(Math.max(0, Math.floor(top / row) - AHEAD), Math.max(0, rows - 1)) : 0;
    const last = row ? Math.min(rows, Math.ceil((top + innerHeight) / row) + AHEAD) : Math.min(rows, 8);
    const part = shown.slice(first * columns, Math.max(last, first + 1) * columns);
    const names = part.map((s) => s.name);
    const now = `${columns} ${first} ${rows} ${names.join()}`;
    if (now === drawn) return;
    drawn = now;
    const wanted = new Set(names);
    for (const name of [...tiles.keys()]) if (!wanted.has(name)) tiles.delete(name);
    for (const s of part) if (!tiles.has(s.name)) tiles.set(s.name, tile(s));
    const focused = document.activeElement;
    before.hidden = !first;
    before.style.height = `${first * row}px`;
    after.style.height = `${Math.max(0, rows - Math.max(last, first + 1)) * row}px`;
    if (before.parentNode !== box) box.replaceChildren(before, after);
    let place = before.nextSibling; // only what is new is put in: a tile that stays is laid out once
    for (const name of names) {
      const { node } = tiles.get(name);
      if (node === place) place = place.nextSibling;
      else box.insertBefore(node, place);
    }
    while (place !== after) { const gone = place; place = place.nextSibling; gone.remove(); }
    if (focused && focused !== document.activeElement && box.contains(focused)) focused.focus({ preventScroll: true });
    if (!row) { row = tiles.get(names[0]).node.getBoundingClientRect().height + 8; draw(); }
  }

  let later = 0;
  let waiting = false;
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
  const sized = () => { row = 0; drawn = ""; soon(); };
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", sized);

  function update(content) {
    for (const s of content.streams) { const made = tiles.get(nameOf(s)); if (made) made.show(store.streams.get(nameOf(s))); }
    if (store.streams.size <= FEW || content.alarms || !shown.length) arrange();
    else if (!later) later = setTimeout(() => { later = 0; arrange(); }, 1000);
    if (content.alarms) alarms.replaceChildren(alarmTable(store.alarms));
  }

  const timer = setInterval(() => { for (const [name, made] of tiles) { const s = store.streams.get(name); if (s) made.tick(s); } }, 1000);
  update({ streams: [], alarms: store.alarms });
  return { update, close: () => { clearInterval(timer); clearTimeout(later); removeEventListener("scroll", soon); removeEventListener("resize", sized); } };
}
