// A key of a bucket with a type: its value, the parts that it is merged from, and the operations on it.

import { ask, explain, keyPath, query, Refused } from "./api.js";
import { many, whole } from "./format.js";

/** The types: their names, and what replicas make of operations that did not know of each other. */
export const TYPES = {
  counter: {
    name: "Counter",
    merges:
      "Every actor counts in a share of its own; merging keeps the latest count of each share, and the value " +
      "is their sum: increments made at the same time all count.",
  },
  set: {
    name: "Set",
    merges:
      "Merging keeps every element of which some addition has not been seen by a remove: an element that " +
      "is added while another client removes it stays.",
  },
  flag: {
    name: "Flag",
    merges:
      "Merging keeps it on unless a switching off has seen every switching on: of both at the same time, on wins.",
  },
  map: {
    name: "Map",
    merges:
      "Fields merge one by one: registers keep the latest text, flags stay on and sets keep elements unless " +
      "a remove has seen them, so a field that is changed while another client removes it stays.",
  },
  register_lww: {
    name: "Register",
    merges:
      "Of two texts assigned at the same time merging keeps the one with the later time; the other is lost.",
  },
  hll: {
    name: "Estimate",
    merges:
      "Merging joins the sketches of all replicas: a text counts once, wherever and however often it is " +
      "added; the standard error is 0.8 %, and nothing can be taken out.",
  },
};

/** How many rows of a value are shown at first. */
const ROWS = 200;

const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;

/** JSON, with whole numbers that a double may not hold as texts. */
export function exact(text) {
  return JSON.parse(text.replace(TOKENS, (it) => (/^-?\d{16,}$/.test(it) ? `"${it}"` : it)));
}

/**
 * What is known of such a key, and what can be done to it. `terms()` are the N, R, W and sloppy that were
 * chosen, if any; `changed()` is called after each operation.
 */
export function typedKey({ bucket, key, type, terms = () => ({}), show, say, changed }) {
  const it = {
    bucket,
    key,
    type,
    value: undefined,
    exists: false,
    context: null,
    report: null,
    failed: null,
    told: null,
    busy: false,
    draft: {},
    rows: ROWS,
    show,
    /** Reads the value, and what every node holds of it. */
    async load() {
      if (it.busy) return;
      it.busy = true;
      show();
      await read(it, terms());
      it.busy = false;
      show();
    },
    /** Says what is wrong with what was typed. */
    refuse(text) {
      it.told = { kind: "warn", text };
      say(text);
      show();
    },
    /** One operation, then a read. What `takes` something away takes only what the last read has seen. */
    async run({ body, method = "POST", said, takes = false, clear = false }) {
      if (it.busy) return;
      it.busy = true;
      show();
      const { n, w, sloppy } = terms();
      try {
        const answer = await ask(keyPath("types", bucket, key) + query({ n, w, sloppy }), {
          method,
          body,
          headers: {
            ...(body ? { "Content-Type": "application/json" } : {}),
            ...(takes && it.context ? { "Quorate-Context": it.context } : {}),
          },
        });
        if (clear) it.draft = {};
        await read(it, terms());
        it.told = { kind: "good", text: `${said}. ${summary(it)} ${copies(answer.headers)}` };
        changed?.();
      } catch (error) {
        it.told = await failure(error, () => read(it, terms()));
      }
      it.busy = false;
      show();
      say(it.told.text);
      // What had the focus may be gone, as a row that was removed.
      if (document.activeElement === document.body) document.getElementById("told")?.focus();
    },
  };
  return it;
}

async function read(it, { n, r, sloppy }) {
  const value = async () => {
    const answer = await ask(keyPath("types", it.bucket, it.key) + query({ n, r, sloppy }));
    return { ...exact(await answer.text()), context: answer.headers.get("Quorate-Context") };
  };
  const report = async () => exact(await (await ask(keyPath("siblings", it.bucket, it.key))).text());
  const [got, parts] = await Promise.allSettled([value(), report()]);
  const wrong = [got, parts].find((each) => each.status === "rejected");
  it.failed = wrong ? explain(wrong.reason) : null;
  if (got.status === "fulfilled") {
    Object.assign(it, { value: got.value.value, exists: got.value.exists, context: got.value.context });
  }
  if (parts.status === "fulfilled") it.report = parts.value;
}

async function failure(error, readAgain) {
  if (error.name === "context_ahead" || error.name === "context_needed") {
    await readAgain();
    return {
      kind: "warn",
      text:
        (error.name === "context_ahead"
          ? "Not done: the node that took the operation had not yet received all that this page had read. "
          : "Not done: nothing had been read that could be taken away. ") +
        "The value has been read again; look at it, and do it once more.",
    };
  }
  const isSure = error instanceof Refused && !["partial", "unknown"].includes(error.problem.outcome);
  const begin = isSure ? "Not done." : "It may have been done: look before you do it again.";
  return { kind: "bad", text: `${begin} ${explain(error)}` };
}

function copies(headers) {
  const [acks, hints] = ["Quorate-Acks", "Quorate-Hints"].map((name) => Number(headers.get(name)));
  return (
    `${many(acks, "durable copy", "durable copies")} when the answer came` +
    (hints ? `, ${many(hints, "of them a hint", "of them hints")}.` : ".")
  );
}

/** The value in one sentence. */
export function summary({ type, value, exists }) {
  if (!exists || value === undefined) return "Nothing is there.";
  return (
    {
      counter: () => `The counter is ${whole(value)}.`,
      set: () => `The set has ${many(value.length, "element")}.`,
      flag: () => `The flag is ${value ? "on" : "off"}.`,
      map: () => `The map has ${many(Object.keys(value).length, "field")}.`,
      hll: () => `About ${whole(value)} different texts were added.`,
    }[type]?.() ?? ""
  );
}

/** The elements of a set, each with its parts; `isRead` tells those that the value has. */
export function elementsOf(value, parts, contentOf = (part) => part.content) {
  const all = new Map(value.map((name) => [name, { name, isRead: true, parts: [] }]));
  for (const part of parts) {
    const name = contentOf(part);
    if (!all.has(name)) all.set(name, { name, isRead: false, parts: [] });
    all.get(name).parts.push(part);
  }
  return [...all.values()];
}

/** The fields of a map, one for each name and type: `{name, type, value, isFirst, parts}`. */
export function fieldsOf(value, parts) {
  const isOf = (part, name, type) => part.content?.field === name && part.content.type === type;
  return Object.entries(value).flatMap(([name, types]) =>
    Object.entries(types).map(([type, held], at) => ({
      name,
      type,
      value: held,
      isFirst: at === 0,
      parts: parts.filter((part) => isOf(part, name, type)),
    })),
  );
}

const LEAST = -(2n ** 63n);

/** The body that adds `text`, or takes it off if `sign` is -1; null if no counter counts so. */
export function increment(text, sign) {
  if (!/^[+-]?\d{1,19}$/.test(text.trim())) return null;
  const by = BigInt(sign) * BigInt(text.trim());
  return by >= LEAST && by < -LEAST ? { body: `{"increment":${by}}`, by } : null;
}

/** The body of a change of one field of a map. */
export function fieldChange({ field, how, text }) {
  const change = {
    assign: { register_lww: text },
    on: { flag: true },
    off: { flag: false },
    add: { set: { add: [text] } },
    remove: { set: { remove: [text] } },
  }[how];
  return JSON.stringify({ update: { [field]: change } });
}
