// The page of `gfs checkpoint serve`. Names of files are hostile: they become text nodes, never markup.
"use strict";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const MAP_WIDTH = 1000;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

function bytes(count) {
  let unit = 0, amount = count;
  while (amount >= 1024 && unit < UNITS.length - 1) { amount /= 1024; unit += 1; }
  return unit ? `${amount.toFixed(1)} ${UNITS[unit]}` : `${count} B`;
}
const number = (count) => count.toLocaleString("en");
const time = (ms) => (ms ? new Date(ms).toISOString().slice(0, 19).replace("T", " ") : "–");
const hex = (handle) => BigInt(handle).toString(16).padStart(16, "0");
const counted = (count, noun, many) => `${number(count)} ${count === 1 ? noun : many || noun + "s"}`;

// Control characters, and those that turn the direction of writing, are shown as what they are.
function visible(name) {
  return name.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"));
}

function make(tag, attributes, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}
function draw(tag, attributes, ...inside) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}

async function ask(place, query, method) {
  const told = await fetch(`${place}?${new URLSearchParams(query || {})}`, { method: method || "GET" });
  const answer = await told.json();
  if (!told.ok) throw new Error(answer.message || `the program answered ${told.status}`);
  return answer;
}

// --- where we are: in the address, so that going back works ---------------------------------------

function here() {
  const found = new URLSearchParams(location.hash.slice(1));
  return { path: found.get("path") || "/", by: found.get("by") === "files" ? "files" : "bytes" };
}
const link = (path, by) => "#" + new URLSearchParams({ path, by: by || here().by });
const below = (path, name) => (path === "/" ? "" : path) + "/" + name;

function crumbs(path, by) {
  const names = path.split("/").filter(Boolean);
  const parts = [make("a", { href: link("/", by) }, "/")];
  names.forEach((name, depth) => {
    if (depth) parts.push("/");
    const above = "/" + names.slice(0, depth + 1).join("/");
    parts.push(depth + 1 < names.length ? make("a", { href: link(above, by) }, visible(name)) : visible(name));
  });
  at("crumbs").replaceChildren(...parts);
}

let asked = 0;  // answers to earlier questions come to nothing
async function show() {
  const turn = ++asked, { path, by } = here();
  at("path").value = path;
  document.querySelector(`input[name=by][value=${by}]`).checked = true;
  crumbs(path, by);
  try {
    const detail = await ask("api/path", { path });
    const parts = detail.kind === "directory" ? await directory(detail, by) : file(detail);
    if (turn !== asked) return;
    at("message").textContent = "";
    at("place").replaceChildren(...parts);
  } catch (error) {
    if (turn !== asked) return;
    at("message").textContent = error.message;
    at("place").replaceChildren();
  }
}

// --- a directory ------------------------------------------------------------------------------------

async function directory(detail, by) {
  const [map, page] = await Promise.all([
    ask("api/map", { path: detail.path, by }), ask("api/entries", { path: detail.path })]);
  const all = by === "bytes" ? map.content_bytes : map.files;
  const parts = [facts([
    ["files below", number(map.files)], ["directories below", number(map.directories)],
    ["content", bytes(map.content_bytes)], ["mode", detail.mode],
    ["owner", owner(detail)],
    ["inode", String(detail.inode)], ["modified (UTC)", time(detail.modified_ms)]])];
  if (all > 0) parts.push(treemap(map, all, by), legend(map));
  parts.push(entries(detail.path, page));
  return parts;
}

function owner(detail) {
  const group = detail.group ? `:${detail.group}` : "";
  return visible((detail.owner || "superuser") + group);
}

