// What changes in a bucket, live, by its feed.

import { explain, get, query } from "./api.js";
import { badge, h, panel } from "./dom.js";
import { clock } from "./format.js";

const WAIT_MS = 20_000;
const RETRY_MS = 2_000;
/** The changes that are kept on the page. */
const SHOWN = 20;

/** Follows a bucket from now on; calls `changed` after each page with changes. Returns what ends it. */
export function follow(bucket, state, changed) {
  const ended = new AbortController();
  const { signal } = ended;
  (async () => {
    let cursor = "now";
    while (!signal.aborted) {
      try {
        const path = `/feed/${encodeURIComponent(bucket)}${query({ cursor, wait_ms: WAIT_MS })}`;
        const page = await get(path, { signal, timeout_ms: 2 * WAIT_MS });
        cursor = page.cursor;
        const at = clock(new Date());
        const news = page.changes.map((it) => ({ ...it, at }));
        state.changes = [...news.reverse(), ...state.changes].slice(0, SHOWN);
        if (news.length > 0 || state.failed) changed();
        state.failed = null;
      } catch (error) {
        if (signal.aborted) return;
        // Without its cursor it begins again: the page shows what it can.
        cursor = error.problem?.cursor ?? cursor;
        state.failed = explain(error);
        changed();
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  })();
  return () => ended.abort();
}

/** The last changes. */
export function changesPanel(state, choose) {
  return panel(
    "Changes",
    { aside: "live", class: "feed" },
    state.failed ? h("p", { class: "check bad" }, state.failed) : null,
    state.changes.length === 0 ? h("p", { class: "empty" }, "Nothing has changed since the page was opened.") : null,
    h(
      "ul",
      { class: "key-list" },
      state.changes.map((it, at) =>
        h(
          "li",
          { key: `${it.at} ${it.key} ${at}` },
          h("span", { class: "dim" }, it.at, " "),
          h("button", { type: "button", class: "mono", on: { click: () => choose(it.key) } }, it.key),
          " ",
          kindOf(it),
        ),
      ),
    ),
  );
}

function kindOf(change) {
  if (change.deleted) return badge("note", change.expired ? "expired" : "deleted");
  if (change.status === 300) return badge("warn", `${change.siblings_count} siblings`);
  return badge("good", "written");
}
