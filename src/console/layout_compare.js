// What a planned change comes to: the ring and the load of each node before and after, what moves, and what
// speaks against it.

import { factsOf, h, notice, panel, svg, table } from "./dom.js";
import { bytes, count } from "./format.js";
import { ringDrawing } from "./ring.js";

const [WIDTH, HEIGHT] = [200, 20];

/**
 * Bars of a node's load: `{before, after, fair}`, of which `before` and `fair` may be missing, as parts of
 * `most`.
 */
export function loadBars(name, { before, after, fair }, most) {
  const long = (value) => (typeof value === "number" ? (Math.max(value, 0) / most) * (WIDTH - 2) : 0);
  const words = [
    typeof before === "number" ? `before ${count(before)}` : "",
    `${typeof before === "number" ? "after" : "load"} ${count(after)}`,
    `fair share ${count(fair)}`,
  ];
  const bar = (className, value, y, height) =>
    svg("rect", { class: className, x: 0, y, width: long(value).toFixed(1), height });
  const at = long(fair).toFixed(1);
  return svg(
    "svg",
    {
      class: "load",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `${name}: ${words.filter(Boolean).join(", ")}`,
    },
    typeof before === "number" ? bar("before", before, 2, 7) : null,
    typeof before === "number" ? bar("after", after, 11, 7) : bar("after", after, 5, 10),
    typeof fair === "number" ? svg("line", { class: "fair", x1: at, x2: at, y1: 0, y2: HEIGHT }) : null,
  );
}

/** The rings before and after, as the drawing takes them: `side` is "before" or "after". */
export function ringOf(known, plan, side) {
  const zones = new Map(known.members.map((it) => [it.name, it.zone]));
  if (side === "after") {
    for (const it of plan.body.changes) {
      const other = known.waiting.find((one) => one.name === (it.new ?? it.name));
      const zone = it.zone ?? (it.op === "replace" ? zones.get(it.old) : (zones.get(it.name) ?? other?.zone));
      zones.set(it.new ?? it.name, zone);
    }
  }
  const { load } = plan.answer;
  const nodes = load
    .filter((it) => it[side] > 0)
    .map((it) => ({
      node: it.name,
      zone: zones.get(it.name) ?? "",
      partitions: it[side],
      of_fair_share: it.fair > 0 ? Number((it[side] / it.fair).toFixed(3)) : 0,
    }));
  // A node has the same colour in both.
  const order = load.map((it) => it.name);
  return { nodes, order, partitions: known.partitions, n: known.n };
}

/** The comparison, and the decision. */
export function comparison(known, page, act) {
  const { answer, accepted } = page.plan;
  const { moves, warnings, refusals } = answer;
  const isOld = answer.base !== known.hash;
  const isFree = refusals.length === 0 && warnings.every((_, at) => accepted.has(at)) && !isOld;
  return panel(
    "What the change comes to",
    {
      class: "comparison",
      aside: answer.joint ? "two layouts are in force while data moves" : "moves no data",
    },
    isOld ? notice("warn", "Another record is in force since this was planned. Compare again.") : null,
    refusals.map((it) => notice("bad", h("code", null, it.name), " ", it.text)),
    h(
      "div",
      { class: "grid halves" },
      ["before", "after"].map((side) => drawing(known, page.plan, side)),
    ),
    loads(answer.load),
    factsOf([
      ["Replicas of partitions that move", count(moves.replicas)],
      ["The least possible", count(moves.least)],
      ["About", `${bytes(moves.bytes_estimate)}, ${count(moves.rows_estimate)} rows`],
    ]),
    warnings.length ? h("h3", { class: "spaced" }, "Accept, or change the plan") : null,
    warnings.map((it, at) => warning(it, at, accepted, act)),
    h(
      "div",
      { class: "actions" },
      refusals.length ? h("span", { class: "check bad" }, "It cannot be made as it is.") : null,
      h(
        "button",
        { type: "button", class: "primary", disabled: !isFree || page.busy, on: { click: act.commit } },
        "Commit",
      ),
    ),
  );
}

function drawing(known, plan, side) {
  const ring = ringOf(known, plan, side);
  const states = {};
  return h(
    "div",
    { key: side },
    h("h3", null, side === "before" ? "Before" : "After"),
    h("div", { class: "ring-box" }, ringDrawing({ key: JSON.stringify(ring), ring, homes: null, states })),
  );
}

function loads(load) {
  const most = Math.max(1, ...load.flatMap((it) => [it.before, it.after, it.fair]));
  return table(
    "Load of each node before and after",
    [
      "Node",
      { name: "Before", number: true },
      { name: "After", number: true },
      { name: "Fair share", number: true },
      "Before and after",
    ],
    load.map((it) => ({
      key: it.name,
      cells: [
        it.name,
        count(it.before),
        count(it.after),
        count(it.fair),
        h("div", { class: "in-cell wide" }, loadBars(it.name, it, most)),
      ],
    })),
  );
}

function warning(it, at, accepted, act) {
  return h(
    "p",
    { key: `${at} ${it.name}` },
    h(
      "label",
      { class: "check-label" },
      h("input", {
        type: "checkbox",
        checked: accepted.has(at),
        on: {
          change() {
            act.accept(at, this.checked);
          },
        },
      }),
      h("span", null, h("code", null, it.name), " ", it.text),
    ),
  );
}

/** What a commit is asked about. */
export function review(plan, sentences) {
  const { moves, warnings } = plan.answer;
  return [
    h(
      "ul",
      { class: "plain" },
      sentences.map((it) => h("li", null, it)),
    ),
    h(
      "p",
      null,
      `${count(moves.replicas)} replicas of partitions move, about ${bytes(moves.bytes_estimate)}.`,
    ),
    warnings.map((it) => notice("warn", it.text)),
    plan.body.gone.length
      ? notice(
          "bad",
          `It is declared that the disk of ${plan.body.gone.join(", ")} never comes back, for good.`,
        )
      : null,
  ];
}
