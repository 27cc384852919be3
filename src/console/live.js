// The live stream of this node: `/events`, read with fetch so that a refusal can be shown with its reason.

import { authorization, logIn } from "./login.js";

/** How many seconds of rates are kept. */
export const KEPT = 120;
/** The node sends something every second; silence for this long means that it is cut off. */
const SILENT_MS = 4_000;
const AGAIN_MS = [500, 1_000, 2_000, 3_000];

/** What is known. `status` is connecting, live or cut; `hintHistory` are `{at, keys}` by target. */
export const live = {
  status: "connecting",
  since: Date.now(),
  reason: null,
  heard: null,
  cluster: null,
  hints: null,
  antiEntropy: null,
  jobs: null,
  rates: [],
  hintHistory: new Map(),
};

const listeners = new Set();
let attempts = 0;
let stop = null;

/** Calls `listener` after each change; returns what ends that. */
export function watch(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell() {
  for (const listener of listeners) listener(live);
}

function become(status, reason = null) {
  if (live.status !== status) live.since = Date.now();
  [live.status, live.reason] = [status, reason];
  tell();
}

/**
 * Connects, and again whenever the stream ends. A hidden page gives its stream back: a node has only a few.
 */
export function start() {
  document.addEventListener("visibilitychange", () => (document.hidden ? stop?.abort("hidden") : connect()));
  if (!document.hidden) connect();
  // Ages grow also while nothing arrives.
  setInterval(() => live.status === "cut" && tell(), 1_000);
}

async function connect() {
  if (stop) return;
  const mine = new AbortController();
  stop = mine;
  let silence = setTimeout(() => mine.abort("silent"), SILENT_MS);
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => mine.abort("silent"), SILENT_MS);
  };
  let why = "the stream ended";
  try {
    const headers = authorization();
    const answer = await fetch("/events", { cache: "no-store", signal: mine.signal, headers });
    if (answer.status === 401) {
      clearTimeout(silence); // a person takes longer
      why = (await answer.json().catch(() => ({}))).detail ?? "this node wants a token";
      if (await logIn(why, headers)) why = "logged in";
    } else if (answer.ok) await read(answer.body, heard);
    else if (answer.status === 404) why = "this release has no stream of events";
    else why = (await answer.json().catch(() => ({}))).detail ?? `status ${answer.status}`;
  } catch {
    why =
      { hidden: "the page was hidden", silent: "the node is silent" }[mine.signal.reason] ??
      "the node is gone";
  }
  clearTimeout(silence);
  stop = null;
  if (document.hidden) return;
  become("cut", why);
  setTimeout(connect, AGAIN_MS[Math.min(attempts++, AGAIN_MS.length - 1)]);
}

async function read(body, heard) {
  const text = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await text.read();
    if (done) return;
    heard();
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    let isNews = false;
    for (const block of blocks) isNews = take(block) || isNews;
    if (!isNews) continue;
    attempts = 0;
    live.heard = Date.now();
    become("live");
  }
}

function take(block) {
  const lines = block.split("\n");
  const of = (name) =>
    lines.filter((it) => it.startsWith(`${name}: `)).map((it) => it.slice(name.length + 2));
  const [event] = of("event");
  let data;
  try {
    data = JSON.parse(of("data").join("\n"));
  } catch {
    return false;
  }
  if (event === "cluster") live.cluster = data;
  else if (event === "anti_entropy") live.antiEntropy = data;
  else if (event === "hints") live.hints = data;
  else if (event === "jobs") live.jobs = data.jobs;
  else if (event === "rates") {
    live.rates.push(data);
    if (live.rates.length > KEPT) live.rates.shift();
    remember();
  } else return false;
  return true;
}

// Once a second, how many hints there are: how fast they drain shows only over time.
function remember() {
  if (!live.hints) return;
  const now = Object.fromEntries(live.hints.targets.map(({ node, keys }) => [node, keys]));
  for (const node of new Set([...Object.keys(now), ...live.hintHistory.keys()])) {
    const seen = live.hintHistory.get(node) ?? [];
    seen.push({ at: Date.now(), keys: now[node] ?? 0 });
    if (seen.length > KEPT) seen.shift();
    if (seen.every((it) => it.keys === 0)) live.hintHistory.delete(node);
    else live.hintHistory.set(node, seen);
  }
}