function facts(pairs) {
  return make("dl", {}, ...pairs.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function legend(map) {
  const told = [make("span", {}, make("i", { class: "d" }), "directory"),
    make("span", {}, make("i", { class: "f" }), "file")];
  if (!map.is_all) told.push(`the biggest of the first ${number(map.looked_at)} entries`);
  return make("p", { class: "legend" }, ...told);
}

// Rows of cells that are as square as they can be (Bruls, Huizing, van Wijk 2000).
function squarify(cells, width, height) {
  const placed = [];
  let x = 0, y = 0, rest = cells.filter((cell) => cell.area > 0);
  while (rest.length) {
    const side = Math.min(width - x, height - y);
    let row = [], sum = 0, worst = Infinity;
    for (const cell of rest) {
      const total = sum + cell.area, along = total / side;
      const shape = Math.max(...[...row, cell].map((c) => Math.max(along * along / c.area, c.area / (along * along))));
      if (row.length && shape > worst) break;
      row.push(cell); sum = total; worst = shape;
    }
    const thick = sum / side, lies = width - x < height - y;
    let offset = 0;
    for (const cell of row) {
      const long = cell.area / thick;
      placed.push(lies ? { ...cell, x: x + offset, y, w: long, h: thick } : { ...cell, x, y: y + offset, w: thick, h: long });
      offset += long;
    }
    if (lies) y += thick; else x += thick;
    rest = rest.slice(row.length);
  }
  return placed;
}

function treemap(map, all, by) {
  // In pixels, so that letters keep their size whatever the width of the window.
  const width = Math.max(280, Math.min(MAP_WIDTH * 1.25, at("place").clientWidth || MAP_WIDTH));
  const height = Math.round(Math.min(480, Math.max(260, width * 0.48)));
  const amount = (entry) => (by === "bytes" ? entry.content_bytes : entry.files);
  const shown = map.biggest.reduce((sum, entry) => sum + amount(entry), 0);
  const scale = (width * height) / Math.max(all, shown);
  const cells = map.biggest.map((entry) => ({ entry, area: amount(entry) * scale }));
  if (all > shown) cells.push({ entry: null, area: (all - shown) * scale });
  cells.sort((a, b) => b.area - a.area);
  const svg = draw("svg", { class: "map", viewBox: `0 0 ${width} ${height}`, role: "group",
    "aria-label": `What is biggest in ${visible(map.path)}, by ${by}` });
  for (const cell of squarify(cells, width, height)) svg.append(drawn(cell, map.path, by, all, amount));
  return svg;
}

function drawn({ entry, x, y, w, h }, path, by, all, amount) {
  const kind = !entry ? "rest" : entry.is_directory ? "dir" : "file";
  const name = entry ? visible(entry.name) + (entry.is_directory ? "/" : "") : "all others";
  const much = entry ? (by === "bytes" ? bytes(amount(entry)) : counted(amount(entry), "file")) : "";
  const cell = draw(entry ? "a" : "g", entry ? { class: kind, href: link(below(path, entry.name), by),
    "aria-label": `${name}, ${much}` } : { class: kind });
  cell.append(draw("title", {}, `${name}\n${much}`), draw("rect", { x, y, width: w, height: h }));
  const letters = Math.floor((w - 12) / 7.3);
  if (letters >= 3 && h >= 20) {
    const short = name.length > letters ? name.slice(0, letters - 1) + "…" : name;
    cell.append(draw("text", { x: x + 6, y: y + 16 }, short));
    if (h >= 38 && much.length <= letters) cell.append(draw("text", { x: x + 6, y: y + 31, class: "sub" }, much));
  }
  return cell;
}

function entries(path, page) {
  const body = make("tbody", {});
  const table = make("table", {}, make("caption", { class: "hidden" }, "Entries by name"),
    make("thead", {}, make("tr", {}, make("th", {}, "name"), make("th", { class: "n" }, "content"),
      make("th", { class: "n" }, "files"), make("th", { class: "wide" }, "modified (UTC)"))), body);
  const box = make("div", {}, make("div", { class: "scroll" }, table));
  const add = (found) => {
    for (const one of found.entries) {
      const name = visible(one.name) + (one.is_directory ? "/" : "");
      body.append(make("tr", {},
        make("td", { class: "w mono" }, make("a", { href: link(below(path, one.name)) }, name)),
        make("td", { class: "n" }, bytes(one.content_bytes)),
        make("td", { class: "n" }, one.is_directory ? number(one.files) : ""),
        make("td", { class: "wide nw" }, time(one.modified_ms))));
    }
    if (!found.more) return;
    const more = make("button", { class: "more" }, "More entries");
    const after = found.entries[found.entries.length - 1].name;
    more.addEventListener("click", async () => {
      more.disabled = true;
      try {
        const next = await ask("api/entries", { path, after });
        more.remove();
        add(next);
      } catch (error) { at("message").textContent = error.message; }
    });
    box.append(more);
  };
  if (!page.entries.length) return make("p", { class: "quiet" }, "This directory is empty.");
  add(page);
  return box;
}

// --- a file -----------------------------------------------------------------------------------------

function file(detail) {
  const exact = detail.length_exact ? "" : " or more (it was being written)";
  const parts = [facts([
    ["length", `${bytes(detail.length_bytes)}${exact}`], ["in bytes", number(detail.length_bytes)],
    ["chunks", number(detail.chunk_count)], ["goal", counted(detail.replication_goal, "replica")],
    ["mode", detail.mode], ["owner", owner(detail)],
    ["inode", String(detail.inode)], ["created (UTC)", time(detail.created_ms)],
    ["modified (UTC)", time(detail.modified_ms)]])];
  if (!detail.chunks.length) return [...parts, make("p", { class: "quiet" }, "It has no chunk.")];
  const head = ["chunk", "handle", "version", "files", "state", "primary", "replicas"];
  const rows = detail.chunks.map((one) => make("tr", {},
    make("td", { class: "n" }, number(one.index)), make("td", { class: "mono nw" }, hex(one.handle)),
    make("td", { class: "n" }, number(one.version)), make("td", { class: "n" }, number(one.files)),
    make("td", { class: "nw" }, one.sealed ? `sealed at ${bytes(one.length_bytes)}` : "open"),
    make("td", { class: "mono nw" }, visible(one.primary)), make("td", { class: "mono" }, visible(one.replicas.join(" ")))));
  parts.push(make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((name, column) => make("th", column % 2 === 0 && column < 4 || column === 3 ? { class: "n" } : {}, name)))),
    make("tbody", {}, ...rows))));
  if (detail.chunk_count > rows.length) {
    parts.push(make("p", { class: "quiet" }, `… and ${number(detail.chunk_count - rows.length)} more chunks`));
  }
  return parts;
}

