// Plots: uPlot with the page's colours, marks of lines, harmonic cursors, and the waterfall, a ring on a canvas.
import { clock, colour, h, isLocal, number, zoned } from "./dom.js";

export const G = 9.80665; // m/s2
const FLOOR_BINS = 24; // on each side of a line, as in the features
const SHAFT_BINS = 2.5;

// How far the line at bin `place` stands over its floor, in dB: the rule of the features (core/features/lines.py).
export function lineDb(power, place, tolerance, shaft = 0) {
  const bins = power.length;
  const half = Math.max(0.5, tolerance * place);
  const first = Math.ceil(place - half);
  const last = Math.floor(place + half);
  if (!(place > 0) || first < 2 || last >= bins - 2) return NaN;
  const harmonic = shaft > 0 ? Math.floor(place / shaft + 0.5) * shaft : NaN;
  const from = Math.ceil(harmonic - SHAFT_BINS);
  const to = Math.floor(harmonic + SHAFT_BINS);
  let peak = -1;
  for (let k = first; k <= last; k++) if (!(k >= from && k <= to)) peak = Math.max(peak, power[k]);
  if (peak < 0) return NaN;
  const begin = Math.max(2, first - FLOOR_BINS);
  const end = Math.min(last + 1 + FLOOR_BINS, bins);
  let sum = 0;
  for (let k = begin; k < first; k++) sum += Math.log10(power[k]);
  for (let k = last + 1; k < end; k++) sum += Math.log10(power[k]);
  return 10 * (Math.log10(peak) - sum / (first - begin + end - last - 1));
}

// A sine of amplitude a on a bin has P = a^2 / 3 there under a Hann window.
export const amplitude = (power) => Math.sqrt(3 * power);

const size = (node, height) => ({ width: Math.max(200, node.clientWidth), height });

