// The key explorer: keys by prefix, reads and writes with any N, R and W, and what each request did.

import { ask, explain, get, keyPath, query, Refused } from "./api.js";
import { draw } from "./dom.js";
import { body } from "./explorer_view.js";
import { nothing } from "./find.js";
import { follow as followBucket } from "./follow.js";
import { number } from "./promise.js";
import { typedKey } from "./typed.js";

const PAGE = 100;
/** How often to ask for what happened after the answer, in milliseconds. */
const TRACE_AGAIN_MS = [0, 300, 700, 1500, 3000];

/** Opens the page; a bucket and a key may be given. */
export function explorer(main, [bucket = "", key = ""], say) {
  const page = {
    bucket,
    key,
    prefix: "",
    names: [],
    ring: null,
    homes: null,
    keys: null,
    cursor: null,
    complete: true,
    keysFailed: null,
    terms: null,
    type: "value",
    typed: null,
    homesN: 3,
    context: null,
    answer: null,
    trace: null,
    explains: true,
    located: null,
    busy: false,
    failed: null,
    lifetime: null,
    feed: null,
    unfollow: null,
    find: nothing(),
    draft: { value: "", type: "text/plain; charset=utf-8", expires: "", index: "" },
  };
  const show = () => draw(main, body(page, act));
  const act = actions(page, show, say);
  act.begin();
  return () => page.unfollow?.();
}

function actions(page, show, say) {
  const act = {
    show,
    async begin() {
      show();
      try {
        const [all, ring, homes] = await Promise.all([
          get("/buckets"),
          get("/ring"),
          get("/ring/partitions"),
        ]);
        Object.assign(page, { names: all.buckets.map((it) => it.bucket), ring, homes });
      } catch (error) {
        page.failed = explain(error);
      }
      await act.choose(page.bucket, page.key);
    },
    async choose(bucket, key) {
      const isOther = bucket !== page.bucket || page.terms === null;
      Object.assign(page, {
        bucket,
        key,
        context: null,
        answer: null,
        trace: null,
        located: null,
        typed: null,
        failed: null,
      });
      if (isOther) page.find = nothing();
      if (isOther && bucket) await Promise.all([act.properties(), act.list(false)]);
      if (bucket && key) await Promise.all([act.locate(), act.openTyped()]);
      show();
    },
    async properties() {
      try {
        const properties = await get(`/buckets/${encodeURIComponent(page.bucket)}`);
        const { n, r, w, sloppy, type, expires_in_s, feed_retention_s } = properties;
        page.type = type ?? "value";
        page.lifetime = expires_in_s ?? null;
        page.homesN = n;
        act.follow(Boolean(feed_retention_s));
        page.terms = { n, r: number(r, n), w: number(w, n), sloppy };
      } catch (error) {
        page.failed = explain(error);
      }
    },
    follow(hasFeed) {
      page.unfollow?.();
      page.unfollow = null;
      page.feed = hasFeed ? { changes: [], failed: null } : null;
      if (!hasFeed) return;
      page.unfollow = followBucket(page.bucket, page.feed, () => {
        show();
        if (!page.listing) act.list(false);
      });
    },
    async openTyped() {
      if (page.type === "value") return;
      const { bucket, key, type } = page;
      page.typed = typedKey({
        bucket,
        key,
        type,
        show,
        say,
        terms: () => page.terms ?? {},
        changed: () => act.list(false),
      });
      await page.typed.load();
    },
    async list(more) {
      page.listing = true;
      try {
        const got = await get(
          `/keys/${encodeURIComponent(page.bucket)}` +
            query({ prefix: page.prefix, limit: PAGE, cursor: more ? page.cursor : null }),
        );
        Object.assign(page, {
          keys: more ? [...page.keys, ...got.keys] : got.keys,
          cursor: got.cursor,
          complete: got.complete,
          keysFailed: null,
        });
      } catch (error) {
        page.keysFailed = explain(error);
      }
      page.listing = false;
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
    page.answer = {
      method,
      status: answer.status,
      took_ms: performance.now() - begun,
      headers: answer.headers,
      ...(await contentOf(answer)),
    };
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
