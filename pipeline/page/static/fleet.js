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

function spark(s) {
  const values = s.spark || [];
  const known = values.filter((v) => v !== null);
  const top = 1.3 * Math.max(...known, 1e-9);
  const points = values.map((v, i) => (v === null ? null : `${(100 * i) / Math.max(1, values.length - 1)},${25 - (23 * v) / top}`)).filter(Boolean).join(" ");
  return svg("svg", { class: "spark", viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("polyline", { points }));
}

const age = (s) => (s.heard ? T.fleet.ago(duration(Math.max(0, Date.now() / 1000 - s.heard))) : T.fleet.never);

function tile(s) {
  const ago = h("span", { class: "soft" }, age(s));
  const node = h("a", { class: `tile ${s.state}`, href: linkOf(s) },
    h("span", { class: "row" }, h("span", { class: "name" }, label(s)), mark(s.state)),
    h("span", { class: "what", title: (s.evidence || []).join("; ") }, whatOf(s)),
    h("span", { class: "row" }, h("span", {}, h("b", {}, number(s.velocity_rms_mm_s)), " mm/s"), zone(s)),
    spark(s),
    h("span", { class: "row soft" }, h("span", {}, s.spark_s ? T.fleet.spark(duration(s.spark_s)) : ""), ago));
  return { node, ago };
}

export function fleetView(main) {
  const tiles = new Map();
  const search = h("input", { type: "search", placeholder: T.fleet.search, "aria-label": T.fleet.search, oninput: () => arrange(true) });
  const state = h("select", { "aria-label": T.alarms.state, onchange: () => arrange(true) }, h("option", { value: "" }, T.fleet.all),
    Object.entries(T.states).map(([value, text]) => h("option", { value }, text)));
  const count = h("span", { class: "soft" });
  const box = h("div", { id: "tiles" });
  const alarms = h("div", {});
  main.append(h("h1", { class: "skip" }, T.fleet.title), h("div", { class: "tools" }, search, state, count), box, panel(T.alarms.title, T.alarms.hint, [], alarms));
  let order = "";

  function arrange(force) {
    const text = search.value.trim().toLowerCase();
    const shown = sorted().filter((s) => (!text || `${nameOf(s)} ${s.area} ${s.shown || ""}`.toLowerCase().includes(text)) && (!state.value || s.state === state.value));
    for (const s of shown) if (!tiles.has(nameOf(s))) tiles.set(nameOf(s), tile(s));
    const next = shown.map(nameOf).join();
    if (force || next !== order) {
      order = next;
      box.replaceChildren(...(shown.length ? shown.map((s) => tiles.get(nameOf(s)).node) : [h("p", { class: "empty" }, store.streams.size ? T.fleet.noMatch : T.fleet.none)]));
    }
    const bad = shown.filter((s) => s.state === "alarm").length;
    count.textContent = `${shown.length} of ${store.streams.size}${bad ? ` · ${bad} in alarm` : ""}`;
  }

  function update(content) {
    for (const { machine, point } of content.streams) {
      const s = store.streams.get(nameOf({ machine, point }));
      const old = tiles.get(nameOf(s));
      const made = tile(s);
      if (old) {
        const focused = document.activeElement === old.node;
        old.node.replaceWith(made.node);
        if (focused) made.node.focus();
      }
      tiles.set(nameOf(s), made);
    }
    arrange(false);
    if (content.alarms) alarms.replaceChildren(alarmTable(store.alarms));
  }

  const timer = setInterval(() => {
    for (const [name, { ago }] of tiles) { const s = store.streams.get(name); if (s) ago.textContent = age(s); }
  }, 1000);
  update({ streams: [...store.streams.values()], alarms: store.alarms });
  return { update, close: () => clearInterval(timer) };
}
