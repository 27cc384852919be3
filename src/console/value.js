// Stored values on the page: as JSON, text or bytes, never as markup.

import { h } from "./dom.js";
import { rows } from "./diff.js";
import { ago, bytes, duration, many, moment } from "./format.js";

/** Longer values are cut until someone asks for all, in characters. */
const SHOWN_MAX = 20_000;
/** The texts that someone asked for, so that they stay when the page is drawn again; and how many. */
const whole = new Set();
const WHOLE_MAX = 20;

/** The bytes of base64. */
export function unbase64(text) {
  return Uint8Array.from(atob(text), (it) => it.charCodeAt(0));
}

/** What a value is: `{kind: deleted|json|text|bytes, text, json}`. */
export function read({ deleted, value, encoding }) {
  if (deleted) return { kind: "deleted", text: "" };
  if (encoding === "base64") return { kind: "bytes", text: hex(unbase64(value)) };
  const text = value ?? "";
  try {
    const json = JSON.parse(text);
    if (json !== null && typeof json === "object") return { kind: "json", json, text };
  } catch {
    // Not JSON.
  }
  return { kind: "text", text };
}

/** A hex dump of the first bytes. */
function hex(all) {
  const lines = [];
  for (let at = 0; at < Math.min(all.length, 1024); at += 16) {
    const part = [...all.slice(at, at + 16)];
    const digits = part
      .map((it) => it.toString(16).padStart(2, "0"))
      .join(" ")
      .padEnd(48);
    const signs = part.map((it) => (it >= 32 && it < 127 ? String.fromCharCode(it) : "·")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${digits} ${signs}`);
  }
  if (all.length > 1024) lines.push(`… ${bytes(all.length - 1024)} more`);
  return lines.join("\n");
}

/** The text to show of a value: JSON is set out on lines. */
export function pretty(known) {
  return known.kind === "json" ? JSON.stringify(known.json, null, 2) : known.text;
}

/** A value, as it is stored. */
export function valueView(sibling, label) {
  const known = read(sibling);
  if (known.kind === "deleted") {
    const why = sibling.expires_at
      ? "expired: a write without a value took its place"
      : "deleted: a write without a value";
    return h("p", { class: "empty" }, why);
  }
  const text = pretty(known);
  if (text === "") return h("p", { class: "empty" }, "empty: no bytes");
  const isCut = text.length > SHOWN_MAX && !whole.has(text);
  const box = h(
    "pre",
    { class: "value scroll", "aria-label": label, role: "group" },
    isCut ? text.slice(0, SHOWN_MAX) : text,
  );
  return isCut ? h("div", null, box, showAll(text)) : box;
}

/** When a value expires, or when it did; nothing for one that does not. */
export function expiryView({ expires_at: at, deleted = false }) {
  if (!at) return null;
  const over = isOver({ expires_at: at, deleted });
  return h(
    "p",
    { class: "dim small" },
    over ? `expired ${ago(at)}` : `expires in ${duration(new Date(at) - Date.now())}`,
    " (at ",
    h("time", { datetime: at }, moment(at)),
    over && !deleted ? "); no read shows it, and it will be removed" : ")",
  );
}

/** Whether a value has expired: another write may not have taken its place yet. */
export function isOver({ expires_at: at, deleted }) {
  return Boolean(at) && (Boolean(deleted) || new Date(at) <= new Date());
}

/** A text input for how long a value lives, with what is wrong with it. `set` gets what is typed. */
export function lifetimeInput(id, text, wrong, set) {
  return h("input", {
    type: "text",
    id,
    value: text,
    autocomplete: "off",
    spellcheck: "false",
    "aria-invalid": String(wrong),
    on: {
      input() {
        set(this.value);
      },
    },
  });
}

/** What can be typed there. */
export const LIFETIMES = "Such as 90 s, 15 min, 2 h or 7 d, or never.";

// The elements that are drawn may not be those made here, hence `this`.
function showAll(text) {
  const show = function () {
    if (whole.size > WHOLE_MAX) whole.clear();
    whole.add(text);
    this.previousElementSibling.textContent = text;
    this.remove();
  };
  return h("button", { type: "button", on: { click: show } }, `Show all ${bytes(text.length)}`);
}

/** Two texts side by side, with what differs marked. */
export function diffView(a, b, names) {
  const all = rows(a, b);
  const near = nearChanges(all);
  const side = (it, kind) =>
    it
      ? [
          h("td", { class: "line-number", "aria-hidden": "true" }, it.number),
          h(
            "td",
            { class: `code ${kind}` },
            it.parts.map(({ text, changed }) =>
              changed && kind !== "same" ? h(kind === "left" ? "del" : "ins", null, text) : text,
            ),
          ),
        ]
      : [h("td", { class: "line-number" }), h("td", { class: "code none" })];
  const lines = [];
  let hidden = 0;
  const flush = () => {
    if (hidden)
      lines.push(h("tr", { class: "skipped" }, h("td", { colspan: 4 }, many(hidden, "equal line"))));
    hidden = 0;
  };
  all.forEach((row, at) => {
    if (!near.has(at)) {
      hidden += 1;
      return;
    }
    flush();
    lines.push(
      h(
        "tr",
        null,
        side(row.left, row.kind === "same" ? "same" : "left"),
        side(row.right, row.kind === "same" ? "same" : "right"),
      ),
    );
  });
  flush();
  const changed = all.filter((it) => it.kind !== "same").length;
  return h(
    "div",
    {
      class: "scroll",
      role: "group",
      "aria-label": `Differences between ${names.join(" and ")}`,
    },
    h(
      "table",
      { class: "diff" },
      h("caption", { class: "hidden" }, `${many(changed, "line")} changed`),
      h(
        "colgroup",
        null,
        ["line", "", "line", ""].map((it) => h("col", { class: it })),
      ),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          names.map((name) => h("th", { scope: "col", colspan: 2 }, name)),
        ),
      ),
      h("tbody", null, lines),
    ),
  );
}

function nearChanges(all) {
  const near = new Set();
  all.forEach((row, at) => {
    if (row.kind !== "same") for (let by = -3; by <= 3; by += 1) near.add(at + by);
  });
  return near.size ? near : new Set(all.slice(0, 5).keys());
}
