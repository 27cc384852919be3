// Which node holds which sibling, or how many parts of a typed value, as tables.

import { badge, h, table } from "./dom.js";
import { list, many, shortDot } from "./format.js";

const REPLICAS = {
  ok: ["good", "up to date"],
  behind: ["warn", "behind"],
  missing: ["warn", "has nothing"],
  not_ready: ["note", "being filled"],
  unreachable: ["bad", "unreachable"],
};

/** The letter of a sibling on the page. */
export const letter = (at) => (at < 26 ? String.fromCharCode(65 + at) : String(at + 1));

/** The table of a typed value: how many of its parts each node holds. */
export function partHolders({ siblings, replicas, fallbacks }) {
  const known = new Set(siblings.map((it) => it.dot));
  const homes = replicas.map((it) => {
    const held = it.dots?.filter((dot) => known.has(dot)).length;
    const old = it.dots ? it.dots.length - held : 0;
    return {
      key: it.node,
      cells: [
        it.node,
        "home replica",
        it.dots ? `${held} of ${known.size}` : "?",
        [
          badge(...(REPLICAS[it.state] ?? ["note", it.state])),
          old ? h("span", { class: "dim" }, ` and ${old} that others have replaced or removed`) : null,
        ],
      ],
    };
  });
  const others = fallbacks.map((it) => ({
    key: it.node,
    cells: [
      it.node,
      "fallback",
      it.state === "unreachable"
        ? "?"
        : many(siblings.filter((part) => part.hinted_at.includes(it.node)).length, "as a hint", "as hints"),
      it.state === "unreachable"
        ? badge("bad", "unreachable")
        : h(
            "span",
            { class: "dim" },
            it.hints_for.length ? `keeps hints for ${list(it.hints_for)}` : "keeps no hint",
          ),
    ],
  }));
  return table("Nodes and the parts they hold", ["Node", "Role", "Parts", "State"], [...homes, ...others]);
}

/** The table of an inspection. */
export function holders(report) {
  const { siblings } = report;
  const dots = siblings.map((it, at) => ({ name: letter(at), dot: it.dot }));
  const mark = (has, label) =>
    h(
      "span",
      { class: has ? "holds" : "lacks" },
      h("span", { "aria-hidden": "true" }, has ? "●" : "–"),
      h("span", { class: "hidden" }, label),
    );
  const hinted = (dot, node) => siblings.find((it) => it.dot === dot).hinted_at.includes(node);
  const homes = report.replicas.map((it) => {
    const extra = (it.dots ?? []).filter((dot) => !siblings.some((sibling) => sibling.dot === dot));
    return {
      key: it.node,
      cells: [
        it.node,
        "home replica",
        ...dots.map(({ dot }) =>
          it.dots ? mark(it.dots.includes(dot), it.dots.includes(dot) ? "holds" : "does not hold") : "?",
        ),
        [
          badge(...(REPLICAS[it.state] ?? ["note", it.state])),
          extra.length ? h("span", { class: "dim" }, ` still holds ${list(extra.map(shortDot))}`) : null,
          it.hints.length
            ? h("span", { class: "dim" }, ` hints for it at ${list(it.hints.map((hint) => hint.at))}`)
            : null,
        ],
      ],
    };
  });
  const others = report.fallbacks.map((it) => ({
    key: it.node,
    cells: [
      it.node,
      "fallback",
      ...dots.map(({ dot }) =>
        hinted(dot, it.node) ? mark(true, "holds as a hint") : mark(false, "does not hold"),
      ),
      it.state === "unreachable"
        ? badge("bad", "unreachable")
        : it.hints_for.length
          ? `keeps hints for ${list(it.hints_for)}`
          : h("span", { class: "dim" }, "keeps no hint"),
    ],
  }));
  return table(
    "Nodes and the siblings they hold",
    ["Node", "Role", ...dots.map(({ name, dot }) => ({ name, title: dot })), "State"],
    [...homes, ...others],
  );
}
