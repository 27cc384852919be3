// The overview: the ring, the nodes, rates, hints, repair and background jobs, live.

import { consoleOf, get } from "./api.js";
import { sparkline } from "./charts.js";
import { badge, draw, factsOf, h, notice, panel, table } from "./dom.js";
import { drainOf, findings, verdict } from "./findings.js";
import { bytes, count, duration, latency, micros, rate } from "./format.js";
import { jobs } from "./jobs.js";
import { KEPT, live, watch } from "./live.js";
import { colour, ringDrawing, share } from "./ring.js";

/** The kind of mark and the words for the state of a node. */
export const STATES = {
  self: ["good", "this node"],
  up: ["good", "up"],
  suspected: ["warn", "suspected"],
  down: ["bad", "down"],
  incompatible: ["bad", "no common protocol"],
};

/** Opens the page. */
export function overview(main) {
  const page = {
    ring: null,
    homes: null,
    chosen: null,
    drawing: null,
    drawn: "",
    failed: null,
    onlyTroubled: false,
    // The layout that the ring was asked for: another is a reason to ask again.
    layout: null,
    isAsking: false,
  };
  const show = () => draw(main, body(page, show));
  const look = async () => {
    const now = live.cluster?.layout?.hash ?? "unknown";
    if (page.isAsking || page.layout === now) return;
    Object.assign(page, { isAsking: true, layout: now });
    try {
      const [ring, homes] = await Promise.all([get("/ring"), get("/ring/partitions")]);
      Object.assign(page, { ring, homes, failed: null });
    } catch (error) {
      page.failed = error.message;
    }
    page.isAsking = false;
    show();
  };
  look();
  show();
  return watch(() => {
    look();
    show();
  });
}

function body(page, show) {
  const { cluster } = live;
  if (!cluster) return [h("h1", null, "Overview"), h("p", { class: "empty" }, "Waiting for the node")];
  const found = findings(live);
  const { kind, text } = stateOf(cluster, found);
  return [
    h("h1", { class: "hidden" }, "Overview"),
    h(
      "section",
      { class: `verdict ${kind}`, "aria-label": "State" },
      h("p", { class: "sentence" }, h("span", { class: "mark", "aria-hidden": "true" }), text),
      found.length
        ? h(
            "ul",
            { class: "findings" },
            found.map((it) =>
              h(
                "li",
                { class: it.kind },
                h("span", { class: "mark", "aria-hidden": "true" }),
                h("span", null, h("b", null, it.what), it.todo ? ` ${it.todo}` : ""),
              ),
            ),
          )
        : null,
    ),
    h(
      "div",
      { class: "grid split" },
      panel("Ring", { class: "ring-panel" }, ringOf(page, show)),
      h(
        "div",
        { class: "column" },
        panel("Nodes", { class: "nodes", aside: `as ${cluster.node} sees them` }, nodes(page, cluster, show)),
        hints(cluster),
      ),
    ),
    panel(
      "Rates and latencies",
      { aside: `requests to ${cluster.node}, last ${spanOf(live.rates)} s` },
      rates(),
    ),
    repair(),
    jobs(page, show),
  ];
}

// What was true when the stream was cut need not be true now.
function stateOf(cluster, found) {
  const known = verdict(cluster, found);
  return live.status === "cut" ? { kind: "note", text: `When last heard from: ${known.text}` } : known;
}

function ringOf(page, show) {
  if (page.failed) return notice("bad", page.failed);
  if (!page.ring) return h("p", { class: "empty" }, "Loading");
  const states = Object.fromEntries(live.cluster.nodes.map((it) => [it.node, it.state]));
  // The drawing is large: it is redrawn only when it would look different.
  const looks = JSON.stringify([states, page.chosen, page.ring.hash]);
  if (looks !== page.drawn || !page.drawing) {
    page.drawn = looks;
    page.drawing = ringDrawing({ ...page, states, key: looks, onChoose: (node) => choose(page, node, show) });
  }
  return [
    h("div", { class: "ring-box" }, page.drawing),
    h(
      "p",
      { class: "help" },
      "Inside: the partitions in ring order, in the colour of the first home replica. " +
        "Outside: the nodes by zone, as wide as their share of home replicas.",
    ),
  ];
}

