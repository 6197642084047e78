// Requests to the service, frames of float32 arrays, and the event stream.
import { T } from "./text.js";

export class Problem extends Error {
  constructor(status, document) {
    super(document.hint ? `${document.title} (${document.hint})` : document.title);
    this.status = status;
  }
}

async function asked(response) {
  if (response.ok) return response;
  let document = { title: response.statusText || T.errors.offline };
  try { document = await response.json(); } catch { /* no document: the status says it */ }
  throw new Problem(response.status, document);
}

export async function get(path) {
  return (await asked(await fetch(`/api/v1/${path}`, { cache: "no-store" }))).json();
}

export async function post(path, body) {
  const response = await fetch(`/api/v1/${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return (await asked(response)).json();
}

// {header, arrays: {name: Float32Array}}, or null where there is nothing yet.
export async function frame(path) {
  const response = await asked(await fetch(`/api/v1/${path}`, { cache: "no-store" }));
  if (response.status === 204) return null;
  const data = await response.arrayBuffer();
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const arrays = {};
  let place = 4 + length;
  for (const { name, length: n } of header.arrays) {
    arrays[name] = new Float32Array(data, place, n);
    place += 4 * n;
  }
  return { header, arrays };
}

// Listens while the tab is visible; a browser has few connections per host.
export function listen(handlers) {
  let source = null;
  const open = () => {
    if (source) return;
    source = new EventSource("/api/stream");
    for (const [name, handle] of Object.entries(handlers)) {
      if (name === "error") source.onerror = () => {
        handle();
        if (source && source.readyState === EventSource.CLOSED) { close(); setTimeout(open, 2000); }
      };
      else source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  };
  const close = () => { if (source) source.close(); source = null; };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
}

export function token() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return "page-" + Array.from(random, (b) => b.toString(16).padStart(2, "0")).join("");
}
