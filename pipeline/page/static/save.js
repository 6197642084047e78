// What a panel shows, as a file: its numbers as CSV, its picture as PNG. Both are made in the browser.
import { colour, h, iso } from "./dom.js";
import { T } from "./text.js";

function download(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10e3);
}

// A cell that begins like a formula would be run by a spreadsheet.
const cell = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

export function csv(head, columns) {
  const rows = Array.from(columns[0] || [], (_, i) => columns.map((column) => cell(column[i])).join(","));
  return [head.map(cell).join(","), ...rows].join("\r\n") + "\r\n";
}

// The picture on a ground: the canvas of a plot has none. `title` says what it shows.
function picture(canvas, title) {
  const bar = 26 * devicePixelRatio;
  const made = h("canvas", { width: Math.max(canvas.width, 600), height: canvas.height + bar });
  const ctx = made.getContext("2d");
  ctx.fillStyle = colour("panel");
  ctx.fillRect(0, 0, made.width, made.height);
  ctx.fillStyle = colour("ink");
  ctx.font = `${13 * devicePixelRatio}px DejaVu Sans, system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.fillText(title, 8 * devicePixelRatio, bar / 2);
  ctx.drawImage(canvas, 0, bar);
  return made;
}

// Two buttons. canvas() and numbers() -> {head, columns} are asked when one is pressed; title() stands in the picture.
export function saveButtons(name, { canvas, numbers, title }) {
  const file = (kind) => `${name}-${iso(Date.now()).replaceAll(":", "")}.${kind}`;
  return [
    h("button", { class: "small", title: T.save.csvOf(name), "aria-label": T.save.csvOf(name), onclick: () => { const { head, columns } = numbers(); download(file("csv"), new Blob([csv(head, columns)], { type: "text/csv" })); } }, T.save.csv),
    h("button", { class: "small", title: T.save.pngOf(name), "aria-label": T.save.pngOf(name), onclick: () => picture(canvas(), title()).toBlob((blob) => download(file("png"), blob), "image/png") }, T.save.png),
  ];
}
