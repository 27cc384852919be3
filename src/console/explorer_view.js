// What the key explorer shows: the keys, the request, its answer, its explanation, and the place of the key.

import { explain, pageOf, Refused } from "./api.js";
import { promiseList } from "./buckets.js";
import { confirm } from "./dialog.js";
import { badge, field, h, notice, panel, table } from "./dom.js";
import { findPanel, headersOf } from "./find.js";
import { changesPanel } from "./follow.js";
import { lifetime, many, seconds } from "./format.js";
import { live } from "./live.js";
import { words } from "./promise.js";
import { ringDrawing } from "./ring.js";
import { timeline } from "./timeline.js";
import { typedPanels } from "./typed_view.js";
import { expiryView, LIFETIMES, lifetimeInput, valueView } from "./value.js";

/** All parts of the page. */
export function body(page, act) {
  return [
    h("h1", null, "Keys"),
    h(
      "div",
      { class: "grid explorer" },
      h(
        "div",
        { class: "column" },
        keys(page, act),
        findPanel(page.bucket, page.find, {
          show: act.show,
          choose: (key) => act.choose(page.bucket, key),
        }),
        page.feed ? changesPanel(page.feed, (key) => act.choose(page.bucket, key)) : null,
      ),
      h(
        "div",
        { class: "column" },
        request(page, act),
        page.failed ? notice("bad", page.failed) : null,
        page.typed ? typedPanels(page.typed) : null,
        page.answer ? answerPanel(page) : null,
        page.answer ? tracePanel(page) : null,
        page.located && page.ring ? placePanel(page) : null,
      ),
    ),
  ];
}

function keys(page, act) {
  const bucket = h("input", {
    type: "text",
    value: page.bucket,
    list: "bucket-names",
    autocomplete: "off",
    spellcheck: "false",
    on: {
      change() {
        act.choose(this.value.trim(), "");
      },
    },
  });
  const prefix = h("input", {
    type: "text",
    value: page.prefix,
    autocomplete: "off",
    spellcheck: "false",
    on: {
      input() {
        page.prefix = this.value;
      },
    },
  });
  return panel(
    "Keys in a bucket",
    { class: "keys" },
    h(
      "form",
      {
        on: {
          submit(event) {
            event.preventDefault();
            if (page.bucket) act.list(false);
          },
        },
      },
      field("Bucket", bucket),
      h(
        "datalist",
        { id: "bucket-names" },
        page.names.map((it) => h("option", { value: it })),
      ),
      field("Prefix", prefix),
      h("button", { type: "submit", disabled: !page.bucket }, "List"),
    ),
    page.keysFailed ? notice("bad", page.keysFailed) : null,
    page.keys && !page.complete
      ? notice("warn", "Not complete: too few replicas of some partition answered.")
      : null,
    page.keys
      ? page.keys.length
        ? h(
            "ul",
            { class: "key-list" },
            page.keys.map((key) =>
              h(
                "li",
                { key },
                h(
                  "button",
                  {
                    type: "button",
                    class: "mono",
                    "aria-current": key === page.key ? "true" : null,
                    on: { click: () => act.choose(page.bucket, key) },
                  },
                  key,
                ),
              ),
            ),
          )
        : h("p", { class: "empty" }, "No key here has a value.")
      : h("p", { class: "empty" }, page.bucket ? "Loading" : "Name a bucket to see its keys."),
    page.cursor ? h("button", { type: "button", on: { click: () => act.list(true) } }, "More") : null,
  );
}

