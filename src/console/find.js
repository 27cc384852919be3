// Finding keys by a secondary index, and the index entries of a value.

import { explain, get, query } from "./api.js";
import { field, h, notice, panel } from "./dom.js";

const PAGE = 100;

/** Nothing is asked for yet. */
export const nothing = () => ({ index: "", from: "", to: "", found: null, failed: null });

/** The form, and what was found; `choose` opens a key. */
export function findPanel(bucket, state, { show, choose }) {
  const input = (label, name, help) =>
    field(
      label,
      h("input", {
        type: "text",
        value: state[name],
        autocomplete: "off",
        spellcheck: "false",
        on: {
          input() {
            state[name] = this.value;
          },
        },
      }),
      help,
    );
  const submit = (event) => {
    event.preventDefault();
    find(bucket, state, show, null);
  };
  return panel(
    "Find by an index",
    { class: "find" },
    h(
      "form",
      { on: { submit } },
      input("Index", "index", "Such as email_s (text) or age_i (numbers)."),
      input("From", "from", "Empty: from the first on."),
      input("To", "to", "The last value, inclusive. Empty: to the end."),
      h("button", { type: "submit", disabled: !bucket }, "Find"),
    ),
    state.failed ? notice("bad", state.failed) : null,
    state.found ? results(state.found, choose) : null,
    state.found?.cursor
      ? h("button", { type: "button", on: { click: () => find(bucket, state, show, state.found) } }, "More")
      : null,
  );
}

async function find(bucket, state, show, before) {
  const path = `/index/${encodeURIComponent(bucket)}/${encodeURIComponent(state.index.trim())}`;
  const range = { from: state.from || null, to: state.to || null };
  try {
    const page = await get(`${path}${query({ ...range, limit: PAGE, cursor: before?.cursor ?? null })}`);
    const complete = page.complete && (before?.complete ?? true);
    state.found = { ...page, complete, entries: [...(before?.entries ?? []), ...page.entries] };
    state.failed = null;
  } catch (error) {
    state.failed = explain(error);
  }
  show();
}

function results({ entries, complete }, choose) {
  const entry = ({ value, key }) =>
    h(
      "li",
      { key: `${value} ${key}` },
      h("span", { class: "dim" }, String(value), " "),
      h("button", { type: "button", class: "mono", on: { click: () => choose(key) } }, key),
    );
  return [
    complete ? null : notice("warn", "Not complete: too few replicas of some partition answered."),
    entries.length
      ? h("ul", { class: "key-list" }, entries.map(entry))
      : h("p", { class: "empty" }, "No value here has such an entry."),
  ];
}

/** The headers that give a value these entries: lines of `index = value`; `null` if a line is none. */
export function headersOf(text) {
  const headers = new Headers();
  for (const line of text.split("\n").filter((it) => it.trim())) {
    const at = line.indexOf("=");
    const [index, value] = [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    if (at < 0 || !/^[a-z0-9_-]+_[si]$/.test(index) || !value) return null;
    headers.append(`Quorate-Index-${index}`, encodeURIComponent(value));
  }
  return Object.fromEntries(headers);
}

/** The entries of a sibling in words: pairs of index and values. */
export const entriesOf = (sibling) =>
  Object.entries(sibling.index ?? {}).map(([index, values]) => [index, values.join(", ")]);
