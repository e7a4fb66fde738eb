
// === What is known ===

/** How often everything is asked for, and of how many times plots show something. */
const EVERY = 2000;
const SAMPLES = 60;

const known = { samples: [], open: new Set(), version: {}, registries: [], clusters: [], listeners: [], routes: [] };

async function ask(path) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), 8000);
  try {
    const answer = await fetch(path, { signal: stop.signal, credentials: "same-origin" });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
    return await answer.json();
  } finally {
    clearTimeout(timer);
  }
}

/** The time below which a share of the calls was, from counts by bucket. */
function quantile(share, buckets, bounds) {
  const all = buckets.reduce((sum, own) => sum + own, 0);
  if (all === 0) return null;
  let left = share * all;
  for (let at = 0; at < buckets.length; at += 1) {
    if (left <= buckets[at] && buckets[at] > 0) {
      const low = at === 0 ? 0 : bounds[at - 1];
      const high = at < bounds.length ? bounds[at] : low;
      return low + (high - low) * (left / buckets[at]);
    }
    left -= buckets[at];
  }
  return bounds[bounds.length - 1];
}

const isError = (outcome) => outcome !== "success" && outcome !== "sent";

/** What of one sample is between it and the one before: by service, and by its methods. */
function between(before, now) {
  const seconds = Math.max(now.at - before.at, 0.001);
  const key = (own) => JSON.stringify([own.listener, own.protocol, own.service, own.method]);
  const former = new Map(before.series.map((own) => [key(own), own]));
  const services = new Map();
  for (const own of now.series) {
    const old = former.get(key(own));
    const outcomes = Object.entries(own.outcomes).map(([outcome, count]) => [outcome, count - ((old && old.outcomes[outcome]) || 0)]);
    const buckets = own.buckets.map((count, at) => count - (old ? old.buckets[at] : 0));
    const id = JSON.stringify([own.protocol, own.service]);
    if (!services.has(id)) services.set(id, { key: id, protocol: own.protocol, service: own.service, methods: new Map(), ...nothing(buckets.length) });
    const service = services.get(id);
    if (!service.methods.has(own.method)) service.methods.set(own.method, { name: own.method, ...nothing(buckets.length) });
    for (const sum of [service, service.methods.get(own.method)]) {
      for (const [outcome, count] of outcomes) {
        sum.calls += count;
        if (isError(outcome)) sum.errors += count;
        if (count > 0 && isError(outcome)) sum.why.set(outcome, (sum.why.get(outcome) || 0) + count);
      }
      buckets.forEach((count, at) => { sum.buckets[at] += count; });
      sum.total += Object.values(own.outcomes).reduce((all, count) => all + count, 0);
    }
  }
  const finish = (own) => Object.assign(own, {
    rate: own.calls / seconds,
    share: own.calls === 0 ? 0 : own.errors / own.calls,
    p50: quantile(0.5, own.buckets, now.bounds_ms),
    p99: quantile(0.99, own.buckets, now.bounds_ms),
  });
  for (const own of services.values()) {
    finish(own);
    own.methods.forEach(finish);
  }
  return services;
}

const nothing = (buckets) => ({ calls: 0, errors: 0, total: 0, why: new Map(), buckets: new Array(buckets).fill(0) });

// === What is shown ===

function about() {
  const own = known.version;
  const state = own.draining ? tag("bad", "stopping") : tag("good", "running");
  fill(document.getElementById("about"), [
    state, h("span", null, `version ${own.version}`), h("span", null, `up ${ago(own.up_seconds)}`), h("span", null, `${own.workers} ${own.workers === 1 ? "worker" : "workers"}`)]);
  document.title = known.wrong ? `(${known.wrong}) Finback` : "Finback";
}

function tiles(now) {
  let calls = 0;
  let errors = 0;
  let buckets = null;
  for (const own of now.values()) {
    calls += own.rate;
    errors += own.rate * own.share;
    buckets = buckets ? buckets.map((count, at) => count + own.buckets[at]) : [...own.buckets];
  }
  const last = known.samples[known.samples.length - 1];
  const { endpoints, available, in_flight: in_flight_now } = known.totals;
  const tile = (title, value, small, kind) => h("dl", { class: "tile", "data-key": title }, h("dt", null, title), h("dd", { class: kind }, value, small && h("small", null, ` ${small}`)));
  const share = calls > 0 ? errors / calls : 0;
  fill(document.getElementById("tiles"), [
    tile("Calls", rate(calls), "per second"),
    tile("Errors", percent(share), calls > 0 ? `${rate(errors)}/s` : null, share > 0.01 ? "bad-text" : null),
    tile("p50", buckets ? millis(quantile(0.5, buckets, last.bounds_ms)) : "\u2013"),
    tile("p99", buckets ? millis(quantile(0.99, buckets, last.bounds_ms)) : "\u2013"),
    tile("In flight", whole(in_flight_now)),
    tile("Clients", whole(known.listeners.reduce((all, own) => all + own.connections, 0))),
    tile("Endpoints", `${available} of ${endpoints}`, "available", available < endpoints ? "bad-text" : null),
  ]);
}

