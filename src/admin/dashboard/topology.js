
// === Topology: listeners, routes, clusters and endpoints, and what leads where ===

const STATES = { available: "good", suspect: "warn", trial: "warn", leaving: "warn", ejected: "bad", unhealthy: "bad", unused: "" };

/** Which nodes belong together: by key, those that it leads to. */
function edges() {
  const list = [];
  for (const listener of known.listeners) {
    const routes = known.routes.find((own) => own.table === listener.routes);
    for (const route of routes ? routes.routes : []) list.push([`listener ${listener.name}`, `route ${routes.table} ${route.name}`]);
  }
  for (const own of known.routes) {
    for (const route of own.routes) {
      const of_registry = known.clusters.filter((each) => each.lookup && route.to.startsWith("registry") && route.to.split(", layout")[0] === `registry ${each.lookup.registry}`);
      const names = [...route.clusters, ...of_registry.map((each) => each.name)];
      for (const each of names) list.push([`route ${own.table} ${route.name}`, `cluster ${each}`]);
    }
  }
  return list;
}

function topology() {
  const node = (key, ...children) => h("div", { class: "node", "data-key": key, tabindex: "0" }, children);
  const listeners = known.listeners.map((own) => node(`listener ${own.name}`,
    h("strong", null, own.name), " ", tag("", own.protocols.length > 1 ? "auto" : own.protocols[0]), own.tls ? tag("", "TLS") : null,
    h("p", null, `${own.address}, table ${own.routes}`), h("p", null, `${whole(own.connections)} clients, ${whole(own.accepted)} since its start`)));
  const routes = known.routes.flatMap((own) => own.routes.map((route) => node(`route ${own.table} ${route.name}`,
    h("div", { class: "row" }, h("strong", null, route.name), h("span", { class: "soft" }, `${whole(route.hits)} calls`)),
    h("p", null, route.conditions.length ? route.conditions.join(", ") : "every call"), h("p", null, `to ${route.to}`)))
    .concat(own.all > own.routes.length ? node(`route ${own.table} more`, h("p", null, `and ${own.all - own.routes.length} more routes of ${own.table}`)) : [], own.no_route ? node(`route ${own.table} none`, h("div", { class: "row" }, h("strong", null, `no route of ${own.table}`), h("span", { class: "bad-text" }, `${whole(own.no_route)} calls`))) : []));
  const clusters = known.clusters.map((own) => node(`cluster ${own.name}`,
    h("div", { class: "row" }, h("strong", null, name(own.name)), h("span", { class: "soft" }, `${whole(own.in_flight)} in flight${own.concurrency ? `, limit ${whole(own.concurrency.limit)}` : ""}`)),
    own.concurrency && own.concurrency.shed ? h("p", null, `${whole(own.concurrency.shed)} calls were shed by its limit`) : null,
    own.ready ? null : h("p", null, "its registry has not answered yet"),
    h("ul", null, own.endpoints.slice(0, 30).map((each) => h("li", { "data-key": each.address },
      tag(STATES[each.state], each.state), h("span", { class: "mono" }, each.address),
      h("span", { class: "soft" }, [`weight ${each.weight_now}`, `${each.in_flight} in flight`, each.latency_ms === null ? null : millis(each.latency_ms), ...each.labels].filter(Boolean).join(", ")),
      each.why ? h("span", { class: "why" }, each.why + (each.ends_in_seconds ? ` (for ${ago(each.ends_in_seconds)} more)` : "")) : null))),
    own.endpoints.length > 30 ? h("p", null, `and ${own.endpoints.length - 30} more`) : null));
  const column = (title, nodes) => h("div", { "data-key": title, role: "group", "aria-label": title }, h("h3", null, title), nodes);
  if (known.totals.all > known.clusters.length) clusters.push(node("cluster more", h("p", null, `and ${known.totals.all - known.clusters.length} more clusters`)));
  const all = known.routes.reduce((sum, own) => sum + own.all, 0);
  show("topology", `${known.listeners.length} listeners, ${all} routes, ${known.totals.all} clusters, ${known.totals.endpoints} endpoints`,
    h("div", { class: "map" }, column("Listeners", listeners), column("Routes", routes), column("Clusters and endpoints", clusters), h("svg", { "aria-hidden": "true", "data-key": "lines" })));
  lines();
}

