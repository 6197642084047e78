// One measurement point: probabilities, waveform, trend, spectra with cursors, waterfall.
import { frame, get } from "./api.js";
import { acknowledge, attempt, label, store } from "./app.js";
import { h, iso, linkOf, modeWord, nameOf, number, panel, percent, stamp, stateWord, toast, when, zoneName } from "./dom.js";
import { zone } from "./fleet.js";
import { labelDialog } from "./label.js";
import { reportLink } from "./pages.js";
import { saveButtons } from "./save.js";
import { amplitude, G, lineDb, spectrum, trend, waterfall, waveform } from "./plots.js";
import { T } from "./text.js";

const RANGES = { "10 min": 600, "1 h": 3600, "6 h": 21600, "24 h": 86400, "7 d": 604800, "30 d": 2592000, "90 d": 7776000 };
const AXES = ["Hz", "orders", "CPM"];
const UNITS = ["g", "m/s²", "mm/s"];
const BUCKETS = 600;
const TREND_MS = 3000; // between two looks at the archive
const MARKED_HARMONICS = 12;
const SHOWN_ORDERS = 16; // of the spectrum at first; a double click shows all of it
const COLOURS = { shaft: "shaft", BPFO: "bpfo", BPFI: "bpfi", "2BSF": "bsf", FTF: "ftf" };

const toggle = (text, pressed, onclick, title) => h("button", { class: "small", "aria-pressed": String(pressed), title, onclick: (event) => event.currentTarget.setAttribute("aria-pressed", String(onclick())) }, text);
const choice = (name, values, chosen, onchange) => h("select", { class: "small", "aria-label": name, onchange: (event) => onchange(event.target.value) }, values.map((v) => h("option", { value: v, selected: v === chosen }, v)));

// How far the envelope is shown at first: a little beyond the highest line that is marked.
function envelopeHz(header) {
  const highest = Math.max(0, ...header.lines.map((line) => line.hz));
  return highest ? 1.1 * highest : 1e9;
}

function median(power) {
  const found = Float32Array.from(power).sort()[power.length >> 1];
  return found > 0 ? amplitude(found) : 1;
}