function problems() {
  const list = [];
  const add = (kind, key, ...words) => list.push(h("li", { class: kind, "data-key": key }, words));
  for (const cluster of known.clusters) {
    const bad = cluster.endpoints.filter((own) => !["available", "unused", "suspect"].includes(own.state));
    for (const own of bad) {
      const left = own.ends_in_seconds ? ` (for ${ago(own.ends_in_seconds)} more)` : "";
      add(own.available ? "" : "bad", `${cluster.name} ${own.address}`,
        tag(own.available ? "warn" : "bad", own.state), h("strong", null, own.address), h("span", null, "of ", name(cluster.name)), h("span", null, own.why + left));
    }
    if (!cluster.lookup && cluster.ready && cluster.endpoints.length === 0) add("bad", `${cluster.name} empty`, tag("bad", "empty"), h("strong", null, cluster.name), h("span", null, "has no endpoints"));
  }
  for (const own of known.registries) {
    if (!own.connected) add("bad", `registry ${own.name}`, tag("bad", "silent"), h("strong", null, `registry ${own.name}`), h("span", null, `has not answered for ${ago(own.stale_seconds)}${own.error ? `: ${own.error}` : ""}; what it said before stays in force`));
    else if (own.failing_reads + own.failing_names > 0) add("", `registry ${own.name}`, tag("warn", "partly"), h("strong", null, `registry ${own.name}`), h("span", null, `${own.failing_reads + own.failing_names} of its services or names cannot be read${own.error ? `: ${own.error}` : ""}`));
  }
  for (const own of known.certificates) {
    if (own.days_left < 14) add(own.days_left < 2 ? "bad" : "", `${own.of} ${own.file}`, tag(own.days_left < 2 ? "bad" : "warn", "ends soon"), h("strong", null, own.name || own.file), h("span", null, `of ${own.of} ends in ${own.days_left} days`));
  }
  for (const own of known.calls.silent_workers) add("bad", `worker ${own}`, tag("bad", "stuck"), h("strong", null, `worker ${own}`), h("span", null, "does not answer"));
  known.wrong = list.length;
  show("problems", list.length ? String(list.length) : "", list.length ? h("ul", null, list) : h("p", { class: "fine" }, "Nothing is wrong that Finback knows of."));
}

function services(now) {
  const history = known.history;
  const rows = [];
  const all = [...now.values()].sort((a, b) => b.rate - a.rate || b.total - a.total);
  const cells = (own, title, past) => {
    const rates = past.map((each) => (each ? each.rate : 0));
    const slow = past.map((each) => (each && each.p99 !== null ? each.p99 : 0));
    const why = [...own.why].map(([outcome, count]) => `${outcome} ${count}`).join(", ");
    return [title, rate(own.rate), h("span", { class: own.share > 0.01 ? "bad-text" : null, title: why || null }, percent(own.share)), millis(own.p50), millis(own.p99), whole(own.total),
      plot(rates, `calls per second over two minutes: now ${rate(own.rate)}, at most ${rate(Math.max(...rates, 0))}`),
      plot(slow, `p99 over two minutes: now ${millis(own.p99)}, at most ${millis(Math.max(...slow, 0))}`, "bad")];
  };
  for (const own of all.slice(0, 100)) {
    const open = known.open.has(own.key);
    const past = history.map((each) => each.get(own.key));
    const toggle = () => {
      if (!known.open.delete(own.key)) known.open.add(own.key);
      render();
    };
    const title = [h("button", { "aria-expanded": String(open), onclick: toggle }, name(own.service || "(none)")), " ", tag("", own.protocol)];
    rows.push({ key: own.key, cells: cells(own, title, past) });
    if (!open) continue;
    for (const method of [...own.methods.values()].sort((a, b) => b.rate - a.rate).slice(0, 50)) {
      const own_past = past.map((each) => each && each.methods.get(method.name));
      rows.push({ key: `${own.key} ${method.name}`, kind: "method", cells: cells(method, name(method.name || "(none)"), own_past) });
    }
  }
  const columns = [["Service", "name"], ["Calls/s", "number"], ["Errors", "number"], ["p50", "number"], ["p99", "number"], ["All calls", "number extra"], ["Calls/s, two minutes", "half"], ["p99, two minutes", "half"]];
  show("services", all.length ? String(all.length) : "", rows.length ? table("Services", columns, rows) : h("p", { class: "empty" }, "No call has come yet."));
}

