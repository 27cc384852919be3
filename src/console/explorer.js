// The key explorer: keys by prefix, reads and writes with any N, R and W, and what each request did.

import { ask, explain, get, keyPath, query, Refused } from "./api.js";
import { promiseList } from "./buckets.js";
import { confirm } from "./dialog.js";
import { badge, draw, field, h, notice, panel, table } from "./dom.js";
import { list, many } from "./format.js";
import { live } from "./live.js";
import { number, words } from "./promise.js";
import { ringDrawing } from "./ring.js";
import { timeline } from "./timeline.js";
import { valueView } from "./value.js";

const PAGE = 100;
/** How often to ask for what happened after the answer, in milliseconds. */
const TRACE_AGAIN_MS = [0, 300, 700, 1500, 3000];

/** Opens the page; a bucket and a key may be given. */
export function explorer(main, [bucket = "", key = ""], say) {
  const page = {
    bucket, key, prefix: "", names: [], ring: null, homes: null, keys: null, cursor: null, complete: true, keysFailed: null,
    terms: null, homesN: 3, context: null, answer: null, trace: null, explains: true, located: null, busy: false, failed: null,
    draft: { value: "", type: "text/plain; charset=utf-8" },
  };
  const show = () => draw(main, body(page, act));
  const act = actions(page, show, say);
  act.begin();
  return null;
}

function actions(page, show, say) {
  const act = {
    show,
    async begin() {
      show();
      try {
        const [all, ring, homes] = await Promise.all([get("/buckets"), get("/ring"), get("/ring/partitions")]);
        Object.assign(page, { names: all.buckets.map((it) => it.bucket), ring, homes });
      } catch (error) {
        page.failed = explain(error);
      }
      await act.choose(page.bucket, page.key);
    },
    async choose(bucket, key) {
      const isOther = bucket !== page.bucket || page.terms === null;
      Object.assign(page, { bucket, key, context: null, answer: null, trace: null, located: null, failed: null });
      if (isOther && bucket) await Promise.all([act.properties(), act.list(false)]);
      if (bucket && key) await act.locate();
      show();
    },
    async properties() {
      try {
        const { n, r, w, sloppy } = await get(`/buckets/${encodeURIComponent(page.bucket)}`);
        page.homesN = n;
        page.terms = { n, r: number(r, n), w: number(w, n), sloppy };
      } catch (error) {
        page.failed = explain(error);
      }
    },
    async list(more) {
      try {
        const got = await get(`/keys/${encodeURIComponent(page.bucket)}` +
          query({ prefix: page.prefix, limit: PAGE, cursor: more ? page.cursor : null }));
        Object.assign(page, { keys: more ? [...page.keys, ...got.keys] : got.keys, cursor: got.cursor,
          complete: got.complete, keysFailed: null });
      } catch (error) {
        page.keysFailed = explain(error);
      }
      show();
    },
    async locate() {
      try {
        page.located = await get(keyPath("ring", page.bucket, page.key));
      } catch (error) {
        page.failed = explain(error);
      }
    },
    set(name, value) {
      const terms = { ...page.terms, [name]: value };
      page.terms = { ...terms, r: Math.min(terms.r, terms.n), w: Math.min(terms.w, terms.n) };
      show();
    },
    send: (method, options) => send(page, show, say, act, method, options),
  };
  return act;
}

async function send(page, show, say, act, method, options = {}) {
  const { n, r, w, sloppy } = page.terms;
  Object.assign(page, { busy: true, answer: null, trace: null, failed: null });
  show();
  const terms = { n, sloppy, ...(method === "GET" ? { r } : { w }) };
  const begun = performance.now();
  try {
    const answer = await asked(page, terms, { method, accept: [404, 503], ...options });
    page.answer = { method, status: answer.status, took_ms: performance.now() - begun, headers: answer.headers, ...await contentOf(answer) };
    const context = answer.headers.get("Quorate-Context");
    if (context !== null || method !== "GET") page.context = context;
    say(`${method}: status ${answer.status}.`);
    if (method !== "GET" && answer.ok) act.list(false);
  } catch (error) {
    page.failed = explain(error);
    say(page.failed);
  }
  page.busy = false;
  show();
  await follow(page, show);
}

// With an explanation, if this node gives any: a release without them does not know the parameter.
async function asked(page, terms, options) {
  const path = keyPath("kv", page.bucket, page.key);
  if (page.explains) {
    try {
      return await ask(`${path}${query({ ...terms, explain: true })}`, options);
    } catch (error) {
      if (!(error instanceof Refused) || error.problem.parameter !== "explain") throw error;
      page.explains = false;
    }
  }
  return ask(`${path}${query(terms)}`, options);
}