/** Draws what leads where, between the columns. */
function lines() {
  const map = document.querySelector("#topology .map");
  if (!map) return;
  const svg = map.querySelector("svg");
  const base = map.getBoundingClientRect();
  const box = (key) => {
    const own = [...map.querySelectorAll(".node")].find((each) => each.getAttribute("data-key") === key);
    return own && own.getBoundingClientRect();
  };
  const lit = known.lit;
  const paths = [];
  for (const [from, to] of edges()) {
    const [a, b] = [box(from), box(to)];
    if (!a || !b || b.left <= a.right) continue;
    const [x1, y1, x2, y2] = [a.right - base.left, a.top + Math.min(a.height / 2, 24) - base.top, b.left - base.left, b.top + Math.min(b.height / 2, 24) - base.top];
    const middle = (x1 + x2) / 2;
    paths.push(h("path", { d: `M${x1},${y1}C${middle},${y1} ${middle},${y2} ${x2},${y2}`, class: lit && (lit.has(from) && lit.has(to)) ? "lit" : null }));
  }
  fill(svg, paths);
  for (const own of map.querySelectorAll(".node")) own.classList.toggle("lit", Boolean(lit && lit.has(own.getAttribute("data-key"))));
}

/** Lights up everything on the ways through a node. */
function light(key) {
  if (!key) {
    known.lit = null;
  } else {
    const all = edges();
    const lit = new Set([key]);
    for (const way of [0, 1]) {
      const next = [key];
      const seen = new Set(next);
      while (next.length) {
        const own = next.pop();
        for (const edge of all) {
          if (edge[way] === own && !seen.has(edge[1 - way])) {
            seen.add(edge[1 - way]);
            lit.add(edge[1 - way]);
            next.push(edge[1 - way]);
          }
        }
      }
    }
    known.lit = lit;
  }
  lines();
}

const nodeOf = (event) => event.target instanceof Element && event.target.closest("#topology .node");
for (const [type, on] of [["mouseover", true], ["focusin", true], ["mouseout", false], ["focusout", false]]) {
  document.addEventListener(type, (event) => {
    const node = nodeOf(event);
    if (node) light(on ? node.getAttribute("data-key") : null);
  });
}
window.addEventListener("resize", lines);

// === Round and round ===

function render() {
  const now = known.history.length ? known.history[known.history.length - 1] : new Map();
  problems();
  about();
  tiles(now);
  services(now);
  topology();
  exchanges();
  inFlight();
  rocketmq();
  registries();
  certificates();
  document.body.setAttribute("data-rounds", String(known.rounds));
}

async function round() {
  const trouble = document.getElementById("trouble");
  try {
    // What costs the workers something, or changes slowly, is asked for every third time.
    const often = ["version", "services", "clusters", "listeners"];
    const seldom = ["routes", "registries", "certificates", "recent", "calls", "sessions", "rocketmq"];
    const wanted = known.rounds % 3 === 0 ? [...often, ...seldom] : often;
    const limits = { clusters: "?limit=100", routes: "?limit=60" };
    const answers = await Promise.all(wanted.map((own) => ask(`/${own}${limits[own] || ""}`)));
    wanted.forEach((own, at) => { known[own] = answers[at]; });
    known.totals = known.clusters;
    known.clusters = known.totals.clusters;
    const sample = known.services;
    const before = known.samples[known.samples.length - 1];
    // A process that began anew counts from nothing.
    if (before && before.started_at !== sample.started_at) Object.assign(known, { samples: [], history: [] });
    known.samples.push(sample);
    if (known.samples.length > 2) known.samples.shift();
    if (known.samples.length > 1) known.history.push(between(known.samples[0], sample));
    if (known.history.length > SAMPLES) known.history.shift();
    known.rounds += 1;
    trouble.hidden = true;
    render();
  } catch (error) {
    trouble.textContent = `Finback cannot be asked (${error.message}); what is shown was so at ${clock(known.at || Date.now() / 1000)}.`;
    trouble.hidden = false;
    return;
  }
  known.at = Date.now() / 1000;
}

Object.assign(known, { history: [], rounds: 0, lit: null });
async function go() {
  if (!document.hidden) await round();
  setTimeout(go, known.rounds < 2 ? 500 : EVERY);
}
go();
