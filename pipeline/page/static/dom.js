// Small helpers: elements without markup in strings, times, numbers, marks of states.
import { T } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name in node && name !== "list" && name !== "form") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const SHAPES = {
  alarm: () => svg("rect", { x: 2, y: 2, width: 10, height: 10 }),
  warning: () => svg("path", { d: "M7 2 L13 12 H1 Z" }),
  unknown: () => svg("path", { d: "M7 1 L13 7 L7 13 L1 7 Z" }),
  sensor_fault: () => svg("path", { d: "M2 2 L12 12 M12 2 L2 12" }),
  stale: () => svg("circle", { cx: 7, cy: 7, r: 5 }),
  not_running: () => svg("path", { d: "M4 2 V12 M10 2 V12" }),
  warming_up: () => svg("path", { d: "M7 2 A5 5 0 0 1 7 12" }),
  no_model: () => svg("path", { d: "M2 7 H12" }),
  normal: () => svg("circle", { cx: 7, cy: 7, r: 5 }),
};

export function mark(state) {
  const shape = (SHAPES[state] || SHAPES.normal)();
  return svg("svg", { class: `mark ${state}`, viewBox: "0 0 14 14", role: "img", "aria-label": T.states[state] || state }, shape);
}

export const stateWord = (state) => h("span", { class: "state" }, mark(state), T.states[state] || state);
export const modeWord = (mode) => (mode || "").replaceAll("_", " ");
export const nameOf = (s) => `${s.machine}/${s.point}`;
export const linkOf = (s) => `#${encodeURIComponent(s.machine)}/${encodeURIComponent(s.point)}`;
export const percent = (p) => (p === null || p === undefined ? "" : `${Math.round(100 * p)} %`);

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// Times are shown in UTC or in the zone of this browser, always with the zone beside them. Labels are written in UTC.
const ZONE = "thrumcast.zone";
let local = false;
try { local = localStorage.getItem(ZONE) === "local"; } catch { /* no storage: UTC */ }
export function switchZone() {
  local = !local;
  try { localStorage.setItem(ZONE, local ? "local" : "UTC"); } catch { /* no storage: for this page only */ }
}
export const isLocal = () => local;
const two = (n) => String(n).padStart(2, "0");
const offset = (ms) => (local ? -new Date(ms).getTimezoneOffset() : 0); // minutes
export function zoneName(ms = Date.now()) {
  const minutes = Math.abs(offset(ms));
  return local ? `UTC${offset(ms) < 0 ? "−" : "+"}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}` : "UTC";
}
export const zoned = (ms) => new Date(ms + 60e3 * offset(ms)); // a date whose UTC fields are those of the shown zone
export function clock(ms) {
  const d = zoned(ms);
  return `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`;
}
export const stamp = (ms) => `${clock(ms)} ${zoneName(ms)}`;
export const iso = (ms) => new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");
export function when(ms) {
  return Date.now() - ms < 43200e3 ? clock(ms) : iso(zoned(ms).getTime()).replace("T", " ").replace("Z", "");
}
export const moment = (ms) => h("span", { class: "time" }, when(ms));
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return value.toFixed(0);
  if (size !== 0 && size < 0.001) return value.toExponential(2);
  return Number(value.toPrecision(digits)).toString();
}

let hidden = 0;
export function toast(text, action) {
  const node = document.getElementById("toast");
  node.replaceChildren(text, ...(action ? [h("button", { class: "small", onclick: () => { node.classList.remove("on"); action.run(); } }, action.text)] : []));
  node.classList.add("on");
  clearTimeout(hidden);
  hidden = setTimeout(() => node.classList.remove("on"), action ? 12000 : 5000);
}

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function panel(title, hint, tools, ...children) {
  return h("section", { class: "panel" },
    h("header", {}, h("h2", {}, title), hint ? h("span", { class: "soft" }, hint) : null, h("span", { class: "grow" }), ...(tools || [])),
    ...children);
}

// `cards`: on a phone each row becomes a card.
export function table(head, rows, numbers = [], cards = head.length > 5) {
  if (!rows.length) return h("p", { class: "soft" }, T.none);
  const cls = (i) => (numbers.includes(i) ? "number" : "");
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": head.find((text) => text) },
    h("table", { class: cards ? "cards" : "" }, h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { class: cls(i), scope: "col" }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.class || "" }, (row.cells || row).map((cell, i) => h("td", { class: cls(i), "data-label": head[i] }, cell === "" ? null : cell)))))));
}