function exchanges() {
  const link = (own) => {
    const url = known.version.trace_url;
    if (!own.trace_id) return "";
    return url ? h("a", { href: url.replace("{trace_id}", encodeURIComponent(own.trace_id)), rel: "noreferrer" }, `trace ${own.trace_id.slice(0, 8)}`) : h("code", null, own.trace_id);
  };
  const list = (title, all) => {
    const shown = all.slice(0, 12);
    const traced = shown.some((own) => own.trace_id);
    const rows = shown.map((own, at) => ({
      key: `${own.time} ${own.service} ${at}`,
      cells: [name(`${own.service}${own.method ? `.${own.method}` : ""}`), clock(own.time), millis(own.took_ms),
        tag(isError(own.outcome) ? "bad" : "good", own.status ? `${own.outcome} (${own.status})` : own.outcome),
        own.endpoint ? [own.endpoint, " ", h("span", { class: "soft" }, "of ", name(own.cluster), own.lane ? `, lane ${own.lane}` : null)] : "nowhere", own.source, ...(traced ? [link(own)] : [])],
    }));
    const columns = [["Call", "name"], ["At", "still"], ["Took", "number"], ["Outcome", "half"], ["Went to", "half"], ["From", "half"], ...(traced ? [["Trace", "half"]] : [])];
    return h("div", { "data-key": title }, h("h3", null, title), rows.length ? table(title, columns, rows) : h("p", { class: "empty" }, "None."));
  };
  show("exchanges", "", h("div", { class: "halves" }, list("Failed last", known.recent.failed), list("Slowest of 15 minutes", known.recent.slowest)));
}

function inFlight() {
  const rows = known.calls.oldest.slice(0, 20).map((own, at) => ({
    key: `${at}`,
    cells: [name(`${own.service}${own.method ? `.${own.method}` : ""}`), tag("", own.protocol), millis(own.age_ms), own.waits_for, own.endpoint ? `${own.endpoint} of ${own.cluster}` : "nowhere yet", own.source],
  }));
  const sessions = known.sessions.oldest.slice(0, 20).map((own, at) => ({
    key: `${at}`, cells: [own.name, tag("", own.protocol), ago(own.age_seconds), own.peer, own.endpoint || "ends here"],
  }));
  const columns = [["Call", "name"], ["Protocol", ""], ["Age", "number"], ["Waits for", ""], ["Endpoint", "half"], ["From", "half"]];
  const of_sessions = [["Session", "name"], ["Protocol", ""], ["Age", "number"], ["Client", "half"], ["Endpoint", "half"]];
  show("in-flight", `${whole(known.calls.all)} calls, ${whole(known.sessions.all)} sessions`,
    rows.length ? table("Oldest calls in flight", columns, rows) : h("p", { class: "empty", "data-key": "no calls" }, "No call is in flight."),
    sessions.length ? h("h3", { "data-key": "sessions title" }, "Oldest sessions") : null,
    sessions.length ? table("Oldest sessions", of_sessions, sessions) : null);
}

function rocketmq() {
  const brokers = known.rocketmq.brokers.map(({ listener, broker }) => ({
    key: `${listener} ${broker.cluster} ${broker.name} ${broker.id} ${broker.address}`,
    cells: [name(`${broker.name}:${broker.id}`), broker.cluster, broker.address, `${listener}, port ${broker.port}`,
      broker.lanes.filter((own) => own.live).map((own) => `${own.group} in ${own.lane}`).join(", ") || "none"],
  }));
  const lags = known.rocketmq.lags.map((own) => ({
    key: `${own.listener} ${own.topic} ${own.group}`, cells: [name(own.group), own.topic, own.listener, own.messages],
  }));
  const of_brokers = [["Broker", "name"], ["Cluster", ""], ["Address", "half"], ["Reached at", "half"], ["Lanes with consumers", "half"]];
  const of_lags = [["Group", "name"], ["Topic", "half"], ["Listener", "half"], ["Messages behind", "number"]];
  show("rocketmq", brokers.length ? `${brokers.length} brokers, ${lags.length} groups` : "",
    brokers.length ? table("Brokers", of_brokers, brokers) : h("p", { class: "empty", "data-key": "no brokers" }, "No broker is known."),
    lags.length ? h("h3", { "data-key": "lags title" }, "Groups of consumers") : null,
    lags.length ? table("Groups of consumers", of_lags, lags) : null);
}

function registries() {
  const rows = known.registries.map((own) => ({
    key: own.name,
    cells: [own.name, own.connected ? tag("good", "answers") : tag("bad", `silent for ${ago(own.stale_seconds)}`), own.services, own.waiting, own.protected, own.from_disk, own.failing_reads + own.failing_names],
  }));
  const columns = [["Registry", "name"], ["State", "half"], ["Services", "number"], ["Not known yet", "number"], ["Protected", "number"], ["From disk", "number"], ["Failing", "number"]];
  show("registries", rows.length ? String(rows.length) : "", rows.length ? table("Registries", columns, rows) : h("p", { class: "empty" }, "None is configured."));
}

function certificates() {
  const rows = known.certificates.map((own) => ({
    key: `${own.of} ${own.file}`,
    cells: [own.name || own.file, own.kind, own.of, h("span", { class: own.days_left < 14 ? "bad-text" : null }, `${own.days_left} days`), h("code", null, own.file)],
  }));
  const columns = [["Name", "name"], ["Kind", ""], ["Of", "half"], ["Ends in", "number"], ["File", "wide"]];
  show("certificates", rows.length ? String(rows.length) : "", rows.length ? table("Certificates", columns, rows) : h("p", { class: "empty" }, "No TLS is configured."));
}