function request(page, act) {
  const key = h("input", {
    type: "text",
    class: "mono",
    value: page.key,
    autocomplete: "off",
    spellcheck: "false",
    on: {
      change() {
        act.choose(page.bucket, this.value);
      },
    },
  });
  const { terms } = page;
  const isReady = Boolean(page.bucket && page.key && terms && !page.busy);
  const nodes = page.ring?.nodes.length ?? page.homesN;
  return panel(
    "Read and write",
    { aside: page.bucket ? `bucket ${page.bucket}` : null },
    field("Key", key, "Any key of the bucket, also one that does not exist yet."),
    terms
      ? h(
          "div",
          { class: "grid quorum" },
          h(
            "div",
            null,
            slider("N", terms.n, page.homesN, "home replicas asked", (it) => act.set("n", it)),
            slider("R", terms.r, terms.n, "must answer a read", (it) => act.set("r", it)),
            slider("W", terms.w, terms.n, "must store a write", (it) => act.set("w", it)),
            h(
              "label",
              { class: "check-label" },
              h("input", {
                type: "checkbox",
                checked: terms.sloppy,
                on: {
                  change() {
                    act.set("sloppy", this.checked);
                  },
                },
              }),
              "Sloppy: fallbacks may stand in",
            ),
          ),
          h(
            "div",
            { class: "promise" },
            h("h3", null, `N ${terms.n}, R ${terms.r}, W ${terms.w} promises`),
            promiseList(words({ ...terms, nodes, homes: page.homesN })),
          ),
        )
      : null,
    page.type === "value" ? editor(page, act, isReady) : null,
  );
}

function editor(page, act, isReady) {
  const [isWrong, isNoIndex] = [seconds(page.draft.expires) === null, !headersOf(page.draft.index)];
  return [
    field(
      "Value to write",
      h("textarea", {
        rows: 4,
        spellcheck: "false",
        value: page.draft.value,
        on: {
          input() {
            page.draft.value = this.value;
          },
        },
      }),
    ),
    field(
      "Content type",
      h("input", {
        type: "text",
        value: page.draft.type,
        spellcheck: "false",
        on: {
          input() {
            page.draft.type = this.value;
          },
        },
      }),
    ),
    field(
      "Expires after",
      lifetimeInput("field-expires", page.draft.expires, isWrong, (text) => {
        page.draft.expires = text;
        act.show();
      }),
      `${LIFETIMES} Empty: as the bucket says, ${lifetime(page.lifetime)}.`,
    ),
    isWrong ? h("p", { class: "check bad" }, "This is no time that a value can live.") : null,
    field(
      "Index entries",
      h("textarea", {
        rows: 2,
        spellcheck: "false",
        value: page.draft.index,
        on: {
          input() {
            page.draft.index = this.value;
            act.show();
          },
        },
      }),
      "One a line, such as email_s = ada@example.org or age_i = 36.",
    ),
    isNoIndex ? h("p", { class: "check bad" }, "A line is no index entry.") : null,
    h(
      "div",
      { class: "actions" },
      h(
        "span",
        { class: "dim grow" },
        page.context ? "A write replaces what was read." : "A write replaces nothing: read first to replace.",
      ),
      h(
        "button",
        { type: "button", class: "primary", disabled: !isReady, on: { click: () => act.send("GET") } },
        "Get",
      ),
      h(
        "button",
        { type: "button", disabled: !isReady || isWrong || isNoIndex, on: { click: () => put(page, act) } },
        "Put",
      ),
      h(
        "button",
        { type: "button", class: "danger", disabled: !isReady, on: { click: () => remove(page, act) } },
        "Delete",
      ),
    ),
  ];
}

function slider(name, value, max, what, set) {
  const id = `slider-${name}`;
  return h(
    "div",
    { class: "slider" },
    h("label", { for: id }, h("b", null, name), " ", h("span", { class: "dim" }, what)),
    h("input", {
      type: "range",
      id,
      min: 1,
      max,
      step: 1,
      value: String(value),
      "aria-valuetext": `${value} of ${max}, ${what}`,
      on: {
        input() {
          set(Number(this.value));
        },
      },
    }),
    h("output", { for: id }, String(value)),
  );
}

const seen = (page) => (page.context ? { "Quorate-Context": page.context } : {});

async function put(page, act) {
  const { value, type, expires, index } = page.draft;
  const lives = seconds(expires);
  await act.send("PUT", {
    body: value,
    headers: {
      "Content-Type": type || "application/octet-stream",
      ...seen(page),
      ...headersOf(index),
      ...(lives ? { "Quorate-Expires-In": String(lives) } : {}),
    },
  });
}

