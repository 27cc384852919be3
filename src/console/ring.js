// The ring as a drawing: the partitions in the middle, in ring order; around them the nodes, by zone, each as
// wide as its share of home replicas. A located key points from its partition to its preference list.

import { svg } from "./dom.js";

const CENTRE = 210;
const NODES = { inner: 142, outer: 166 };
const PARTS = { inner: 92, outer: 108 };
const ZONE_AT = 173;
const LABEL_AT = 182;
/** Colours that tell nodes apart; with more nodes they repeat. */
const COLOURS = 10;
/** With more nodes, names no longer fit. */
const LABELS_MAX = 36;

/** The colour class of a node, by its place in the layout, or in `ring.order` if that is given. */
export function colour(ring, node) {
  const at = ring.order ? ring.order.indexOf(node) : ring.nodes.findIndex((it) => it.node === node);
  return at < 0 ? "c-none" : `c${at % COLOURS}`;
}

/** The share of home replicas that a node has, 0 to 1. */
export function share(ring, node) {
  const found = ring.nodes.find((it) => it.node === node);
  return found ? found.partitions / (ring.partitions * ring.n) : 0;
}

/** The angles of all nodes, in order of zones. */
function spans(ring) {
  const order = [...ring.nodes].sort((a, b) => a.zone.localeCompare(b.zone) || a.node.localeCompare(b.node));
  const gap = order.length > 1 ? Math.min(0.03, 1 / order.length) : 0;
  let from = -Math.PI / 2;
  return order.map((member) => {
    const to = from + share(ring, member.node) * 2 * Math.PI;
    const span = {
      ...member,
      from: from + gap / 2,
      to: Math.max(to - gap / 2, from + gap / 2),
      mid: (from + to) / 2,
    };
    from = to;
    return span;
  });
}

const point = (angle, radius) =>
  `${(CENTRE + radius * Math.cos(angle)).toFixed(2)} ${(CENTRE + radius * Math.sin(angle)).toFixed(2)}`;

function sector(from, to, inner, outer) {
  // An arc from a point to itself would be nothing.
  const end = Math.min(to, from + 2 * Math.PI - 0.0001);
  const large = end - from > Math.PI ? 1 : 0;
  return (
    `M${point(from, outer)}A${outer} ${outer} 0 ${large} 1 ${point(end, outer)}` +
    `L${point(end, inner)}A${inner} ${inner} 0 ${large} 0 ${point(from, inner)}Z`
  );
}

/**
 * The drawing. `homes` is the answer of /ring/partitions, `states` maps nodes to up, suspected, down, self;
 * `chosen` is a node whose partitions stand out; `located` is the answer of /ring/{bucket}/{key}. A drawing
 * that is kept and drawn again needs a `key` of its own.
 */
