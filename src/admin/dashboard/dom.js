"use strict";
// Elements, kept in place while what they show changes. Text that peers chose is only ever text.

/** An element: `h("td", { class: "number" }, "12")`. What is null is left out. */
function h(name, attributes, ...children) {
  const svg = ["svg", "path", "title"].includes(name);
  const own = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "onclick") own.onclick = value;
    else own.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    own.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return own;
}

/** Makes `old` like `now` and keeps what is equal, so that focus and scrolling stay where they are. */
function become(old, now) {
  if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName ||
      (old.nodeType === 1 && old.getAttribute("data-key") !== now.getAttribute("data-key"))) {
    old.replaceWith(now);
    return;
  }
  if (old.nodeType === 3) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (now.onclick) old.onclick = now.onclick;
  fill(old, [...now.childNodes]);
}

/** Gives an element these children, and keeps those that it has by their keys. */
function fill(parent, children) {
  const keyed = new Map();
  for (const child of parent.childNodes) {
    const key = child.nodeType === 1 && child.getAttribute("data-key");
    if (key) keyed.set(key, child);
  }
  let at = parent.firstChild;
  for (const child of children) {
    const key = child.nodeType === 1 && child.getAttribute("data-key");
    const kept = key && keyed.get(key);
    if (kept && kept !== at) parent.insertBefore(kept, at);
    const old = kept || at;
    if (!kept && key && at && at.nodeType === 1 && at.getAttribute("data-key")) {
      parent.insertBefore(child, at);
      continue;
    }
    if (!old) {
      parent.append(child);
      continue;
    }
    at = old.nextSibling;
    become(old, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Shows children in the body of a section, and words beside its title. */
function show(section, count, ...children) {
  const own = document.getElementById(section);
  const words = own.querySelector("h2 .count");
  if (words.textContent !== count) words.textContent = count;
  fill(own.querySelector(".body"), children.flat(2).filter((child) => child !== null));
}

/** A table whose rows are cards on a phone. Columns: [title, class]; cells: what stands in them. */
function table(caption, columns, rows) {
  const head = columns.map(([title, kind]) => h("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) => h("tr", { "data-key": row.key, class: row.kind },
    row.cells.map((cell, at) => h("td", { class: columns[at][1], "data-label": columns[at][1] && columns[at][1].includes("name") ? null : columns[at][0] }, cell))));
  return h("div", { class: "scroll", "data-key": caption },
    h("table", { class: "cards", "aria-label": caption }, h("thead", null, h("tr", null, head)), h("tbody", null, body)));
}

/** A small plot of numbers over time; `words` say to who does not see it what it shows. */
function plot(values, words, kind) {
  const most = Math.max(...values, 0) || 1;
  const x = (at) => (values.length < 2 ? 0 : (at * 100) / (values.length - 1));
  const y = (value) => 29 - (value / most) * 27;
  const points = values.map((value, at) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
  const line = points.length ? `M${points.join("L")}` : "M0,29";
  return h("svg", { class: `plot ${kind || ""}`, viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": words },
    h("path", { class: "area", d: `${line}L${x(values.length - 1).toFixed(1)},30L0,30Z` }),
    h("path", { class: "line", d: line }));
}

/** A word with a colour. */
const tag = (kind, words) => h("span", { class: `tag ${kind}` }, words);

// Numbers, as short as they stay true.
const rate = (n) => (n >= 1000 ? `${(n / 1000).toFixed(1)}k` : n >= 10 ? n.toFixed(0) : n > 0 ? n.toFixed(1) : "0");
const whole = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(1)}M` : n >= 1e4 ? `${(n / 1e3).toFixed(0)}k` : String(n));
const millis = (ms) => (ms === null ? "\u2013" : ms >= 10000 ? `${(ms / 1000).toFixed(0)} s` : ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 10 ? `${ms.toFixed(0)} ms` : ms >= 1 ? `${ms.toFixed(1)} ms` : `${(ms * 1000).toFixed(0)} \u00b5s`);
const percent = (share) => (share === 0 ? "0 %" : share < 0.001 ? "<0.1 %" : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`);
const ago = (seconds) => (seconds >= 172800 ? `${Math.floor(seconds / 86400)} days` : seconds >= 7200 ? `${Math.floor(seconds / 3600)} h` : seconds >= 120 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds)} s`);
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

/** A text that leaves room for others. */
const short = (text) => (text.length > 120 ? `${text.slice(0, 119)}\u2026` : text);

/** A name that may be broken behind its dots and slashes, where there is no room for it. */
const name = (text) => short(text).split(/(?<=[./:])/).flatMap((part, at) => (at === 0 ? [part] : [h("wbr"), part]));