async function remove(page, act) {
  const yes = await confirm({
    title: "Delete this key?",
    action: "Delete",
    danger: true,
    body: h(
      "p",
      null,
      h("code", null, `${page.bucket}/${page.key}`),
      page.context ? " as it was read." : " as a read shows it now.",
    ),
  });
  if (yes) await act.send("DELETE", { headers: seen(page) });
}

function answerPanel(page) {
  const { answer } = page;
  const header = (name) => answer.headers.get(name);
  const facts = [
    ["Acks", "Quorate-Acks"],
    ["Hints", "Quorate-Hints"],
    ["Siblings", "Quorate-Siblings"],
    ["Content type", "Content-Type"],
    ["Entity tag", "ETag"],
    ["Modified", "Last-Modified"],
    ["Expires", "Quorate-Expires-At"],
    ["Expired", "Quorate-Expired"],
    ["Request", "X-Request-Id"],
  ].filter(([, name]) => header(name) !== null);
  for (const name of answer.headers.keys()) {
    if (name.startsWith("quorate-index-")) facts.push([`Index ${name.slice(14)}`, name]);
  }
  const isGood = answer.status < 400;
  return panel(
    "Answer",
    { aside: `${answer.took_ms.toFixed(1)} ms in the browser` },
    h(
      "p",
      null,
      badge(isGood ? "good" : answer.status === 404 ? "note" : "bad", `${answer.method} ${answer.status}`),
      " ",
      inWords(answer),
    ),
    answer.value ? valueView(answer.value, "The value") : null,
    expiryView({ expires_at: header("Quorate-Expires-At") }),
    answer.siblings
      ? h("p", null, h("a", { href: pageOf(page.bucket, page.key) }, "Compare and resolve the siblings"))
      : null,
    answer.siblings
      ? answer.siblings.map((it) => [valueView(it, `Sibling ${it.dot}`), expiryView(it)])
      : null,
    h(
      "details",
      null,
      h("summary", null, "Headers"),
      table(
        "Headers",
        ["Header", "Value"],
        facts.map(([name, of]) => [name, h("code", null, header(of))]),
      ),
    ),
  );
}

function inWords({ method, status, headers, problem, siblings }) {
  if (headers.get("Quorate-Expired") === "true") return "expired: the key had a value, and its time is over.";
  if (problem) return explain(new Refused(status, problem, headers));
  if (siblings) return `${siblings.length} siblings: concurrent writes that nobody has resolved yet.`;
  if (method === "GET") return "one value.";
  const [acks, hints, left] = ["Quorate-Acks", "Quorate-Hints", "Quorate-Siblings"].map((name) =>
    Number(headers.get(name)),
  );
  return (
    `${many(acks, "durable copy", "durable copies")} when the answer came` +
    (hints ? `, ${many(hints, "of them a hint", "of them hints")}` : "") +
    (left > 1 ? `; the key now has ${left} siblings, because the write had not seen the others.` : ".")
  );
}

function tracePanel(page) {
  if (!page.explains) {
    return panel(
      "What the request did",
      null,
      notice("note", "This node does not explain requests: its release does not know ?explain=true."),
    );
  }
  if (!page.trace) return null;
  return panel(
    "What the request did",
    { aside: page.trace.done ? page.trace.id : "still going on" },
    timeline(page.trace),
  );
}

function placePanel(page) {
  const { located, ring, homes } = page;
  const states = Object.fromEntries((live.cluster?.nodes ?? []).map((it) => [it.node, it.state]));
  return panel(
    "Where the key is",
    { aside: `partition ${located.partition}` },
    h(
      "div",
      { class: "grid place-of-key" },
      h("div", { class: "ring-box" }, ringDrawing({ ring, homes, states, located })),
      h(
        "div",
        null,
        h("h3", null, "Order of preference"),
        h(
          "ol",
          null,
          located.preference_list.map((node, place) =>
            h(
              "li",
              null,
              h("b", null, node),
              " ",
              h("span", { class: "dim" }, place < located.n ? "home replica" : "fallback"),
              " ",
              states[node] === "down" ? badge("bad", "down") : null,
            ),
          ),
        ),
        h("p", { class: "help" }, "The line starts at the partition of the key, on the inner circle."),
      ),
    ),
  );
}
