// The causal history of a key as a graph: what is known from the inspection, and no more. The node keeps one
// clock per object, not what each write saw: of superseded writes it is therefore known that a sibling saw
// them, directly or through others, but with several siblings not which. Resolutions made on this page are
// known exactly.

import { h, svg } from "./dom.js";
import { list, many, shortDot } from "./format.js";

const ROW = 46;
const LANES_MAX = 12;
const COLUMNS = { past: 2, bar: 210, now: 252, next: 484 };
const [BOX_WIDTH, BOX_HEIGHT] = [184, 32];

/**
 * The parts of the graph: past writes by actor, current siblings, and old siblings that replicas still hold.
 */
export function history(report) {
  const current = new Set(report.siblings.map((it) => it.dot));
  const held = new Map();
  for (const replica of report.replicas) {
    const hinted = replica.hints.flatMap((it) => it.dots.map((dot) => [dot, `hint at ${it.at}`]));
    for (const [dot, at] of [...(replica.dots ?? []).map((it) => [it, replica.node]), ...hinted]) {
      if (!current.has(dot)) held.set(dot, [...(held.get(dot) ?? []), at]);
    }
  }
  const past = (report.clock ?? []).map((dot) => {
    const [actor, last] = [dot.slice(0, 16), Number(dot.slice(17))];
    const alive = report.siblings.filter((it) => it.dot.startsWith(actor));
    const old = [...held].filter(([it]) => it.startsWith(actor));
    return { actor, last, superseded: last - alive.length - old.length, old };
  });
  return { past, siblings: report.siblings };
}

/**
 * The graph, with the same in words. `known` maps a dot to the dots that it superseded, as seen on this page.
 */
export function historyView(report, known) {
  if (!report.clock) return h("p", { class: "empty" }, "This node does not tell the clock of a key.");
  const { past, siblings } = history(report);
  const boxes = pastBoxes(past);
  const shown = boxes.slice(0, LANES_MAX);
  const heights = Math.max(shown.length, siblings.length, 1);
  const height = heights * ROW + 36;
  const y = (at, of) => 30 + (at + (heights - of) / 2 + 0.5) * ROW - ROW / 2 + 6;
  const middle = 30 + (heights * ROW) / 2 - 10;
  const isConflict = siblings.length > 1;
  return h(
    "div",
    null,
    h(
      "div",
      { class: "scroll", role: "group", "aria-label": "Causal history, drawn" },
      svg(
        "svg",
        {
          class: "history",
          viewBox: `0 0 ${isConflict ? 630 : 440} ${height}`,
          width: isConflict ? 630 : 440,
          height,
          role: "img",
          "aria-label": inWords(report, past, boxes).join(" "),
        },
        heading(COLUMNS.past, "superseded"),
        heading(COLUMNS.now, many(siblings.length, "sibling")),
        isConflict ? heading(COLUMNS.next, "a resolution") : null,
        edges(shown, siblings, y, middle, known),
        shown.map((it, at) => box(COLUMNS.past, y(at, shown.length), it.title, it.text, it.kind)),
        siblings.map((it, at) =>
          box(
            COLUMNS.now,
            y(at, siblings.length),
            shortDot(it.dot),
            `written at ${it.writer}${it.deleted ? (it.expires_at ? ", expired" : ", a delete") : ""}`,
            "current",
          ),
        ),
        isConflict ? next(siblings, y, middle) : null,
      ),
    ),
    boxes.length > shown.length
      ? h("p", { class: "help" }, `${boxes.length - shown.length} more actors are not drawn.`)
      : null,
    h(
      "ul",
      { class: "plain" },
      inWords(report, past, boxes, known).map((it) => h("li", null, it)),
    ),
  );
}

function pastBoxes(past) {
  return past.flatMap(({ actor, superseded, old }) =>
    [
      ...old.map(([dot, at]) => ({
        kind: "old",
        title: shortDot(dot),
        text: `still on ${list(at)}`,
        dots: [dot],
        actor,
      })),
      superseded > 0
        ? { kind: "past", title: `${actor.slice(0, 6)}…`, text: many(superseded, "write"), dots: [], actor }
        : null,
    ].filter(Boolean),
  );
}

const heading = (x, text) => svg("text", { class: "heading", x, y: 14 }, text);

function box(x, y, title, text, kind) {
  return svg(
    "g",
    { class: `box ${kind}` },
    svg("rect", { x, y: y - BOX_HEIGHT / 2, width: BOX_WIDTH, height: BOX_HEIGHT, rx: 4 }),
    svg("text", { class: "mono", x: x + 10, y: y + 4 }, title),
    svg("text", { class: "dim", x: x + BOX_WIDTH - 10, y: y + 4, "text-anchor": "end" }, text),
  );
}

function edges(past, siblings, y, middle, known) {
  const end = COLUMNS.past + BOX_WIDTH;
  if (past.length === 0 || siblings.length === 0) return null;
  if (siblings.length === 1) {
    const to = y(0, 1);
    return past.map((_, at) => curve(end, y(at, past.length), COLUMNS.now, to, "edge"));
  }
  // Which sibling saw which is not known: all meet in one point.
  return [
    past.map((it, at) => curve(end, y(at, past.length), COLUMNS.bar, middle, "edge")),
    svg("circle", { class: "joint", cx: COLUMNS.bar, cy: middle, r: 4 }),
    siblings.map((it, at) =>
      curve(
        COLUMNS.bar,
        middle,
        COLUMNS.now,
        y(at, siblings.length),
        known.has(it.dot) ? "edge" : "edge maybe",
      ),
    ),
  ];
}

function curve(x1, y1, x2, y2, kind) {
  const bend = (x2 - x1) / 2;
  return svg("path", { class: kind, d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
}

function next(siblings, y, middle) {
  return [
    siblings.map((_, at) =>
      curve(COLUMNS.now + BOX_WIDTH, y(at, siblings.length), COLUMNS.next, middle, "edge maybe"),
    ),
    svg(
      "g",
      { class: "box next" },
      svg("rect", { x: COLUMNS.next, y: middle - BOX_HEIGHT / 2, width: 144, height: BOX_HEIGHT, rx: 4 }),
      svg("text", { x: COLUMNS.next + 10, y: middle + 4 }, "supersedes them all"),
    ),
  ];
}

function inWords(report, past, boxes, known = new Map()) {
  const { siblings } = report;
  const superseded = past.reduce((sum, it) => sum + it.superseded + it.old.length, 0);
  const actors = past.filter((it) => it.superseded + it.old.length > 0).length;
  const said = [];
  if (siblings.length === 0) said.push("There is no value.");
  for (const { dot, writer } of siblings) {
    const sure = known.get(dot);
    if (sure)
      said.push(
        `${shortDot(dot)}, written at ${writer}, superseded ${list(sure.map(shortDot))}: seen on this page.`,
      );
  }
  if (superseded > 0) {
    said.push(
      `${many(superseded, "earlier write")} by ${many(actors, "actor")} ` +
        (siblings.length === 1
          ? "seen by the one value, directly or through others."
          : "superseded; which of the siblings saw which is not recorded."),
    );
  } else if (siblings.length > 0) said.push("Nothing was superseded yet: no writer saw another's value.");
  if (siblings.length > 1) said.push(`The ${siblings.length} siblings are concurrent: none saw another.`);
  for (const it of boxes.filter((box_) => box_.kind === "old")) {
    said.push(`${it.title} is superseded, but ${it.text}: that copy has not been repaired yet.`);
  }
  return said;
}