async function contentOf(answer) {
  if (answer.status === 204) return {};
  if (!answer.ok && answer.status !== 300) return { problem: await answer.json().catch(() => ({})) };
  if (answer.status === 300) return { siblings: (await answer.json()).siblings };
  const bytes = new Uint8Array(await answer.arrayBuffer());
  try {
    return { value: { value: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) } };
  } catch {
    const text = Array.from(bytes.slice(0, 4096), (it) => String.fromCharCode(it)).join("");
    return { value: { value: btoa(text), encoding: "base64" } };
  }
}

// What is repaired or delivered after the answer comes later; a trace says when it is complete.
async function follow(page, show) {
  const { answer } = page;
  const id = answer?.headers.get("Quorate-Explain");
  if (!id) return;
  for (const pause of TRACE_AGAIN_MS) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (page.answer !== answer) return;
    try {
      page.trace = await get(`/explain/${encodeURIComponent(id)}`);
    } catch (error) {
      page.trace = null;
      page.failed = `The explanation cannot be had. ${explain(error)}`;
    }
    show();
    if (!page.trace || page.trace.done) return;
  }
}

function body(page, act) {
  return [
    h("h1", null, "Keys"),
    h("div", { class: "grid explorer" }, keys(page, act),
      h("div", { class: "column" }, request(page, act), page.failed ? notice("bad", page.failed) : null,
        page.answer ? answerPanel(page) : null, page.answer ? tracePanel(page) : null,
        page.located && page.ring ? placePanel(page) : null)),
  ];
}

function keys(page, act) {
  const bucket = h("input", { type: "text", value: page.bucket, list: "bucket-names", autocomplete: "off", spellcheck: "false",
    on: { change() { act.choose(this.value.trim(), ""); } } });
  const prefix = h("input", { type: "text", value: page.prefix, autocomplete: "off", spellcheck: "false",
    on: { input() { page.prefix = this.value; } } });
  return panel("Keys in a bucket", { class: "keys" },
    h("form", { on: { submit(event) { event.preventDefault(); if (page.bucket) act.list(false); } } },
      field("Bucket", bucket), h("datalist", { id: "bucket-names" }, page.names.map((it) => h("option", { value: it }))),
      field("Prefix", prefix), h("button", { type: "submit", disabled: !page.bucket }, "List")),
    page.keysFailed ? notice("bad", page.keysFailed) : null,
    page.keys && !page.complete ? notice("warn", "Not complete: too few replicas of some partition answered.") : null,
    page.keys ? (page.keys.length ? h("ul", { class: "key-list" }, page.keys.map((key) => h("li", { key },
      h("button", { type: "button", class: "mono", "aria-current": key === page.key ? "true" : null,
        on: { click: () => act.choose(page.bucket, key) } }, key)))) : h("p", { class: "empty" }, "No key here has a value."))
      : h("p", { class: "empty" }, page.bucket ? "Loading" : "Name a bucket to see its keys."),
    page.cursor ? h("button", { type: "button", on: { click: () => act.list(true) } }, "More") : null);
}

function request(page, act) {
  const key = h("input", { type: "text", class: "mono", value: page.key, autocomplete: "off", spellcheck: "false",
    on: { change() { act.choose(page.bucket, this.value); } } });
  const { terms } = page;
  const isReady = Boolean(page.bucket && page.key && terms && !page.busy);
  const nodes = page.ring?.nodes.length ?? page.homesN;
  return panel("Read and write", { aside: page.bucket ? `bucket ${page.bucket}` : null },
    field("Key", key, "Any key of the bucket, also one that does not exist yet."),
    terms ? h("div", { class: "grid quorum" },
      h("div", null, slider("N", terms.n, page.homesN, "home replicas asked", (it) => act.set("n", it)),
        slider("R", terms.r, terms.n, "must answer a read", (it) => act.set("r", it)),
        slider("W", terms.w, terms.n, "must store a write", (it) => act.set("w", it)),
        h("label", { class: "check-label" }, h("input", { type: "checkbox", checked: terms.sloppy,
          on: { change() { act.set("sloppy", this.checked); } } }), "Sloppy: fallbacks may stand in")),
      h("div", { class: "promise" }, h("h3", null, `N ${terms.n}, R ${terms.r}, W ${terms.w} promises`),
        promiseList(words({ ...terms, nodes, homes: page.homesN })))) : null,
    field("Value to write", h("textarea", { rows: 4, spellcheck: "false", value: page.draft.value,
      on: { input() { page.draft.value = this.value; } } })),
    field("Content type", h("input", { type: "text", value: page.draft.type, spellcheck: "false",
      on: { input() { page.draft.type = this.value; } } })),
    h("div", { class: "actions" },
      h("span", { class: "dim grow" }, page.context ? "A write replaces what was read." : "A write replaces nothing: read first to replace."),
      h("button", { type: "button", class: "primary", disabled: !isReady, on: { click: () => act.send("GET") } }, "Get"),
      h("button", { type: "button", disabled: !isReady, on: { click: () => put(page, act) } }, "Put"),
      h("button", { type: "button", class: "danger", disabled: !isReady, on: { click: () => remove(page, act) } }, "Delete")));
}