function choose(page, node, show) {
  if (page.chosen === node) return;
  page.chosen = node;
  show();
}

function nodes(page, cluster, show) {
  const columns = [
    "Node",
    "Zone",
    { name: "Share", number: true, title: "Share of home replicas" },
    "State",
    { name: "For", number: true, title: "How long it has been in this state" },
    { name: "p50", number: true, title: "Median round trip" },
    { name: "p99", number: true, title: "99th percentile of round trips" },
    { name: "Queue", number: true, title: "Messages that wait for it" },
    { name: "Suspicion", number: true, title: "By missing heartbeats: near 0 is well" },
    { name: "Reaches us", title: `Whether it can reach ${cluster.node}, as it says itself` },
    { name: "Says of itself", title: "What it advertises" },
    "Release",
  ];
  return table(
    "Nodes",
    columns,
    cluster.nodes.map((it) => {
      const isSelf = it.state === "self";
      const name = h(
        "span",
        { class: "node-name" },
        h("span", { class: `chip ${page.ring ? colour(page.ring, it.node) : ""}`, "aria-hidden": "true" }),
        it.http_addr && !isSelf
          ? h(
              "a",
              { href: consoleOf(it.http_addr), rel: "noreferrer", title: `The console of ${it.node}` },
              it.node,
            )
          : it.node,
      );
      const measured = (value) => (isSelf || it.state === "down" ? "" : value);
      return {
        key: it.node,
        class: page.chosen === it.node ? "chosen" : "",
        on: { mouseenter: () => choose(page, it.node, show), mouseleave: () => choose(page, null, show) },
        cells: [
          name,
          it.zone,
          page.ring ? `${(share(page.ring, it.node) * 100).toFixed(1)} %` : "–",
          badge(...(STATES[it.state] ?? ["note", it.state]), it.last_error ?? undefined),
          isSelf ? "" : duration(it.since_ms),
          measured(micros(it.round_trip_p50_us)),
          measured(micros(it.round_trip_p99_us)),
          isSelf ? "" : count(it.queue_depth),
          isSelf || it.suspicion === null ? "" : it.suspicion.toFixed(2),
          isSelf
            ? ""
            : it.state === "down"
              ? "–"
              : badge(it.reaches_us ? "good" : "warn", it.reaches_us ? "yes" : "no"),
          saysOf(it, isSelf ? cluster : null),
          it.release ?? "–",
        ],
      };
    }),
  );
}

function saysOf(node, cluster) {
  if (node.state === "down")
    return h("span", { class: "dim" }, node.last_error ? "see the error" : "nothing");
  const says = [];
  if (node.formed === false) says.push("not formed");
  if (cluster ? !cluster.ready : node.ready === false) says.push(cluster ? "not ready" : "filling");
  if (node.writable === false) says.push("no writes");
  return says.length ? badge("warn", says.join(", ")) : badge("good", "ready, writable");
}

const OPERATIONS = [
  ["get", "GET"],
  ["put", "PUT"],
  ["delete", "DELETE"],
];

/** How many seconds a chart shows: few at first, so that it is not empty. */
const spanOf = (values) => Math.min(Math.max(values.length, 30), KEPT);

