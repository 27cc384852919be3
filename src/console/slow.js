// Slow and failed requests that this node has kept as traces.

import { explain, get, pageOf } from "./api.js";
import { badge, draw, h, notice, panel, table, unseen } from "./dom.js";
import { ago, many, micros } from "./format.js";
import { timeline } from "./timeline.js";

const LIMIT = 100;

/** Opens the list; the id of a trace may follow. */
export function slow(main, [id], say) {
  const page = {
    traces: null,
    failed: null,
    absent: false,
    chosen: id ?? null,
    trace: null,
    gone: null,
    busy: false,
  };
  const show = () => draw(main, body(page, act));
  const act = {
    async load() {
      page.busy = true;
      show();
      try {
        page.traces = (await get(`/explain?slow=true&limit=${LIMIT}`)).traces;
        page.failed = null;
        say(`${many(page.traces.length, "request")} kept.`);
      } catch (error) {
        page.absent = error.name === "no_such_route";
        page.failed = page.absent ? null : explain(error);
      }
      page.busy = false;
      show();
    },
    async open(which) {
      Object.assign(page, { chosen: which, trace: null, gone: null });
      history.replaceState(null, "", `#/slow/${encodeURIComponent(which)}`);
      try {
        page.trace = await get(`/explain/${encodeURIComponent(which)}`);
      } catch (error) {
        page.gone = error.name === "no_such_explanation" ? "This trace is no longer kept." : explain(error);
      }
      show();
      document.getElementById("trace")?.focus();
    },
  };
  show();
  act.load();
  if (page.chosen) act.open(page.chosen);
  return null;
}

const WHY = { slow: ["warn", "slow"], failed: ["bad", "failed"], asked: ["note", "asked for"] };

function body(page, act) {
  return [
    h("h1", null, "Slow and failed requests"),
    page.failed ? notice("bad", page.failed) : null,
    page.absent
      ? notice("note", "This node keeps no explained requests: its release does not have GET /explain.")
      : null,
    page.absent
      ? null
      : panel(
          "Kept by this node",
          {
            aside: h(
              "button",
              { type: "button", disabled: page.busy, on: { click: act.load } },
              "Look again",
            ),
          },
          h(
            "p",
            { class: "help" },
            "Of its own accord a node keeps the last slow and failed requests that it was the entry " +
              "node of, newest first.",
          ),
          page.traces
            ? table(
                "Slow and failed requests",
                [
                  "When",
                  "Why",
                  "Method",
                  "Key",
                  { name: "Status", number: true },
                  { name: "Took", number: true },
                  unseen("Explanation"),
                ],
                page.traces.map((it) => ({
                  key: it.id,
                  class: it.id === page.chosen ? "chosen" : "",
                  cells: [
                    h("time", { datetime: it.at, title: it.at }, ago(it.at)),
                    badge(...(WHY[it.why] ?? ["note", it.why])),
                    it.method,
                    h("span", { class: "mono" }, `${it.bucket}/${it.key}`),
                    it.status === null ? "–" : String(it.status),
                    micros(it.took_us),
                    h(
                      "button",
                      {
                        type: "button",
                        "aria-label": `Explain ${it.method} ${it.bucket}/${it.key}`,
                        on: { click: () => act.open(it.id) },
                      },
                      "Explain",
                    ),
                  ],
                })),
                "Nothing was slow, and nothing failed.",
              )
            : h("p", { class: "empty" }, "Loading"),
        ),
    page.chosen && !page.absent
      ? h(
          "div",
          { id: "trace", tabindex: -1 },
          panel(
            "Explained",
            { aside: page.chosen },
            page.gone
              ? notice("warn", page.gone)
              : page.trace
                ? [
                    h(
                      "p",
                      null,
                      h("span", { class: "mono" }, `${page.trace.bucket}/${page.trace.key}`),
                      " ",
                      h(
                        "a",
                        {
                          href: pageOf(page.trace.bucket, page.trace.key),
                        },
                        "inspect the key",
                      ),
                    ),
                    timeline(page.trace),
                  ]
                : h("p", { class: "empty" }, "Loading"),
          ),
        )
      : null,
  ];
}
