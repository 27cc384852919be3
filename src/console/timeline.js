// An explained request as a timeline: one lane per node, from the arrival of the request at the entry node.

import { badge, h, notice, svg, table } from "./dom.js";
import { clock, micros } from "./format.js";

const [WIDTH, LEFT, RIGHT, LANE] = [1000, 190, 16, 34];
const TOP = 36;
/** The part of the axis for the time until the answer, when there is more after it. */
const UNTIL_ANSWER = 0.74;
/** What an event means, and how it is drawn: good, bad, warn, note, or a plain step. */
const KINDS = {
  routed: "step",
  forwarded: "step",
  accepted: "good",
  refused: "bad",
  silent: "bad",
  not_sent: "bad",
  avoided: "warn",
  minted: "good",
  stored: "good",
  synced: "good",
  asked: "step",
  replied: "good",
  acked: "good",
  hedged: "warn",
  fallback: "warn",
  late: "warn",
  quorum: "goal",
  answered: "goal",
  repaired: "note",
  hinted: "note",
  done: "note",
};
const WORDS = {
  routed: "routed",
  forwarded: "forwarded",
  accepted: "accepted",
  refused: "refused",
  silent: "was silent",
  not_sent: "not sent",
  avoided: "avoided",
  minted: "minted the dot",
  stored: "stored",
  synced: "synced to disk",
  asked: "asked",
  replied: "replied",
  acked: "acknowledged",
  hedged: "asked as a hedge",
  fallback: "took the place",
  late: "answered late",
  quorum: "quorum reached",
  answered: "client answered",
  repaired: "sent a repair",
  hinted: "keeps a hint",
  done: "all done",
};
const ENDS = ["replied", "acked", "refused", "silent", "late", "accepted", "not_sent"];

/** The timeline of a trace, with all events as a table. */
export function timeline(trace) {
  const lanes = lanesOf(trace);
  return h(
    "div",
    { class: "trace" },
    h("p", { class: "sentence" }, sentence(trace)),
    trace.truncated ? notice("note", "The trace was cut: some events are missing.") : null,
    h("div", { class: "scroll", role: "group", "aria-label": "Timeline, drawn" }, drawing(trace, lanes)),
    h(
      "details",
      null,
      h("summary", null, `All ${trace.events.length} events`),
      table(
        "Events",
        [{ name: "After", number: true }, "Node", "What", "Detail"],
        trace.events.map((it, at) => ({
          key: at,
          cells: [
            micros(it.us) === "–" ? "0 µs" : micros(it.us),
            it.node ?? trace.entry,
            what(it.what),
            it.detail ?? "",
          ],
        })),
      ),
    ),
  );
}

function what(name) {
  const kind = { step: "note", goal: "good" }[KINDS[name]] ?? KINDS[name] ?? "note";
  return badge(kind, WORDS[name] ?? name);
}

function sentence(trace) {
  const quorum =
    trace.quorum_us === null || trace.quorum_us === undefined
      ? "without reaching the quorum"
      : `with the quorum after ${micros(trace.quorum_us)}`;
  const place = trace.coordinator
    ? `, coordinated by ${trace.coordinator.node} (${trace.coordinator.why})`
    : "";
  const needed = `${trace.needed} of N = ${trace.n} needed, ${trace.sloppy ? "sloppy" : "strict"}`;
  // Neither is known while the request runs, nor if the client hung up.
  const answered = trace.took_us === null ? "not answered" : `answered after ${micros(trace.took_us)}`;
  const state = `${trace.status}${trace.problem ? ` ${trace.problem}` : ""}`;
  const isGood = trace.status < 400 || trace.status === 404;
  return [
    trace.status === null ? badge("note", "no answer") : badge(isGood ? "good" : "bad", state),
    ` ${trace.method} at ${clock(trace.at)} UTC through ${trace.entry}${place}: ` +
      `${answered}, ${quorum}; ${needed}.`,
  ];
}

/** The nodes of a trace in order: the entry node, the preference list, others that appear. */
export function lanesOf(trace) {
  const seen = new Set(trace.events.map((it) => it.node).filter(Boolean));
  const all = new Set([
    trace.entry,
    ...trace.preference_list.filter((it, at) => at < trace.n || seen.has(it)),
    ...seen,
  ]);
  return [...all].map((node) => ({
    node,
    role: roleOf(trace, node),
    events: trace.events.filter((it) => (it.node ?? trace.entry) === node),
  }));
}

function roleOf(trace, node) {
  const place = trace.preference_list.indexOf(node);
  const roles = [];
  if (node === trace.entry) roles.push("entry");
  if (node === trace.coordinator?.node) roles.push("coordinator");
  if (place >= 0) roles.push(place < trace.n ? `home ${place + 1}` : "fallback");
  return roles.join(", ");
}

