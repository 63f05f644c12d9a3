// Asks the API for the state of all nodes every two seconds and shows it. No libraries, no other hosts.
"use strict";

const PAUSE_MS = 2000;
const PATIENCE_MS = 10000;
const RATE_WINDOW_MS = 10000;
const LATENCY_WINDOW_MS = 60000;
const EVENTS_SHOWN = 60;
const TOKEN = "rookery-token";

const NODE_COLUMNS = ["Node", "State", "Sessions", "Messages/s in, out", "Delivery p50, p99", "Commit p50, p99",
  "Newcomers waiting", "Database", "Redis", "Memory", "Up", "Version"];
const EVENT_COLUMNS = ["When", "Node", "Kind", "What"];
const NUMBERS = new Set(["Sessions", "Messages/s in, out", "Delivery p50, p99", "Commit p50, p99",
  "Newcomers waiting", "Memory", "Up"]);

// What each node told lately, the newest last: for rates, and for latencies of the last minute.
const samples = new Map();
let timer;
// A newer round of questions makes older ones moot.
let round = 0;
let lastSeen = null;

const byId = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Asking.

async function ask() {
  clearTimeout(timer);
  const mine = ++round;
  const token = sessionStorage.getItem(TOKEN);
  if (!token) return enter();
  let status;
  try {
    status = await call(token);
  } catch (problem) {
    if (mine !== round) return;
    if (problem.isDoor) return enter(problem.message);
    notice(problem.message);
  }
  if (mine !== round) return;
  if (status) {
    lastSeen = new Date();
    notice("");
    remember(status.nodes);
    show(status);
  }
  if (!document.hidden) timer = setTimeout(ask, PAUSE_MS);
}