export function ringDrawing({ key, ring, homes, states, chosen, located, onChoose }) {
  const nodes = spans(ring);
  const zones = new Set(nodes.map((it) => it.zone));
  const down = nodes.filter((it) => states[it.node] === "down").map((it) => it.node);
  const words = [
    `${ring.nodes.length} nodes in ${zones.size} zones, ${ring.partitions} partitions, N ${ring.n}.`,
    nodes.map((it) => `${it.node}: ${(share(ring, it.node) * 100).toFixed(1)} %`).join(", "),
    down.length ? `. Down: ${down.join(", ")}.` : ".",
    located
      ? ` The key is in partition ${located.partition}; its nodes in order of preference: ` +
        `${located.preference_list.join(", ")}.`
      : "",
  ].join(" ");
  return svg(
    "svg",
    { key, class: "ring", viewBox: "0 0 420 420", role: "img", "aria-label": `The ring. ${words}` },
    svg(
      "defs",
      null,
      svg(
        "pattern",
        { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        svg("rect", { class: "hatch", width: 2, height: 5 }),
      ),
    ),
    homes ? partitions(ring, homes, chosen, located) : null,
    nodes.map((node) => nodeArc(ring, node, states[node.node], chosen, located, onChoose)),
    zones.size < nodes.length ? zoneArcs(nodes) : null,
    located && homes ? chords(ring, nodes, located) : null,
    nodes.length <= LABELS_MAX ? nodes.map((node) => label(node, ring, states[node.node])) : null,
    middle(ring, located),
  );
}

function nodeArc(ring, node, state, chosen, located, onChoose) {
  const isHome = located ? located.preference_list.indexOf(node.node) < located.n : true;
  const faint = (chosen && chosen !== node.node) || !isHome;
  const path = sector(node.from, node.to, NODES.inner, NODES.outer);
  const on = onChoose ? { mouseenter: () => onChoose(node.node), mouseleave: () => onChoose(null) } : {};
  return svg(
    "g",
    { key: node.node, class: `node ${faint ? "faint" : ""}`, on },
    svg(
      "title",
      null,
      `${node.node}, zone ${node.zone}: ${(share(ring, node.node) * 100).toFixed(1)} % of home ` +
        `replicas, ${node.of_fair_share} of its fair share`,
    ),
    svg("path", { class: colour(ring, node.node), d: path }),
    state === "down" ? svg("path", { class: "is-down", d: path, fill: "url(#hatch)" }) : null,
    state === "suspected" ? svg("path", { class: "is-suspected", d: path }) : null,
  );
}

function label(node, ring, state) {
  const [x, y] = point(node.mid, LABEL_AT).split(" ").map(Number);
  const anchor = Math.abs(Math.cos(node.mid)) < 0.25 ? "middle" : Math.cos(node.mid) > 0 ? "start" : "end";
  const lift = Math.sin(node.mid) < -0.9 ? -6 : Math.sin(node.mid) > 0.9 ? 10 : 0;
  return svg(
    "text",
    { class: `label ${state ?? ""}`, x, y: y + lift, "text-anchor": anchor, "aria-hidden": "true" },
    node.node,
    svg(
      "tspan",
      { class: "dim", x, dy: 13 },
      state === "down" ? "down" : `${(share(ring, node.node) * 100).toFixed(0)} %`,
    ),
  );
}

function zoneArcs(nodes) {
  const zones = Map.groupBy(nodes, (it) => it.zone);
  return [...zones].map(([zone, members]) => {
    const [from, to] = [members[0].from, members.at(-1).to];
    return svg("path", { class: "zone", d: arc(from, to, ZONE_AT) }, svg("title", null, `zone ${zone}`));
  });
}

function arc(from, to, radius) {
  const end = Math.min(to, from + 2 * Math.PI - 0.0001);
  const large = end - from > Math.PI ? 1 : 0;
  return `M${point(from, radius)}A${radius} ${radius} 0 ${large} 1 ${point(end, radius)}`;
}

const partitionAngle = (partition, all) => -Math.PI / 2 + (partition / all) * 2 * Math.PI;

// One path per node: neighbours of one colour are one arc.
function partitions(ring, homes, chosen, located) {
  const all = homes.homes.length;
  const paths = new Map();
  for (let from = 0; from < all;) {
    const owner = ownerOf(homes, ring.n, from, chosen);
    let to = from + 1;
    while (to < all && ownerOf(homes, ring.n, to, chosen) === owner) to += 1;
    const path = sector(partitionAngle(from, all), partitionAngle(to, all), PARTS.inner, PARTS.outer);
    paths.set(owner, (paths.get(owner) ?? "") + path);
    from = to;
  }
  return svg(
    "g",
    { class: `parts ${located ? "faint" : ""}`, "aria-hidden": "true" },
    [...paths].map(([owner, d]) =>
      svg("path", { class: owner === null ? "c-none" : colour(ring, owner), d }),
    ),
  );
}

// The first home replica; of a chosen node, whether it is any of the home replicas. There may be more
// of these than N, if a bucket has a larger one.
function ownerOf(homes, n, partition, chosen) {
  const own = homes.homes[partition].slice(0, n).map((at) => homes.nodes[at]);
  if (chosen) return own.includes(chosen) ? chosen : null;
  return own[0] ?? null;
}

function chords(ring, nodes, located) {
  const angle = partitionAngle(located.partition + 0.5, ring.partitions);
  const home = located.preference_list.slice(0, located.n);
  const half = Math.PI / Math.max(ring.partitions, 90);
  return svg(
    "g",
    { class: "located", "aria-hidden": "true" },
    svg("path", { class: "spot", d: sector(angle - half, angle + half, PARTS.inner - 4, PARTS.outer + 4) }),
    home.map((name, place) => {
      const node = nodes.find((it) => it.node === name);
      if (!node) return null;
      const [x, y] = point(node.mid, (NODES.inner + NODES.outer) / 2)
        .split(" ")
        .map(Number);
      const bend = point(angle + shortest(angle, node.mid) / 2, (PARTS.outer + NODES.inner) / 2);
      return [
        svg("path", {
          class: "chord",
          d: `M${point(angle, PARTS.outer + 4)}Q${bend} ${point(node.mid, NODES.inner)}`,
        }),
        svg("circle", { class: "place", cx: x, cy: y, r: 9 }),
        svg("text", { class: "place-text", x, y: y + 4, "text-anchor": "middle" }, place + 1),
      ];
    }),
  );
}

/** The angle to add to `from` to get to `to` by the shorter way. */
function shortest(from, to) {
  const by = (to - from) % (2 * Math.PI);
  return by > Math.PI ? by - 2 * Math.PI : by < -Math.PI ? by + 2 * Math.PI : by;
}

function middle(ring, located) {
  const lines = located
    ? [`partition ${located.partition}`, `of ${ring.partitions}`, `N = ${located.n}`]
    : [`${ring.nodes.length} nodes`, `${ring.partitions} partitions`, `N = ${ring.n}`];
  return svg(
    "g",
    { class: "middle", "aria-hidden": "true" },
    lines.map((text, line) =>
      svg(
        "text",
        { class: line === 0 ? "large" : "", x: CENTRE, y: CENTRE - 12 + line * 20, "text-anchor": "middle" },
        text,
      ),
    ),
  );
}
