// What runs here, and where to read more.

import { ask } from "./api.js";
import { draw, factsOf, h, panel } from "./dom.js";
import { live, watch } from "./live.js";

const LINKS = [
  ["/metrics", "Metrics", "For Prometheus, as OpenMetrics text."],
  ["/openapi.json", "API description", "Every route, parameter and answer, OpenAPI 3.1."],
  ["/cluster", "Cluster", "The nodes as this one sees them."],
  ["/ring", "Ring", "The layout, and how evenly it spreads the partitions."],
  ["/layout", "Layout", "The members, a change under way, and who waits to join."],
  ["/jobs", "Background jobs", "What this node does by itself, and what went wrong there."],
  ["/readyz", "Readiness", "Whether this node takes requests, and why not."],
  ["/livez", "Liveness", "Whether this node's process works."],
  ["/distrusted", "Set aside", "Rows and partitions that wait for an operator's decision."],
];

/** Opens the page. */
export function about(main) {
  const page = { has: new Map() };
  const show = () => draw(main, body(page));
  // What this release does not have is not linked.
  for (const path of ["/openapi.json"]) {
    ask(path, { method: "HEAD" })
      .then(
        () => page.has.set(path, true),
        () => page.has.set(path, false),
      )
      .then(show);
  }
  show();
  return watch(show);
}

function body(page) {
  const { cluster } = live;
  return [
    h("h1", null, "About"),
    panel(
      "This node",
      null,
      cluster
        ? factsOf([
            ["Node", cluster.node],
            ["Cluster", cluster.cluster_id],
            ["Release", cluster.release],
            ["Layout", `version ${cluster.layout.version}, ${cluster.layout.hash}`],
            ["Nodes", String(cluster.nodes.length)],
          ])
        : h("p", { class: "empty" }, "Waiting for the node"),
    ),
    panel(
      "Read on",
      null,
      h(
        "ul",
        { class: "links" },
        LINKS.map(([path, name, what]) =>
          h(
            "li",
            { key: path },
            page.has.get(path) === false ? h("span", null, name) : h("a", { href: path }, name),
            h("code", null, path),
            h("span", { class: "dim" }, page.has.get(path) === false ? "not in this release" : what),
          ),
        ),
      ),
      h(
        "p",
        { class: "help" },
        "The documents are in the repository: README.md for requests and settings, docs/design.md for what " +
          "is promised, docs/operations.md for running it, docs/glossary.md for the words.",
      ),
    ),
    panel(
      "This console",
      null,
      h(
        "p",
        null,
        "It is part of the binary and loads nothing from elsewhere. It reads the same routes that " +
          "programs use, and changes something only after a question. Other nodes have their own: " +
          "their names on the overview lead there.",
      ),
      h(
        "p",
        null,
        "There is no sign-in: whoever reaches this port can read and write everything. Put the port behind " +
          "something that checks who asks.",
      ),
    ),
  ];
}