function slider(name, value, max, what, set) {
  const id = `slider-${name}`;
  return h("div", { class: "slider" }, h("label", { for: id }, h("b", null, name), h("span", { class: "dim" }, what)),
    h("input", { type: "range", id, min: 1, max, step: 1, value: String(value), "aria-valuetext": `${value} of ${max}, ${what}`,
      on: { input() { set(Number(this.value)); } } }),
    h("output", { for: id }, String(value)));
}

const seen = (page) => (page.context ? { "Quorate-Context": page.context } : {});

async function put(page, act) {
  await act.send("PUT", { body: page.draft.value, headers: { "Content-Type": page.draft.type || "application/octet-stream", ...seen(page) } });
}

async function remove(page, act) {
  const yes = await confirm({ title: "Delete this key?", action: "Delete", danger: true,
    body: h("p", null, h("code", null, `${page.bucket}/${page.key}`), page.context ? " as it was read." : " as a read shows it now.") });
  if (yes) await act.send("DELETE", { headers: seen(page) });
}

function answerPanel(page) {
  const { answer } = page;
  const header = (name) => answer.headers.get(name);
  const facts = [["Acks", "Quorate-Acks"], ["Hints", "Quorate-Hints"], ["Siblings", "Quorate-Siblings"], ["Content type", "Content-Type"],
    ["Entity tag", "ETag"], ["Modified", "Last-Modified"], ["Request", "X-Request-Id"]].filter(([, name]) => header(name) !== null);
  const isGood = answer.status < 400;
  return panel("Answer", { aside: `${answer.took_ms.toFixed(1)} ms in the browser` },
    h("p", null, badge(isGood ? "good" : answer.status === 404 ? "note" : "bad", `${answer.method} ${answer.status}`), " ", inWords(answer)),
    answer.value ? valueView(answer.value, "The value") : null,
    answer.siblings ? h("p", null, h("a", { href: `#/conflicts/${encodeURIComponent(page.bucket)}/${encodeURIComponent(page.key)}` },
      "Compare and resolve the siblings")) : null,
    answer.siblings ? answer.siblings.map((it) => valueView(it, `Sibling ${it.dot}`)) : null,
    h("details", null, h("summary", null, "Headers"), table("Headers", ["Header", "Value"], facts.map(([name, of]) => [name, h("code", null, header(of))]))));
}

function inWords({ method, status, headers, problem, siblings }) {
  if (problem) return explain(new Refused(status, problem, headers));
  if (siblings) return `${siblings.length} siblings: concurrent writes that nobody has resolved yet.`;
  if (method === "GET") return "one value.";
  const [acks, hints, left] = ["Quorate-Acks", "Quorate-Hints", "Quorate-Siblings"].map((name) => Number(headers.get(name)));
  return `${many(acks, "durable copy", "durable copies")} when the answer came${hints ? `, ${many(hints, "of them a hint", "of them hints")}` : ""}` +
    (left > 1 ? `; the key now has ${left} siblings, because the write had not seen the others.` : ".");
}

function tracePanel(page) {
  if (!page.explains) {
    return panel("What the request did", null, notice("note", "This node does not explain requests: its release does not know ?explain=true."));
  }
  if (!page.trace) return null;
  return panel("What the request did", { aside: page.trace.done ? page.trace.id : "still going on" }, timeline(page.trace));
}

function placePanel(page) {
  const { located, ring, homes } = page;
  const states = Object.fromEntries((live.cluster?.nodes ?? []).map((it) => [it.node, it.state]));
  const [home, rest] = [located.preference_list.slice(0, located.n), located.preference_list.slice(located.n)];
  return panel("Where the key is", { aside: `partition ${located.partition}`, class: "ring-panel" },
    h("div", { class: "ring-box" }, ringDrawing({ ring, homes, states, located })),
    h("p", null, "Home replicas, in order of preference: ", h("b", null, list(home)), rest.length ? `. Then as fallbacks: ${list(rest)}.` : "."));
}