// --- what takes a while -------------------------------------------------------------------------------

function slowly(button, box, work) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "Reading the whole checkpoint …";
    try {
      box.replaceChildren(...await work());
    } catch (error) {
      box.replaceChildren(make("p", { class: "bad" }, error.message));
    }
  });
}

async function sizes() {
  const found = await ask("api/sizes");
  const most = Math.max(1, ...found.sizes.map((one) => one.files));
  const rows = found.sizes.map((one) => {
    const bar = draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { x: 0, y: 1, width: Math.max(0.4, 100 * one.files / most), height: 8, rx: 0.6 }));
    return make("tr", {}, make("td", { class: "n" }, one.bytes_max ? `≤ ${bytes(one.bytes_max)}` : "empty"),
      make("td", { class: "n" }, number(one.files)), make("td", { class: "bar" }, bar),
      make("td", { class: "n wide" }, bytes(one.content_bytes)));
  });
  const replicas = Object.entries(found.replicas).map(([size, count]) => `${number(count)} with ${size}`).join(", ");
  return [make("table", { class: "bars" }, make("thead", {}, make("tr", {}, make("th", { class: "n" }, "length"),
    make("th", { class: "n" }, "files"), make("th", {}, ""), make("th", { class: "n wide" }, "together"))),
  make("tbody", {}, ...rows)),
  make("p", { class: "quiet" }, `Chunks by their replicas: ${replicas || "none"}; ${number(found.shared_chunks)} shared, ${number(found.sealed_chunks)} sealed.`)];
}

async function verdict() {
  const [found] = await ask("api/verify", {}, "POST");
  const count = Object.values(found.counts).reduce((sum, one) => sum + one, 0);
  if (!count) return [make("p", {}, make("span", { class: "good" }, "Sound: nothing is wrong. "),
    `${number(found.rows.inodes)} inodes and ${number(found.rows.chunks)} chunks in ${found.seconds.toFixed(1)} s.`)];
  const rows = found.findings.slice(0, 500).map((one) => make("tr", {}, make("td", { class: "nw" }, one.rule),
    make("td", {}, one.table || "file"), make("td", { class: "mono" }, visible(one.key)), make("td", { class: "w" }, visible(one.message))));
  return [make("p", { class: "bad" }, `Damaged: ${counted(count, "finding")}.`), make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...["rule", "table", "row", "what is wrong"].map((name) => make("th", {}, name)))),
    make("tbody", {}, ...rows)))];
}

// --- begin --------------------------------------------------------------------------------------------

async function begin() {
  window.addEventListener("hashchange", show);
  at("go").addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = link(at("path").value.replace(/\/+$/, "") || "/");
  });
  for (const radio of document.querySelectorAll("input[name=by]")) {
    radio.addEventListener("change", () => { location.hash = link(here().path, radio.value); });
  }
  let waiting = 0;
  at("path").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      const found = await ask("api/suggest", { path: at("path").value }).catch(() => []);
      at("suggested").replaceChildren(...found.map((path) => make("option", { value: path })));
    }, 150);
  });
  slowly(at("ask-sizes"), at("sizes"), sizes);
  slowly(at("ask-verify"), at("verdict"), verdict);
  try {
    const about = await ask("api/about");
    at("index").textContent = `at log entry ${number(about.index)} of term ${about.term}`;
    at("file").textContent = `${visible(about.path)} · ${bytes(about.length_bytes)} · cluster ${visible(about.cluster || "?")} · made ${time(about.made_at_ms)} UTC`;
    document.title = `Checkpoint ${about.index}`;
    const sum = about.totals;
    at("totals").replaceWith(Object.assign(facts([["files", number(sum.files)], ["directories", number(sum.directories)],
      ["chunks", number(sum.chunks)], ["content", bytes(sum.content_bytes)], ["in the trash", number(sum.in_trash)],
      ["client sessions", number(sum.sessions)]]), { id: "totals" }));
  } catch (error) { at("message").textContent = error.message; }
  show();
}
begin();