function drawing(trace, lanes) {
  const last = Math.max(trace.took_us ?? 0, 1, ...trace.events.map((it) => it.us));
  const answered = Math.max(trace.took_us ?? last, 1);
  const isMore = last > answered * 1.02;
  const room = WIDTH - LEFT - RIGHT;
  const x = (us) =>
    LEFT +
    room *
      (!isMore
        ? us / answered
        : us <= answered
          ? (us / answered) * UNTIL_ANSWER
          : UNTIL_ANSWER + ((us - answered) / (last - answered)) * (1 - UNTIL_ANSWER));
  const height = TOP + lanes.length * LANE + 26;
  const words = trace.events.map(
    (it) => `${micros(it.us)} ${it.node ?? trace.entry} ${WORDS[it.what] ?? it.what}`,
  );
  return svg(
    "svg",
    {
      class: "timeline",
      viewBox: `0 0 ${WIDTH} ${height}`,
      role: "img",
      "aria-label": `Timeline. ${words.slice(0, 60).join("; ")}`,
    },
    isMore
      ? svg("rect", {
          class: "after",
          x: x(answered),
          y: TOP - 6,
          width: x(last) - x(answered) + RIGHT,
          height: lanes.length * LANE + 6,
        })
      : null,
    axis(x, answered, last, isMore, height),
    goal(trace.quorum_us, "quorum", x, height),
    goal(trace.took_us, "answer", x, height),
    lanes.map((lane, at) => laneOf(lane, TOP + at * LANE, x)),
  );
}

function axis(x, answered, last, isMore, height) {
  const step = niceStep(answered / 5);
  const ticks = [];
  for (let us = 0; us <= answered; us += step) ticks.push(us);
  if (isMore) ticks.push(last);
  return svg(
    "g",
    { class: "axis" },
    ticks.map((us, at) => [
      svg("line", { x1: x(us), x2: x(us), y1: TOP - 6, y2: height - 20 }),
      svg(
        "text",
        {
          x: x(us),
          y: height - 6,
          "text-anchor": at === 0 ? "start" : us === last && isMore ? "end" : "middle",
        },
        us === 0 ? "0" : micros(us),
      ),
    ]),
  );
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  return [1, 2, 5, 10].find((it) => it * power >= rough) * power;
}

function goal(us, text, x, height) {
  if (us === null || us === undefined) return null;
  // Both lines may be close: their names are one above the other.
  const y = text === "answer" ? 10 : 24;
  return svg(
    "g",
    { class: `goal ${text}` },
    svg("line", { x1: x(us), x2: x(us), y1: TOP - 6, y2: height - 20 }),
    svg("text", { x: x(us) - 4, y, "text-anchor": "end" }, `${text} ${micros(us)}`),
  );
}

function laneOf(lane, y, x) {
  const middle = y + LANE / 2 + 4;
  let free = 0;
  const marks = lane.events.map((it) => {
    const at = x(it.us);
    // The two goals are named at their lines.
    const fits = at >= free && KINDS[it.what] !== "goal";
    if (fits) free = at + it.what.length * 6.2 + 14;
    const end = at > WIDTH - 80;
    return svg(
      "g",
      { class: `event ${KINDS[it.what] ?? "step"}` },
      svg(
        "title",
        null,
        `${micros(it.us)}: ${WORDS[it.what] ?? it.what}${it.detail ? `, ${it.detail}` : ""}`,
      ),
      svg("circle", { cx: at, cy: middle, r: 4 }),
      fits
        ? svg(
            "text",
            { x: end ? at + 4 : at - 3, y: middle - 9, "text-anchor": end ? "end" : "start" },
            it.what,
          )
        : null,
    );
  });
  return svg(
    "g",
    { class: "lane" },
    svg("line", { class: "base", x1: LEFT, x2: WIDTH - RIGHT, y1: middle, y2: middle }),
    svg("text", { class: "name", x: 0, y: middle + 1 }, lane.node),
    svg("text", { class: "dim", x: LEFT - 12, y: middle + 1, "text-anchor": "end" }, lane.role),
    bars(lane.events, x).map(([from, to, kind]) =>
      svg("rect", {
        class: `bar ${kind}`,
        x: from,
        y: middle - 2.5,
        width: Math.max(to - from, 1),
        height: 5,
      }),
    ),
    marks,
  );
}

// From each question to what came of it.
function bars(events, x) {
  const found = [];
  let asked = null;
  for (const it of events) {
    if (["asked", "hedged", "forwarded", "fallback"].includes(it.what)) asked ??= it.us;
    else if (asked !== null && ENDS.includes(it.what)) {
      found.push([x(asked), x(it.us), KINDS[it.what]]);
      asked = null;
    }
  }
  return found;
}