function axes(x, y, ticks) {
  const axis = (label, extra) => ({ stroke: colour("soft"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid") }, font: "12px DejaVu Sans, system-ui, sans-serif", label, labelSize: 18, labelFont: "12px DejaVu Sans, system-ui, sans-serif", ...extra });
  return [axis(x, { size: 34, ...ticks }), axis(y, { size: 58, values: (u, v) => v.map((n) => number(n, 4)) })];
}

// A plot that fills its box, follows its width, and can be drawn again in other colours.
export function plot(box, height, options, data) {
  const make = (now) => new uPlot({ ...size(box, height), legend: { show: false }, ...options(), axes: options().axes || [] }, now, box);
  let u = make(data);
  const watch = new ResizeObserver(() => { if (Math.abs(u.width - box.clientWidth) > 1) u.setSize(size(box, height)); });
  watch.observe(box);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => { const now = u.data; u.destroy(); u = make(now); };
  dark.addEventListener("change", recolour);
  return {
    get u() { return u; },
    set: (now, keep = true) => u.setData(now, !keep),
    remake: recolour,
    destroy: () => { watch.disconnect(); dark.removeEventListener("change", recolour); u.destroy(); },
  };
}

export function waveform(box) {
  return plot(box, 250, () => ({
    scales: { x: { time: false } }, cursor: { y: false }, axes: axes("ms", null),
    series: [{}, { stroke: colour("trace"), width: 1, points: { show: false } }],
  }), [[], []]);
}

// lines(): [{x, label, family, near}], at(): places of extra cursors, moved(x): the pointer is there, clicked(x).
export function spectrum(box, labels, { lines, extra, moved, grab }) {
  const draw = (u) => {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    ctx.font = `${11 * ratio}px DejaVu Sans, system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    const ends = [];
    for (const line of [...lines()].sort((a, b) => a.x - b.x)) {
      const x = Math.round(u.valToPos(line.x, "x", true));
      if (x < left || x > left + width) continue;
      ctx.strokeStyle = ctx.fillStyle = colour(line.family);
      ctx.setLineDash([4 * ratio, 3 * ratio]);
      ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, top + height); ctx.stroke();
      let level = 0; // the first height at which its word does not touch another
      while (level < 5 && ends[level] !== undefined && ends[level] > x) level += 1;
      ends[level] = x + ctx.measureText(line.label).width + 8 * ratio;
      ctx.fillText(line.label, x + 3 * ratio, top + 2 * ratio + level * 13 * ratio);
    }
    ctx.setLineDash([]);
    for (const mark of extra()) {
      const x = u.valToPos(mark.x, "x", true);
      ctx.strokeStyle = colour("hold");
      ctx.lineWidth = (mark.main ? 2 : 1) * ratio;
      ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, top + height); ctx.stroke();
    }
    ctx.restore();
  };
  const series = (name, dash, width) => ({ stroke: () => colour(name), width, dash, points: { show: false } });
  const made = plot(box, 220, () => ({
    scales: { x: { time: false }, y: { range: (u, low, high) => (labels().db ? [Math.max(low ?? -120, (high ?? 0) - 120), (high ?? 0) + 6] : [0, (high || 1) * 1.15]) } },
    cursor: { y: false, sync: { key: "hz", scales: ["x", null] }, drag: { x: true, y: false } },
    axes: axes(labels().x, labels().y),
    series: [{}, { ...series("trace", undefined, 1), fill: undefined }, series("hold", undefined, 1), series("baseline", [5, 3], 1.5)],
    hooks: {
      draw: [draw],
      setCursor: [(u) => { if (u.cursor.left >= 0) moved(u.posToVal(u.cursor.left, "x"), u.cursor.idx); else moved(null); }],
    },
  }), [[], [], [], []]);
  box.addEventListener("mousedown", (event) => {
    const over = made.u.over.getBoundingClientRect();
    const x = made.u.posToVal(event.clientX - over.left, "x");
    if (!grab || !grab(x, made.u)) return;
    event.stopPropagation();
    const move = (e) => { grab(made.u.posToVal(e.clientX - over.left, "x"), made.u, true); };
    const up = () => { removeEventListener("mousemove", move); removeEventListener("mouseup", up); };
    addEventListener("mousemove", move);
    addEventListener("mouseup", up);
  }, true);
  return made;
}

const STEPS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000];
function stamps(u, splits, index, space, step) {
  return splits.map((s) => {
    const d = zoned(s * 1000);
    if (step >= 86400 || (d.getUTCHours() === 0 && d.getUTCMinutes() === 0 && step >= 1800)) return d.toISOString().slice(5, 10);
    return step >= 60 ? clock(s * 1000).slice(0, 5) : clock(s * 1000);
  });
}

// bands(): zones [{from, to, zone}], labels(): [{from, to, text}], marks(): [{at, text}], selected(from, to) in seconds.
export function trend(box, { bands, labels, marks, selected, unit }) {
  const under = (u) => {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
    ctx.font = `bold ${11 * ratio}px DejaVu Sans, system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    for (const { from, to, zone } of bands()) {
      const y0 = u.valToPos(Math.min(to, u.scales.y.max), "y", true);
      const y1 = u.valToPos(Math.max(from, u.scales.y.min), "y", true);
      if (y1 <= y0) continue;
      ctx.globalAlpha = 0.13;
      ctx.fillStyle = colour(`zone-${zone.toLowerCase()}`);
      ctx.fillRect(left, y0, width, y1 - y0);
      ctx.globalAlpha = 1;
      if (y1 - y0 > 14 * ratio) ctx.fillText(zone, left + 5 * ratio, y0 + 3 * ratio);
    }
    for (const { from, to, text } of labels()) {
      const a = u.valToPos(from, "x", true);
      const b = u.valToPos(to, "x", true);
      ctx.globalAlpha = 0.2;
      ctx.fillStyle = colour("accent");
      ctx.fillRect(a, top, Math.max(b - a, 2 * ratio), height);
      ctx.globalAlpha = 1;
      ctx.fillRect(a, top, Math.max(b - a, 2 * ratio), 3 * ratio);
      ctx.fillText(text, Math.max(a, left) + 4 * ratio, top + height - 16 * ratio);
    }
    for (const { at, text } of marks()) {
      const x = u.valToPos(at, "x", true);
      ctx.strokeStyle = ctx.fillStyle = colour("soft");
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, top + height); ctx.stroke();
      ctx.setLineDash([]);
      ctx.fillText(text, x + 3 * ratio, top + 16 * ratio);
    }
    ctx.restore();
  };
  return plot(box, 210, () => ({
    scales: { y: { range: (u, low, high) => [Math.min(0, low ?? 0), (high || 1) * 1.12] } },
    cursor: { drag: { x: true, y: false, setScale: false }, y: false },
    axes: axes(null, unit(), { values: stamps, incrs: STEPS, space: 70 }),
    tzDate: (s) => (isLocal() ? new Date(s * 1000) : uPlot.tzDate(new Date(s * 1000), "Etc/UTC")),
    series: [{}, { stroke: () => colour("soft"), width: 0, points: { show: false } }, { stroke: () => colour("soft"), width: 0, points: { show: false } }, { stroke: () => colour("trace"), width: 1.4, spanGaps: false, points: { show: false } }],
    bands: [{ series: [2, 1], fill: () => colour("line") }],
    hooks: {
      drawAxes: [under],
      setSelect: [(u) => {
        const { left, width } = u.select;
        if (width < 3) return;
        const from = u.posToVal(left, "x");
        const to = u.posToVal(left + width, "x");
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        selected(from, to);
      }],
    },
  }), [[], [], [], []]);
}

// Dark blue over green to yellow and red, in 256 steps.
const PALETTE = Array.from({ length: 256 }, (_, i) => {
  const t = i / 255;
  const ramp = (a, b) => Math.max(0, Math.min(1, (t - a) / (b - a)));
  return [Math.round(5 + 250 * ramp(0.45, 0.8)), Math.round(10 + 220 * ramp(0.2, 0.6) - 130 * ramp(0.8, 1)), Math.round(48 + 110 * ramp(0, 0.3) - 130 * ramp(0.4, 0.7))];
});
const KEPT = 80; // lines
const RANGE_DB = 22;

// One new line at the top, the others move down by drawImage. A ring of the same length keeps the spectra.
export function waterfall(clicked, hovered) {
  const canvas = h("canvas", { class: "waterfall", width: 1, height: KEPT, tabIndex: 0, role: "img", "aria-label": "Envelope waterfall" });
  const ctx = canvas.getContext("2d");
  const ring = [];
  let like = ""; // what the lines have in common; the speed may change, their frequencies do not
  let shown = 0; // bins
  function add(entry, bins) {
    const now = `${entry.header.channel} ${entry.envelope.length} ${entry.header.delta_f_hz}`;
    if (now !== like) { like = now; shown = Math.min(bins, entry.envelope.length); ring.length = 0; }
    const power = entry.envelope.subarray(0, shown);
    if (!power.length) return;
    if (!ring.length) { canvas.width = power.length; ring.length = 0; ctx.fillStyle = "#050a30"; ctx.fillRect(0, 0, canvas.width, KEPT); }
    ring.unshift(entry);
    if (ring.length > KEPT) ring.pop();
    const sorted = Float32Array.from(entry.envelope).sort();
    const floor = 10 * Math.log10(sorted[sorted.length >> 1] || 1e-30);
    ctx.drawImage(canvas, 0, 0, canvas.width, KEPT - 1, 0, 1, canvas.width, KEPT - 1);
    const line = ctx.createImageData(power.length, 1);
    for (let k = 0; k < power.length; k++) {
      const level = (10 * Math.log10(power[k] || 1e-30) - floor) / RANGE_DB;
      const [r, g, b] = PALETTE[Math.max(0, Math.min(255, Math.round(255 * level)))];
      line.data.set([r, g, b, 255], 4 * k);
    }
    ctx.putImageData(line, 0, 0);
  }
  const rowOf = (event) => { const box = canvas.getBoundingClientRect(); return Math.floor(((event.clientY - box.top) / box.height) * KEPT); };
  canvas.addEventListener("click", (event) => { const entry = ring[rowOf(event)]; if (entry) clicked(entry); });
  canvas.addEventListener("mousemove", (event) => { const box = canvas.getBoundingClientRect(); hovered((event.clientX - box.left) / box.width, ring[rowOf(event)], shown); });
  return { canvas, add, ring, clear: () => { ring.length = 0; ctx.fillStyle = "#050a30"; ctx.fillRect(0, 0, canvas.width, KEPT); } };
}