export function machineView(main, key, query) {
  const name = nameOf(key);
  const path = `streams/${encodeURIComponent(key.machine)}/${encodeURIComponent(key.point)}`;
  const me = { facts: null, shown: null, live: null, axis: AXES.includes(query.get("axis")) ? query.get("axis") : "Hz", unit: UNITS.includes(query.get("unit")) ? query.get("unit") : "", db: query.get("db") === "1", max: false, avg: false, base: true, harmonics: Math.max(0, Number(query.get("hz")) || 0), sidebands: false, closed: false };
  const opts = { feature: query.get("feature") || "velocity_rms", range: query.get("range") || "10 min", channel: query.get("channel"), to: Date.parse(query.get("to")) || null };
  const hold = { key: "", power: null, envelope: null, n: 0, sums: null };
  let trendShown = null;
  let labels = [];
  let busy = false;

  // -- what stays on the screen ----------------------------------------------------------------------------------
  const head = h("section", { class: "panel" });
  const bars = h("div", { class: "bars" });
  const barsHint = h("span", { class: "soft" });
  const evidence = h("p", { class: "soft" });
  const waveHint = h("span", { class: "soft" });
  const waveBox = h("div", { class: "plot" });
  const trendBox = h("div", { class: "plot", id: "trend" });
  const trendHint = h("span", { class: "soft" });
  const specBox = h("div", { class: "plot", id: "spectrum" });
  const envBox = h("div", { class: "plot", id: "envelope" });
  const specRead = h("p", { class: "readout", id: "spectrum-readout" });
  const envRead = h("p", { class: "readout", id: "envelope-readout" });
  const fallRead = h("p", { class: "readout" });
  const held = h("span", {});
  const fall = waterfall((entry) => { me.shown = entry; store.paused = true; held.replaceChildren(T.machine.held(`${stamp(entry.header.end)} `), h("button", { class: "small", onclick: resume }, T.machine.live)); drawWindow(); },
    (share, entry, bins) => { if (!entry) return; const hz = share * bins * entry.header.delta_f_hz; fallRead.textContent = `${stamp(entry.header.end)} · ${number(hz, 4)} Hz`; });
  const channels = h("span", {});
  const featureBox = h("input", { class: "small", value: opts.feature, "aria-label": T.machine.feature, size: 18, onchange: (e) => { opts.feature = e.target.value.trim(); address(); loadTrend(true); } });
  featureBox.setAttribute("list", "features");
  const featureList = h("datalist", { id: "features" });
  const range = choice(T.machine.range, Object.keys(RANGES), opts.range, (v) => { opts.range = v; address(); loadTrend(true); });
  const until = h("span", { class: "soft" });
  const move = [
    h("button", { class: "small", title: "←", onclick: () => shift(-0.5) }, T.past.back),
    h("button", { class: "small", title: "→", onclick: () => shift(0.5) }, T.past.on),
    h("button", { class: "small", onclick: () => shift(Infinity) }, T.past.now),
    h("button", { class: "small", title: T.past.linkHint, onclick: async () => { address(); try { await navigator.clipboard.writeText(location.href); toast(T.past.copied); } catch { toast(location.href); } } }, T.past.link),
  ];
  const axis = choice("Frequency axis", AXES, me.axis, (v) => { me.axis = v; address(); spec.remake(); env.remake(); drawWindow(true); });
  const units = choice(T.machine.unit, ["as measured", ...UNITS], me.unit || "as measured", (v) => { me.unit = v === "as measured" ? "" : v; address(); spec.remake(); drawWindow(true); });
  const tools = [
    axis, units,
    toggle("dB", me.db, () => { me.db = !me.db; address(); spec.remake(); env.remake(); drawWindow(true); return me.db; }),
    toggle(T.machine.avgHold, false, () => { me.avg = !me.avg; me.max = false; refreshTools(); drawWindow(true); return me.avg; }),
    toggle(T.machine.maxHold, false, () => { me.max = !me.max; me.avg = false; refreshTools(); drawWindow(true); return me.max; }),
    h("button", { class: "small", onclick: resetHold }, T.machine.reset),
    h("button", { class: "small", onclick: saveBaseline }, T.machine.saveBase),
    toggle(T.machine.showBase, true, () => { me.base = !me.base; if (me.base && !baseline()) toast(T.machine.noBase); drawWindow(true); return me.base; }),
    toggle(T.machine.harmonics, me.harmonics > 0, () => { toggleHarmonics(); return me.harmonics > 0; }, T.machine.slow),
    toggle(T.machine.sidebands, false, () => { me.sidebands = !me.sidebands; if (me.sidebands && !me.harmonics) toggleHarmonics(); drawWindow(); return me.sidebands; }),
  ];
  const [, , , avgButton, maxButton, , , , harmonicsButton] = tools;
  const refreshTools = () => { avgButton.setAttribute("aria-pressed", String(me.avg)); maxButton.setAttribute("aria-pressed", String(me.max)); };
  const saver = (what, made, names) => saveButtons(`${key.machine}-${key.point}-${what}`, {
    canvas: () => made().u.ctx.canvas,
    numbers: () => ({ head: names(), columns: made().u.data.slice(0, names().length) }),
    title: () => `${name} ${what} ${what === "trend" ? `${opts.feature} · ${opts.range}, ${T.past.until(iso(opts.to || Date.now()))}` : now() ? `${now().header.channel} · ${iso(now().header.end)}` : ""}`,
  });
  const spectral = (y) => () => [axisLabel(), y(), "hold", "baseline"];
  const saved = {
    waveform: saver("waveform", () => wave, () => ["ms", now() ? now().header.unit : ""]),
    trend: saver("trend", () => trendPlot, () => ["seconds since 1970 UTC", `${opts.feature} min`, "max", "mean"]),
    spectrum: saver("spectrum", () => spec, spectral(() => `${unitName()} peak${me.db ? " dB" : ""}`)),
    envelope: saver("envelope", () => env, spectral(() => (me.db ? "dB" : T.machine.relative))),
    waterfall: saveButtons(`${key.machine}-${key.point}-waterfall`, {
      canvas: () => fall.canvas,
      numbers: () => ({ head: ["Hz", ...fall.ring.map((entry) => iso(entry.header.end))], columns: fall.ring.length ? [Array.from(fall.ring[0].envelope, (_, k) => k * fall.ring[0].header.delta_f_hz), ...fall.ring.map((entry) => entry.envelope)] : [[]] }),
      title: () => `${name} ${T.machine.waterfall}`,
    }),
  };
  main.append(head,
    h("div", { class: "two" },
      h("section", { class: "panel" }, h("header", {}, h("h2", {}, T.machine.modes), barsHint), bars, evidence),
      h("section", { class: "panel" }, h("header", {}, h("h2", {}, T.machine.waveform), waveHint, h("span", { class: "grow" }), channels, saved.waveform), waveBox)),
    h("section", { class: "panel" }, h("header", {}, h("h2", {}, T.machine.trend), trendHint, h("span", { class: "grow" }), until, move, featureBox, featureList, range, saved.trend), trendBox),
    h("div", { class: "tools", role: "toolbar", "aria-label": T.machine.spectrum }, tools, held),
    h("div", { class: "two" },
      h("section", { class: "panel" }, h("header", {}, h("h2", {}, T.machine.spectrum), h("span", { class: "soft", id: "spectrum-hint" }), h("span", { class: "grow" }), saved.spectrum), specBox, specRead),
      h("section", { class: "panel" }, h("header", {}, h("h2", {}, T.machine.envelope), h("span", { class: "soft", id: "envelope-hint" }), h("span", { class: "grow" }), saved.envelope), envBox, envRead)),
    panel(T.machine.waterfall, T.machine.waterfallHint, saved.waterfall, fall.canvas, fallRead));

  const wave = waveform(waveBox);
  const trendPlot = trend(trendBox, { bands: zones, labels: labelBands, marks: () => (trendShown ? trendShown.header.marks.map((m) => ({ at: m.at / 1000, text: m.text })) : []), selected: (from, to) => openLabel({ from: from * 1000, to: to * 1000 }), unit: () => (trendShown ? trendShown.header.unit || null : null) });
  const axisLabel = () => ({ Hz: "Hz", orders: "orders of the shaft", CPM: "cycles per minute" })[me.axis];
  const spec = spectrum(specBox, () => ({ x: axisLabel(), y: `${unitName()}${me.db ? ", dB" : ", peak"}`, db: me.db }), {
    lines: () => [...marked((line) => line.family === "shaft"), ...mains()], extra: cursors, moved: (x) => { specRead.textContent = reading(x, "power"); }, grab,
  });
  const env = spectrum(envBox, () => ({ x: axisLabel(), y: me.db ? "dB" : T.machine.relative, db: me.db }), {
    lines: () => marked((line) => line.family !== "shaft" || line.label === "1x"), extra: cursors, moved: (x) => { envRead.textContent = reading(x, "envelope"); }, grab,
  });

  // -- units and places ---------------------------------------------------------------------------------------------
  function now() { return me.shown; }
  function shaftHz() { return now() && now().header.speed_rpm ? now().header.speed_rpm / 60 : null; }
  function scale() {
    if (me.axis === "CPM") return 60;
    return me.axis === "orders" && shaftHz() ? 1 / shaftHz() : 1;
  }
  function unitName() { return me.unit || (now() ? now().header.unit : ""); }
  // The factor from the unit of the samples to the chosen one, at a frequency.
  function factor(hz) {
    const have = now().header.unit;
    const want = unitName();
    if (want === have) return 1;
    const ms2 = have === "g" ? G : have === "m/s2" ? 1 : NaN;
    if (want === "m/s²") return ms2;
    if (want === "g") return ms2 / G;
    return hz > 0 ? (1000 * ms2) / (2 * Math.PI * hz) : NaN; // mm/s: integrated once
  }
  function level(value) { return me.db ? 20 * Math.log10(Math.max(value, 1e-12)) : value; }

  function marked(which) {
    if (!now()) return [];
    return now().header.lines.filter((line) => which(line) && (line.family !== "FTF" || line.label === "FTF")).map((line) => ({ x: line.hz * scale(), label: line.near ? `${line.label} ≈ ${line.near.split(" ")[0]}` : line.label, family: COLOURS[line.family] || "shaft" }));
  }

  function mains() {
    return now() ? [1, 2].map((k) => ({ x: k * now().header.mains_hz * scale(), label: T.machine.mains(k * now().header.mains_hz), family: "soft" })) : [];
  }

  function cursors() {
    if (!me.harmonics) return [];
    const found = [];
    for (let k = 1; k <= MARKED_HARMONICS; k++) found.push({ x: k * me.harmonics * scale(), main: k === 1 });
    if (me.sidebands && shaftHz()) for (const side of [-2, -1, 1, 2]) found.push({ x: (me.harmonics + side * shaftHz()) * scale() });
    return found;
  }

  function grab(x, u, dragging) {
    if (!me.harmonics) return false;
    const near = Math.abs(u.valToPos(x, "x") - u.valToPos(me.harmonics * scale(), "x"));
    if (!dragging && near > 8) { me.harmonics = Math.max(x / scale(), 1e-3); drawWindow(); return true; }
    me.harmonics = Math.max(x / scale(), 1e-3);
    address();
    spec.u.redraw(false); env.u.redraw(false);
    return true;
  }

  function toggleHarmonics() {
    me.harmonics = me.harmonics ? 0 : shaftHz() || 25;
    harmonicsButton.setAttribute("aria-pressed", String(me.harmonics > 0));
    address();
    drawWindow();
  }

  // What stands at a place: frequency, order, amplitude, how far over the floor, and which line it is.
  function reading(x, what) {
    if (x === null || x === undefined || !now()) return "";
    const { header } = now();
    const power = now()[what];
    const hz = x / scale();
    const k = Math.round(hz / header.delta_f_hz);
    if (k < 0 || k >= power.length) return "";
    const parts = [`${number(hz, 5)} Hz`];
    if (shaftHz()) parts.push(`${number(hz / shaftHz(), 4)}x`);
    parts.push(what === "power" ? `${number(amplitude(power[k]) * factor(hz), 4)} ${unitName()} peak` : `${number(amplitude(power[k]) / median(power), 3)} × floor`);
    let nearest = null;
    for (const line of header.lines) if (what === "envelope" || line.family === "shaft") if (!nearest || Math.abs(line.hz - hz) < Math.abs(nearest.hz - hz)) nearest = line;
    const resolution = Math.max(2 * header.delta_f_hz, header.slip * hz);
    if (nearest && Math.abs(nearest.hz - hz) <= header.delta_f_hz / 2 + header.slip * nearest.hz / 2) {
      if (nearest.feature && what === "power") parts.push(T.machine.floor(number(lineDb(power, nearest.hz / header.delta_f_hz, header.slip), 4)));
      else if (nearest.db !== null) parts.push(T.machine.floor(number(nearest.db, 4)));
      parts.push(nearest.near ? `${nearest.label}: ${T.machine.near(nearest.near)}` : T.machine.match(nearest.label));
    } else {
      parts.push(T.machine.floor(number(lineDb(power, hz / header.delta_f_hz, 0), 3)));
      if (nearest && Math.abs(nearest.hz - hz) < 4 * resolution) parts.push(T.machine.noMatch(nearest.label, `${number(nearest.hz - hz, 3)} Hz`));
    }
    if (me.harmonics) parts.push(`harmonics of ${number(me.harmonics, 5)} Hz`);
    return parts.join(" · ");
  }

  // -- holds and baseline -----------------------------------------------------------------------------------------
  function keep(entry) {
    const of = `${entry.header.channel} ${entry.power.length} ${entry.header.delta_f_hz}`;
    if (hold.key !== of) Object.assign(hold, { key: of, n: 0, max: null, sum: null });
    const both = [entry.power, entry.envelope];
    if (!hold.n) { hold.max = both.map((a) => Float32Array.from(a)); hold.sum = both.map((a) => Float64Array.from(a)); }
    else both.forEach((a, j) => { for (let k = 0; k < a.length; k++) { hold.sum[j][k] += a[k]; if (a[k] > hold.max[j][k]) hold.max[j][k] = a[k]; } });
    hold.n += 1;
  }
  function resetHold() { hold.n = 0; hold.key = ""; if (me.live) keep(me.live); drawWindow(); }
  function holdOf(j) {
    if (!hold.n) return null;
    if (me.max) return hold.max[j];
    return me.avg ? hold.sum[j].map((v) => v / hold.n) : null;
  }
  const baseKey = () => `thrumcast.baseline ${name} ${now() ? now().header.channel : ""}`;
  let baseRead = { key: "", value: null };
  function baseline() {
    if (baseRead.key !== baseKey()) {
      let value = null;
      try { value = JSON.parse(localStorage.getItem(baseKey())); } catch { /* no storage */ }
      const unpack = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
      baseRead = { key: baseKey(), value: value && { ...value, power: unpack(value.power), envelope: unpack(value.envelope) } };
    }
    const found = baseRead.value;
    return found && now() && found.delta_f_hz === now().header.delta_f_hz && found.power.length === now().power.length ? found : null;
  }
  function saveBaseline() {
    if (!hold.n || !now()) return;
    const pack = (a) => { let s = ""; for (const b of new Uint8Array(Float32Array.from(a).buffer)) s += String.fromCharCode(b); return btoa(s); };
    const [power, envelope] = hold.sum.map((a) => a.map((v) => v / hold.n)); // the average since the last reset
    try {
      localStorage.setItem(baseKey(), JSON.stringify({ at: Date.now(), n: hold.n, delta_f_hz: now().header.delta_f_hz, power: pack(power), envelope: pack(envelope) }));
      toast(T.machine.baseSaved);
    } catch (error) { toast(String(error)); }
    baseRead = { key: "", value: null };
    drawWindow();
  }

  // -- drawing ----------------------------------------------------------------------------------------------------
  function drawWindow(rescale) {
    const entry = now();
    if (!entry || me.closed) return;
    const { header, power, envelope } = entry;
    const step = header.delta_f_hz * scale();
    const unit = (a) => (a ? Array.from(a, (p, k) => (k < 2 ? null : level(amplitude(p) * factor(k * header.delta_f_hz)))) : []);
    const floor = median(envelope); // the envelope is whitened: its floor is the measure
    const plain = (a) => (a ? Array.from(a, (p, k) => (k < 2 ? null : level(amplitude(p) / floor))) : []);
    const base = me.base ? baseline() : null;
    const anew = rescale || !spec.u.data[0].length;
    if (!spec.u.data[0].length) { spec.remake(); env.remake(); }
    const fill = (made, values, convert, j, baseValues, usualHz) => {
      const x = Array.from(values, (_, k) => k * step);
      const pad = (a) => (a.length ? a : x.map(() => null));
      const { min, max } = made.u.scales.x;
      made.set([x, convert(values), pad(convert(holdOf(j))), pad(convert(baseValues))], false);
      made.u.setScale("x", anew ? { min: 0, max: Math.min(usualHz * scale(), x.length ? x[x.length - 1] : 1) } : { min, max });
    };
    fill(spec, power, unit, 0, base && base.power, shaftHz() ? SHOWN_ORDERS * shaftHz() : Infinity);
    fill(env, envelope, plain, 1, base && base.envelope, envelopeHz(header));
    const rate = header.rate_hz;
    wave.set([Array.from(entry.waveform, (_, i) => (1000 * i) / rate), entry.waveform], false);
    waveHint.textContent = `${header.unit}, ${number(1000 * entry.waveform.length / rate, 4)} ms, ${stamp(header.end)}`;
    document.getElementById("spectrum-hint").textContent = `${number(header.delta_f_hz, 3)} Hz lines, Hann · ${header.speed_rpm ? `1x = ${number(header.speed_rpm / 60, 4)} Hz` : T.machine.speedUnknown}`;
    document.getElementById("envelope-hint").textContent = envelope.length ? `${number(header.envelope_hz[0], 4)}–${number(header.envelope_hz[1], 4)} Hz, whitened` : T.machine.noEnvelope;
    if (channels.childElementCount !== 1 || channels.dataset.said !== header.channels.join()) {
      channels.dataset.said = header.channels.join();
      channels.replaceChildren(choice(T.machine.channel, header.channels, header.channel, (v) => { opts.channel = v; address(); fall.clear(); hold.n = 0; me.live = null; loadWindow(); loadTrend(true); }));
    }
  }

  function resume() { store.paused = false; me.shown = me.live; held.replaceChildren(); drawWindow(); }

  function zones() {
    const limits = trendShown && trendShown.header.limits;
    if (!limits) return [];
    const [a, b, c] = limits.mm_s;
    return [["A", 0, a], ["B", a, b], ["C", b, c], ["D", c, Infinity]].map(([z, from, to]) => ({ zone: z, from, to }));
  }
  function labelBands() {
    return labels.map((l) => ({ from: l.start_ms / 1000, to: l.end_ms / 1000, text: modeWord(l.mode) || T.label.verdicts[l.verdict] }));
  }

  function openLabel(given) {
    if (!store.me.may_change) return;
    const alarm = store.alarms.find((a) => nameOf(a) === name);
    const until = Date.now();
    const usual = alarm ? { from: alarm.since, to: until } : { from: until - 600e3, to: until };
    labelDialog({ ...key, ...usual, ...given }, () => loadLabels());
  }

  function drawHead() {
    const f = me.facts;
    const alarms = store.alarms.filter((a) => nameOf(a) === name);
    const seen = alarms.find((a) => !a.acknowledged);
    const facts = f ? [f.area, f.speed_rpm ? `${number(f.speed_rpm, 5)} rpm (${number(f.speed_rpm / 60, 4)} Hz)` : T.machine.speedUnknown, f.bearing ? `bearing ${f.bearing}` : f.orders ? `bearing BPFO ${number(f.orders.bpfo, 4)}x, BPFI ${number(f.orders.bpfi, 4)}x` : null,
      f.gear_teeth.length ? `gear ${f.gear_teeth.join("/")} teeth` : null, `${number(f.rate_hz, 6)} Hz`,
      f.limits ? `${f.limits.source}: ${f.limits.mm_s.map((v) => number(v)).join(" / ")} mm/s` : f.zone_note, f.budget] : [];
    head.replaceChildren(h("header", {}, h("h1", {}, f ? label(f) : name), f ? stateWord(f.state) : null, f ? zone(f) : null,
      f && f.velocity_rms_mm_s !== null ? h("b", {}, `${number(f.velocity_rms_mm_s)} mm/s`) : null,
      h("span", { class: "grow" }),
      h("div", { class: "tools" },
        seen ? h("button", { class: "change", onclick: () => acknowledge(seen.id) }, T.machine.ack) : null,
        f && f.mode && f.mode !== "healthy" ? h("button", { class: "change", onclick: () => openLabel({ verdict: "confirmed", mode: f.mode }) }, T.machine.confirm) : null,
        f && f.mode && f.mode !== "healthy" ? h("button", { class: "change", onclick: () => openLabel({ verdict: "false_alarm", mode: "healthy" }) }, T.machine.wrong) : null,
        h("button", { class: "primary change", onclick: () => openLabel({}) }, T.machine.label))),
    h("span", { class: "soft" }, facts.filter(Boolean).join(" · ")),
    ...alarms.map((a) => h("p", {}, stateWord("alarm"), ` ${modeWord(a.shown)} ${percent(a.p)} · ${a.evidence.join("; ") || T.alarms.noEvidence}`, a.confirmed === false ? h("b", {}, ` (${T.alarms.unconfirmed})`) : null, " ", reportLink(a))));
    if (!f) return;
    const rows = Object.entries(f.probabilities).sort((a, b) => b[1] - a[1]);
    barsHint.textContent = rows.length ? T.machine.carried(stamp(f.state_since), f.model) : T.machine.noModel;
    bars.replaceChildren(...rows.flatMap(([mode, p], i) => {
      const bar = h("span", { class: `bar ${i === 0 ? "top" : ""} ${mode}` });
      bar.style.width = `${Math.max(0.5, 100 * p)}%`;
      return [h("span", {}, modeWord(mode)), bar, h("span", { class: "number" }, percent(p))];
    }));
    evidence.replaceChildren(h("b", {}, `${T.machine.evidence}: `), f.evidence.join("; ") || T.alarms.noEvidence, f.confirmed === false ? h("b", {}, ` (${modeWord(f.mode)}: ${T.alarms.unconfirmed})`) : "");
    if (!featureList.childElementCount) featureList.replaceChildren(...f.features.map((x) => h("option", { value: x.name }, x.unit)));
  }

  // -- loading ------------------------------------------------------------------------------------------------------
  async function loadWindow() {
    if (busy || me.closed) return;
    busy = true;
    const found = await attempt(() => frame(`${path}/window${opts.channel ? `?channel=${encodeURIComponent(opts.channel)}` : ""}`));
    busy = false;
    if (me.closed) return;
    if (!found) { if (!me.live) waveHint.textContent = T.machine.waiting; return; }
    const entry = { header: found.header, ...found.arrays };
    const last = me.live && me.live.header;
    if (last && last.window === entry.header.window && last.session === entry.header.session && last.channel === entry.header.channel) return;
    me.live = entry;
    keep(entry);
    fall.add(entry, Math.ceil(envelopeHz(entry.header) / entry.header.delta_f_hz));
    if (!store.paused) { me.shown = entry; drawWindow(); }
  }
  async function loadFacts() {
    const found = await attempt(() => get(path));
    if (found && !me.closed) { me.facts = found; drawHead(); }
  }
  let asked = 0;
  async function loadTrend(force) {
    if (!force && (Date.now() - asked < TREND_MS || trendPlot.u.select.width > 0)) return; // frozen during a selection
    asked = Date.now();
    const to = opts.to || Date.now();
    until.textContent = opts.to ? T.past.until(`${when(opts.to)} ${zoneName(opts.to)}`) : "";
    const from = to - 1000 * (RANGES[opts.range] || 3600);
    const q = new URLSearchParams({ feature: opts.feature, from: String(from), to: String(to), buckets: String(BUCKETS) });
    if (opts.channel) q.set("channel", opts.channel);
    const found = await attempt(() => frame(`${path}/trend?${q}`));
    if (!found || me.closed) return;
    const unitChanged = !trendShown || trendShown.header.unit !== found.header.unit;
    trendShown = found;
    const { header, arrays } = found;
    const width = (header.to - header.from) / header.buckets / 1000;
    const x = Array.from({ length: header.buckets }, (_, i) => header.from / 1000 + (i + 0.5) * width);
    const clean = (a) => Array.from(a, (v) => (Number.isFinite(v) ? v : null));
    if (unitChanged) trendPlot.remake();
    const mean = clean(arrays.mean); // a bucket may be shorter than the hop: join over single empty ones
    for (let i = 1, lastAt = -1; i < mean.length; i++) if (mean[i] !== null) { if (lastAt >= 0 && i - lastAt > 1 && (i - lastAt) * width < 3 * (me.facts ? me.facts.hop_s : 1)) for (let j = lastAt + 1; j < i; j++) mean[j] = mean[lastAt]; lastAt = i; }
    trendPlot.set([x, clean(arrays.min), clean(arrays.max), mean], false);
    trendHint.textContent = `${opts.feature}${header.unit ? `, ${header.unit}` : ""} · ${header.channel} · ${T.machine.rows(header.rows)} · ${T.machine.trendHint}`;
  }
  async function loadLabels() {
    const found = await attempt(() => get(`labels?machine=${encodeURIComponent(key.machine)}`));
    if (!found || me.closed) return;
    labels = found.labels.filter((l) => !l.retracted && (!l.point || l.point === key.point));
    trendPlot.u.redraw(false);
  }
  // To an earlier or later end of the trend, in shares of the range; from the present on it follows the clock.
  function shift(share) {
    const to = (opts.to || Date.now()) + share * 1000 * (RANGES[opts.range] || 3600);
    opts.to = to < Date.now() ? Math.max(to, 0) : null;
    address();
    loadTrend(true);
  }
  function address() {
    const q = new URLSearchParams({ feature: opts.feature, range: opts.range });
    if (opts.channel) q.set("channel", opts.channel);
    if (opts.to) q.set("to", iso(opts.to));
    if (me.axis !== "Hz") q.set("axis", me.axis);
    if (me.unit) q.set("unit", me.unit);
    if (me.db) q.set("db", "1");
    if (me.harmonics) q.set("hz", String(Number(me.harmonics.toPrecision(6))));
    history.replaceState(null, "", `${linkOf(key)}?${q}`);
  }

  loadFacts().then(() => { loadTrend(true); loadLabels(); loadWindow(); });
  const timer = setInterval(() => { if (!document.hidden && !store.paused && !opts.to) loadTrend(false); }, 1000);
  return {
    update: (content) => {
      if (content.streams.some((s) => nameOf(s) === name)) { loadWindow(); loadFacts(); } else if (content.alarms) drawHead();
    },
    changed: () => { loadLabels(); },
    key: (event) => {
      if (event.key === "l" || event.key === "L") { event.preventDefault(); openLabel({}); }
      else if (event.key === "ArrowLeft" || event.key === "ArrowRight") shift(event.key === "ArrowLeft" ? -0.5 : 0.5);
      else if (event.key === "h" || event.key === "H") toggleHarmonics();
      else if (event.key === "a" || event.key === "A") { const seen = store.alarms.find((a) => nameOf(a) === name && !a.acknowledged); if (seen) acknowledge(seen.id); }
    },
    close: () => { me.closed = true; clearInterval(timer); for (const made of [wave, trendPlot, spec, env]) made.destroy(); },
  };
}