async function call(token) {
  const since = lastSeen ? ` What is below is from ${clock(lastSeen)}.` : "";
  let answer;
  try {
    answer = await fetch("api/v1/status", {
      headers: { Authorization: `Bearer ${token}` },
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Error(`The node that serves this page cannot be reached: it is down, hangs, or the way to it ` +
      `is cut. Trying again every 2 seconds.${since}`);
  }
  if (answer.ok) return answer.json();
  const detail = await answer.json().then((problem) => problem.detail, () => "");
  if (answer.status === 401) throw door("This token is wrong. It may have been changed: look at " +
    "admin.token or admin.token_file of this node.");
  if (answer.status === 403) throw door("This node has no token, so that nobody may look: set admin.token or " +
    "admin.token_file, run `rookery config reload`, and try again.");
  throw new Error(`The node answers with ${answer.status}: ${detail || "no reason given"}.` +
    ` Trying again every 2 seconds.${since}`);
}

function door(text) {
  const problem = new Error(text);
  problem.isDoor = true;
  return problem;
}

function enter(text = "") {
  round += 1;
  sessionStorage.removeItem(TOKEN);
  samples.clear();
  lastSeen = null;
  byId("enter").hidden = false;
  byId("status").hidden = true;
  byId("leave").hidden = true;
  byId("updated").textContent = "";
  document.title = "Rookery status";
  notice(text);
  byId("token").focus();
}

// Also tells, by its absence, that what is shown is new.
function notice(text) {
  const place = byId("notice");
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
  byId("status").classList.toggle("old", Boolean(text));
  if (text && lastSeen) document.title = "✕ Rookery: no answer";
}

// Remembering.

function remember(nodes) {
  const present = new Set();
  for (const node of nodes) {
    present.add(node.node);
    let known = samples.get(node.node) || [];
    // A process that was started again counts from 0.
    if (known.length && known[0].started !== node.started) known = [];
    known.push(node);
    const oldest = node.uptime_ms - LATENCY_WINDOW_MS;
    // One is kept from before the window, to subtract.
    while (known.length > 2 && known[1].uptime_ms <= oldest) known.shift();
    samples.set(node.node, known);
  }
  for (const name of samples.keys()) if (!present.has(name)) samples.delete(name);
}

// The newest sample, and the last one that is older than the window; null if there is no other.
function span(node, window) {
  const known = samples.get(node.node);
  const newest = known[known.length - 1];
  let before = null;
  for (const sample of known.slice(0, -1)) {
    if (before === null || newest.uptime_ms - sample.uptime_ms >= window) before = sample;
  }
  return before && newest.uptime_ms > before.uptime_ms ? [before, newest] : null;
}

function rate(node, counter) {
  const pair = span(node, RATE_WINDOW_MS);
  if (!pair) return null;
  return Math.max(0, pair[1][counter] - pair[0][counter]) * 1000 / (pair[1].uptime_ms - pair[0].uptime_ms);
}

// The counts of a histogram's buckets in the last minute; those since the start in the first moment.
function recent(node, name) {
  const pair = span(node, LATENCY_WINDOW_MS);
  const { upper_bounds_us: bounds, cumulative, total } = node[name];
  if (!pair) return { bounds, cumulative, total };
  const before = pair[0][name];
  if (before.cumulative.length !== cumulative.length) return { bounds, cumulative, total };
  return {
    bounds,
    cumulative: cumulative.map((count, bucket) => count - before.cumulative[bucket]),
    total: total - before.total,
  };
}

// In microseconds, in the middle of its bucket as far as can be told; null if nothing happened.
function quantile({ bounds, cumulative, total }, share) {
  if (total <= 0 || !bounds.length) return null;
  const rank = share * total;
  const bucket = cumulative.findIndex((count) => count >= rank);
  if (bucket < 0) return { above: bounds[bounds.length - 1] };
  const low = bucket ? bounds[bucket - 1] : 0;
  const below = bucket ? cumulative[bucket - 1] : 0;
  const inside = cumulative[bucket] - below;
  return { at: low + (bounds[bucket] - low) * (inside ? (rank - below) / inside : 1) };
}

// Histograms of nodes that have the same buckets, together.
function together(all) {
  const [first, ...others] = all.filter(({ bounds }) => bounds.length);
  if (!first) return { bounds: [], cumulative: [], total: 0 };
  const sum = { bounds: first.bounds, cumulative: [...first.cumulative], total: first.total };
  for (const other of others) {
    if (other.bounds.join() !== sum.bounds.join()) continue;
    sum.total += other.total;
    other.cumulative.forEach((count, bucket) => { sum.cumulative[bucket] += count; });
  }
  return sum;
}

// Writing numbers.

function number(value) {
  if (value === null) return "…";
  if (value > 0 && value < 10) return value.toFixed(1);
  return Math.round(value).toLocaleString("en");
}

const count = (value) => value.toLocaleString("en");

function time(quantile) {
  if (!quantile) return "–";
  if (quantile.above !== undefined) return `> ${microseconds(quantile.above)}`;
  return microseconds(quantile.at);
}

function microseconds(us) {
  if (us < 999.5) return `${Math.round(us)} µs`;
  if (us < 9950) return `${(us / 1000).toFixed(1)} ms`;
  if (us < 999500) return `${Math.round(us / 1000)} ms`;
  return `${(us / 1e6).toFixed(1)} s`;
}

// Half of them, and 99 of 100.
function times(histogram) {
  return histogram.total > 0 ? `${time(quantile(histogram, 0.5))}, ${time(quantile(histogram, 0.99))}` : "none";
}

function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

const two = (value) => String(value).padStart(2, "0");

function clock(date) {
  const hours = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (date.toDateString() === new Date().toDateString()) return hours;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${hours}`;
}

// Showing.

const nameOf = (node) => node.node || "this server";

// Kind (good, warn, bad), a word, and in full what is so.
function state(node) {
  if (node.fenced) {
    return ["bad", "fenced", "it cannot reach Redis, so that it takes no new clients; those that it has stay"];
  }
  const why = node.problems.filter((problem) => problem !== node.stage).join("; ");
  if (node.stage === "starting") return ["warn", "starting", why];
  if (node.stage === "draining") return ["warn", "draining", why || "it sends its clients to other nodes"];
  if (node.stage === "stopping") return ["warn", "stopping", why || "it ends its streams"];
  if (node.problems.length) return ["bad", "not ready", why];
  return ["good", "ready", ""];
}

const SYMBOLS = { good: "✓", warn: "!", bad: "✕" };

function show(status) {
  byId("enter").hidden = true;
  byId("status").hidden = false;
  byId("leave").hidden = false;
  byId("updated").textContent = `as of ${clock(lastSeen)}`;
  verdict(status);
  totals(status.nodes);
  nodes(status);
  events(status.nodes);
}

function verdict({ nodes, unanswered }) {
  const wrong = nodes.map((node) => [node, ...state(node)]).filter(([, kind]) => kind !== "good");
  const lines = wrong.map(([node, , word, why]) => `${nameOf(node)}: ${word}${why ? `, ${why}` : ""}`);
  lines.push(...unanswered.map(({ node, reason }) => `${node}: ${reason}`));
  for (const node of nodes) {
    if (!node.fenced && node.redis_away.length) {
      lines.push(`${nameOf(node)}: no connection to Redis for ${node.redis_away.join(", ")}`);
    }
    if (node.newcomers_waiting) {
      lines.push(`${nameOf(node)}: ${count(node.newcomers_waiting)} new connections wait for their turn`);
    }
  }
  const ready = nodes.length - wrong.length;
  const all = nodes.length + unanswered.length;
  const kind = wrong.some(([, kind]) => kind === "bad") || unanswered.length || !ready
    ? "bad" : lines.length ? "warn" : "good";
  const head = ready === all
    ? all === 1 ? "The node takes clients." : `All ${all} nodes take clients.`
    : all === 1 ? "The node does not take new clients." : `${ready} of ${all} nodes take new clients.`;
  const place = byId("verdict");
  const text = [`${SYMBOLS[kind]} ${head}`, ...lines].join("\n");
  // Only what is new is read aloud.
  if (place.textContent !== text) place.textContent = text;
  place.className = `notice ${kind}`;
  document.title = `${SYMBOLS[kind]} Rookery: ${ready} of ${all}`;
}

function totals(nodes) {
  const sum = (field) => nodes.reduce((all, node) => all + node[field], 0);
  const rates = (field) => {
    const known = nodes.map((node) => rate(node, field)).filter((value) => value !== null);
    return known.length ? known.reduce((all, one) => all + one, 0) : null;
  };
  const delivery = together(nodes.map((node) => recent(node, "delivery")));
  const commit = together(nodes.map((node) => recent(node, "commit")));
  const failed = rates("logins_failed");
  const bounced = rates("messages_bounced");
  const entries = [
    ["Sessions", count(sum("sessions")), `without a connection: ${count(sum("sessions_waiting"))}`],
    ["Messages in", `${number(rates("messages_accepted"))}/s`, `${number(bounced)}/s came back`],
    ["Messages out", `${number(rates("messages_written"))}/s`, `${count(sum("messages_written"))} since the start`],
    ["Delivery, p99", time(quantile(delivery, 0.99)), delivery.total ? `p50: ${time(quantile(delivery, 0.5))}` : "none lately"],
    ["Commit, p99", time(quantile(commit, 0.99)), commit.total ? `p50: ${time(quantile(commit, 0.5))}` : "none lately"],
    ["Failed logins", `${number(failed === null ? null : failed * 60)}/min`, `${count(sum("logins_failed"))} since the start`],
    ["Newcomers waiting", count(sum("newcomers_waiting")), `logins since the start: ${count(sum("logins"))}`],
  ];
  byId("totals").replaceChildren(...entries.map(([title, value, more]) => {
    const entry = element("div");
    entry.append(element("dt", title), element("dd", value, { class: "value" }),
      element("dd", more, { class: "more" }));
    return entry;
  }));
}

function nodes(status) {
  const rows = status.nodes.map((node, position) => {
    const [kind, word, why] = state(node);
    const row = element("tr", undefined, { role: "row" });
    const name = element("th", nameOf(node), { scope: "row", role: "rowheader" });
    if (position === 0 && status.nodes.length > 1) name.append(element("small", "serves this page"));
    const badge = cell("State", undefined);
    const words = element("span");
    words.append(element("span", `${SYMBOLS[kind]} ${word}`, { class: `state ${kind}` }));
    if (why) words.append(element("small", why));
    badge.append(words);
    row.append(name, badge,
      cell("Sessions", count(node.sessions)),
      cell("Messages/s in, out",
        `${number(rate(node, "messages_accepted"))}, ${number(rate(node, "messages_written"))}`),
      cell("Delivery p50, p99", times(recent(node, "delivery"))),
      cell("Commit p50, p99", times(recent(node, "commit"))),
      cell("Newcomers waiting", count(node.newcomers_waiting)),
      cell("Database", `${node.storage}: ${node.storage_away ? "✕ away" : "there"}`),
      cell("Redis", redis(node)),
      cell("Memory", `${count(Math.round(node.memory_bytes / 1048576))} MiB`),
      cell("Up", duration(node.uptime_ms)),
      cell("Version", node.version));
    return row;
  });
  rows.push(...status.unanswered.map(({ node, reason }) => {
    const row = element("tr", undefined, { role: "row" });
    const said = element("td", undefined, { role: "cell", colspan: NODE_COLUMNS.length - 1, "data-label": "State" });
    const words = element("span");
    words.append(element("span", "✕ no answer", { class: "state bad" }), element("small", reason));
    said.append(words);
    row.append(element("th", node, { scope: "row", role: "rowheader" }), said);
    return row;
  }));
  byId("nodes-body").replaceChildren(...rows);
}

function redis(node) {
  if (!node.node) return "not used";
  return node.redis_away.length ? `✕ away for ${node.redis_away.join(", ")}` : "there";
}

function cell(label, text) {
  const attributes = { role: "cell", "data-label": label };
  if (NUMBERS.has(label)) attributes.class = "number";
  return element("td", text, attributes);
}

function events(nodes) {
  // The newest first, also of those in one second.
  const all = nodes.flatMap((node) => node.events.map((event) => ({ ...event, node: nameOf(node) })).reverse());
  all.sort((one, other) => Date.parse(other.last) - Date.parse(one.last));
  const kinds = { error: ["bad", "✕ error"], warn: ["warn", "! warning"], info: ["", "info"] };
  byId("no-events").hidden = all.length > 0;
  byId("events").hidden = all.length === 0;
  byId("events-body").replaceChildren(...all.slice(0, EVENTS_SHOWN).map((event) => {
    const row = element("tr", undefined, { role: "row" });
    const [kind, word] = kinds[event.level];
    const when = cell("When");
    when.append(element("time", clock(new Date(event.last)), { datetime: event.last }));
    const badge = cell("Kind");
    badge.append(element("span", word, kind ? { class: `state ${kind}` } : {}));
    const what = cell("What", event.text);
    if (event.times > 1) {
      what.append(element("small", `${count(event.times)} times since ${clock(new Date(event.first))}`));
    }
    row.append(when, cell("Node", event.node), badge, what);
    return row;
  }));
}

// Beginning.

function head(id, columns) {
  byId(id).append(...columns.map((title) => element("th", title, {
    scope: "col", role: "columnheader", ...(NUMBERS.has(title) ? { class: "number" } : {}),
  })));
}

head("nodes-head", NODE_COLUMNS);
head("events-head", EVENT_COLUMNS);
byId("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token");
  sessionStorage.setItem(TOKEN, token.value.trim());
  token.value = "";
  ask();
});
byId("leave").addEventListener("click", () => enter());
document.addEventListener("visibilitychange", () => { if (!document.hidden && lastSeen) ask(); });
ask();
