// The guided strip of `thrumcast demo`: what to look at now, and buttons to break things.
import { get, post } from "./api.js";
import { attempt, store } from "./app.js";
import { h, linkOf } from "./dom.js";

const RESTS_S = 10; // how long an act that was seen stays before the next one is announced
const T = {
  title: "Guide of the demo",
  soon: (s, text) => `In ${s} s: ${text}`,
  look: "look at it",
  begin: "Eight simulated machines. All of them are sound so far.",
  yours: "Now break something yourself: choose a machine and press a button. A machine recovers with Repair.",
  killed: "The service was ended with kill -9. The demo starts it again, this page reconnects by itself, and what the broker kept is delivered again: no reading is lost.",
  ordered: {
    damage: (m) => `An inner race of ${m} begins to break. Expect an alarm in about half a minute; then open it and look for the BPFI line in the envelope spectrum.`,
    unbalance: (m) => `${m} loses its balance. Expect 1x to grow in its spectrum, and an alarm in about half a minute.`,
    cut: (m) => `The cable of ${m} is cut. That is a sensor fault, and no verdict on the machine.`,
    repair: (m) => `${m} is repaired. An alarm clears once the machine has been well for 15 seconds.`,
  },
  doings: { damage: "Damage a bearing", unbalance: "Unbalance", cut: "Cut the cable", repair: "Repair", kill: "Kill the service" },
  machine: "Machine to break",
  acts: {
    stop: ["A stop", "somebody stops a fan.", "The fan runs down. Nothing is judged while a machine stands.", "The fan is stopped: grey, and no alarm. It starts again a minute after it was switched off."],
    bearing: ["A bearing", "the outer race of a pump's bearing begins to break.", "The outer race is breaking. It cannot be seen yet; the alarm comes when its line stands in the envelope spectrum.", "Alarm: outer race. Open the pump: the line at BPFO and its harmonics are the evidence."],
    sensor: ["A sensor", "a cable comes off a motor.", "The cable is off.", "A sensor fault, and no alarm: a dead sensor says nothing about its motor. It is plugged in again soon."],
    unknown: ["A stranger", "the seal of a fan runs dry and squeals. No model was trained on that.", "The seal begins to squeal.", "Unknown: the fan is not well, and none of the known names fits. thrumcast says so instead of guessing."],
  },
};

const seen = new Map(); // act -> when
let facts = null;
let offset = 0; // of the server's clock
let said = null; // {text, until}, after a button
let shown = "";

const streamOf = (machine) => [...store.streams.values()].find((s) => s.machine === machine);
const now = () => (Date.now() + offset - facts.began) / 1000;

function watch() {
  for (const act of facts.acts) {
    const s = streamOf(act.machine);
    if (!seen.has(act.id) && s && now() >= act.at_s && s.state === act.state && (!act.mode || s.mode === act.mode)) seen.set(act.id, now());
  }
}

// The text to show, and the machine to link to.
function word() {
  if (said && said.until > Date.now()) return [said.text, said.machine];
  const acts = [...facts.acts].sort((a, b) => a.at_s - b.at_s);
  const begun = acts.filter((a) => a.at_s <= now());
  const next = acts.find((a) => a.at_s > now());
  const fresh = begun.filter((a) => seen.has(a.id) && now() - seen.get(a.id) < RESTS_S).at(-1);
  if (fresh) return [T.acts[fresh.id][3], fresh.machine, fresh.id];
  const open = begun.find((a) => !seen.has(a.id));
  if (next && (!open || next.at_s - now() < 5)) return [`${begun.length ? "" : `${T.begin} `}${T.soon(Math.ceil(next.at_s - now()), T.acts[next.id][1])}`, next.machine, next.id];
  if (open) return [T.acts[open.id][2], open.machine, open.id];
  return [T.yours, null];
}

function draw() {
  watch();
  const [text, machine, at] = word();
  const signature = text + [...seen.keys()].join() + at;
  if (signature === shown) return;
  shown = signature;
  const s = machine && streamOf(machine);
  words.replaceChildren(text, s ? " " : "", s ? h("a", { href: linkOf(s) }, `${machine}: ${T.look}`) : "");
  list.replaceChildren(...facts.acts.map((a) => h("li", { "aria-current": a.id === at ? "step" : null }, `${seen.has(a.id) ? "✓" : "○"} ${T.acts[a.id][0]}`)));
}

async function order(what) {
  const machine = choice.value;
  const done = await attempt(() => post("demo", { do: what, machine }));
  if (!done) return;
  said = what === "kill" ? { text: T.killed, machine: null, until: Date.now() + 20e3 } : { text: T.ordered[what](machine), machine, until: Date.now() + 30e3 };
  draw();
}

const words = h("p", { role: "status" });
const list = h("ol", {});
const choice = h("select", { "aria-label": T.machine });

async function begin() {
  facts = await attempt(() => get("demo"));
  if (!facts) { setTimeout(begin, 2000); return; }
  offset = facts.now - Date.now();
  const busy = new Set(facts.acts.map((a) => a.machine));
  const free = facts.machines.filter((m) => !busy.has(m));
  choice.replaceChildren(...[...free, ...facts.machines.filter((m) => busy.has(m))].map((m) => h("option", { value: m }, m)));
  const buttons = facts.doings.map((what) => h("button", { class: what === "kill" ? "kill" : "", onclick: () => order(what) }, T.doings[what]));
  document.body.append(h("section", { id: "guide", "aria-label": T.title }, h("div", {}, list, words), h("div", { class: "tools" }, choice, ...buttons)));
  draw();
  setInterval(draw, 500);
}

begin();