function rates() {
  const now = live.rates.at(-1);
  const span = spanOf(live.rates);
  const of = (name, field) => live.rates.map((it) => it.operations[name]?.[field] ?? null);
  const rows = OPERATIONS.map(([name, title]) => {
    const last = now?.operations[name];
    return h(
      "div",
      { class: "rate", key: name },
      h("h3", null, title),
      h(
        "div",
        { class: "figure" },
        h("b", null, rate(last?.per_s)),
        h("span", { class: "unit" }, "per second"),
        last?.failed_per_s > 0 ? badge("bad", `${rate(last.failed_per_s)} failed`) : null,
      ),
      sparkline(`${title} per second`, [{ name: "rate", values: of(name, "per_s") }], { span, format: rate }),
      h(
        "div",
        { class: "figure" },
        h("span", { class: "key line-0" }, "p50 ", h("b", null, latency(last?.p50_s))),
        h("span", { class: "key line-1" }, "p99 ", h("b", null, latency(last?.p99_s))),
      ),
      sparkline(
        `${title} latency`,
        [
          { name: "p50", values: of(name, "p50_s") },
          { name: "p99", values: of(name, "p99_s") },
        ],
        { span, format: latency, least: 0.001 },
      ),
    );
  });
  const facts = [
    ["In flight", count(now?.in_flight)],
    ["Held for requests", bytes(now?.in_flight_bytes)],
    ["Refused per second", rate(now?.refused_per_s)],
    [
      "Other requests per second",
      rate(
        ["siblings", "resolve", "keys", "buckets", "other"].reduce(
          (sum, name) => sum + (now?.operations[name]?.per_s ?? 0),
          0,
        ),
      ),
    ],
  ];
  return [h("div", { class: "rates" }, rows), factsOf(facts)];
}

function hints(cluster) {
  const known = live.hints;
  if (!known) return panel("Hints", null, h("p", { class: "empty" }, "Waiting for the node"));
  const rows = known.targets.map((target) => {
    const history = live.hintHistory.get(target.node) ?? [];
    return {
      key: target.node,
      cells: [
        target.node,
        count(target.keys),
        bytes(target.bytes),
        target.oldest_ms === null ? "–" : duration(target.oldest_ms),
        h(
          "div",
          { class: "in-cell" },
          sparkline(`Hints for ${target.node}`, [{ name: "keys", values: history.map((it) => it.keys) }], {
            span: spanOf(history),
            format: count,
          }),
        ),
        drainOf(target, history, cluster),
      ],
    };
  });
  const columns = [
    "For",
    { name: "Keys", number: true },
    { name: "Size", number: true },
    { name: "Oldest", number: true },
    "Last minutes",
    "Delivery",
  ];
  return panel(
    "Hints",
    { aside: `${bytes(known.bytes)} of ${bytes(known.bytes_max)}` },
    h(
      "p",
      { class: "help" },
      `Writes that ${cluster.node} keeps for replicas that were down, until they are back.`,
    ),
    table("Hints by target", columns, rows, "No hints wait here."),
  );
}

function repair() {
  const known = live.antiEntropy;
  if (!known) return panel("Anti-entropy", null, h("p", { class: "empty" }, "Waiting for the node"));
  const columns = [
    "With",
    { name: "Partitions", number: true },
    { name: "Differing", number: true },
    { name: "Keys repaired", number: true },
    { name: "Sent", number: true },
    { name: "Received", number: true },
    { name: "Took", number: true },
    { name: "Began", number: true },
    "Outcome",
  ];
  const rows = known.rounds.map((it) => ({
    key: it.peer,
    cells: [
      it.peer,
      count(it.partitions),
      it.differing > 0 ? h("b", null, count(it.differing)) : "0",
      it.keys_repaired > 0 ? h("b", null, count(it.keys_repaired)) : "0",
      bytes(it.bytes_sent),
      bytes(it.bytes_received),
      duration(it.took_ms),
      `${duration(it.began_ms_ago)} ago`,
      badge(it.outcome === "complete" ? "good" : "warn", it.outcome),
    ],
  }));
  const facts = [
    ["Rounds", count(known.totals.rounds)],
    ["Keys repaired", count(known.totals.keys_repaired)],
    ["Moved", bytes(known.totals.bytes)],
    ["Partitions due", count(known.dirty_partitions)],
    ["Tombstones reaped", count(known.reaper.rows_reaped)],
    [
      "Scrubbed",
      known.scrub.whole_ms_ago === null ? "not yet whole" : `${duration(known.scrub.whole_ms_ago)} ago`,
    ],
  ];
  return panel(
    "Anti-entropy",
    { aside: `every ${duration(known.interval_ms)}` },
    h("p", { class: "help" }, "The last comparison of replicas with each peer, and what it found."),
    table("Last comparison with each peer", columns, rows, "No comparison yet."),
    factsOf(facts),
  );
}
