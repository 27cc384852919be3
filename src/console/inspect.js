// One key as every node holds it: its siblings, what differs, who holds what, its history, and resolving a
// conflict.

import { ask, explain, get, keyPath } from "./api.js";
import { confirm } from "./dialog.js";
import { jsonDiff } from "./diff.js";
import { badge, draw, field, h, notice, panel, select, table } from "./dom.js";
import { entriesOf } from "./find.js";
import { ago, bytes, list, many, shortDot } from "./format.js";
import { historyView } from "./history.js";
import { holders, letter } from "./holders.js";
import { mergeEditor, startMerge } from "./merge.js";
import { typedKey } from "./typed.js";
import { typedPanels } from "./typed_view.js";
import { diffView, expiryView, isOver, pretty, read, valueView } from "./value.js";

// What resolutions on this page superseded, by key: no other page knows it.
const superseded = new Map();

/** Opens the page of a key. */
export function inspect(main, bucket, key, say) {
  const page = {
    bucket,
    key,
    report: null,
    typed: null,
    failed: null,
    told: null,
    left: 0,
    right: 1,
    view: null,
    merge: null,
    busy: false,
  };
  const known = () => superseded.get(`${bucket}/${key}`) ?? new Map();
  const show = () => draw(main, body(page, act, known()));
  const act = {
    show,
    say,
    async load() {
      try {
        page.report = await get(keyPath("siblings", bucket, key));
        page.failed = null;
        const { type = "value" } = page.report;
        if (type !== "value") {
          page.typed ??= typedKey({ bucket, key, type, show, say });
          await page.typed.load();
        }
        const all = page.report.siblings.length;
        page.left = Math.min(page.left, Math.max(all - 2, 0));
        page.right = Math.min(Math.max(page.right, page.left + 1), Math.max(all - 1, 0));
      } catch (error) {
        page.failed = explain(error);
      }
      show();
    },
    async resolve(decision, words, headers = {}) {
      const before = page.report.siblings.map((it) => it.dot);
      page.busy = true;
      show();
      try {
        const answer = await ask(keyPath("siblings", bucket, key), {
          method: "POST",
          body: JSON.stringify(decision),
          headers: {
            "Content-Type": "application/json",
            "Quorate-Context": page.report.context,
            ...headers,
          },
        });
        page.told = { kind: "good", text: told(words, answer.headers) };
        page.merge = null;
        await act.load();
        const fresh = page.report.siblings.find((it) => !before.includes(it.dot));
        if (fresh) superseded.set(`${bucket}/${key}`, known().set(fresh.dot, before));
        if (page.report.siblings.length > 1) {
          page.told = {
            kind: "warn",
            text: `${page.told.text} Another write arrived meanwhile, so there is still a conflict.`,
          };
        }
      } catch (error) {
        page.told = { kind: "bad", text: `Not resolved. ${explain(error)}` };
      }
      page.busy = false;
      say(page.told.text);
      show();
      document.getElementById("told")?.focus();
    },
  };
  show();
  act.load();
  return null;
}

function told(words, headers) {
  const [acks, hints] = ["Quorate-Acks", "Quorate-Hints"].map((name) => Number(headers.get(name)));
  return (
    `Resolved: ${words}. ${many(acks, "node")} had stored it when the answer came` +
    (hints ? `, ${many(hints, "of them as a hint", "of them as hints")}.` : ".")
  );
}

function body(page, act, known) {
  const { report } = page;
  const head = [
    h(
      "nav",
      { class: "crumbs", "aria-label": "Where" },
      page.typed
        ? h("a", { href: `#/keys/${encodeURIComponent(page.bucket)}` }, "Keys")
        : h("a", { href: "#/conflicts" }, "Conflicts"),
      h("span", { "aria-hidden": "true" }, "›"),
      h("span", null, page.bucket),
    ),
    h("h1", { class: "mono" }, page.key),
  ];
  const notices = [
    page.told ? h("div", { id: "told", tabindex: -1 }, notice(page.told.kind, page.told.text)) : null,
    page.failed ? notice("bad", page.failed) : null,
  ];
  if (!report)
    return [...head, ...notices, page.failed ? null : h("p", { class: "empty" }, "Asking every node")];
  const { siblings } = report;
  if (page.typed)
    return [
      ...head,
      placeBar(page, act, badge("good", "its parts are merged")),
      ...notices,
      typedPanels(page.typed),
    ];
  return [
    ...head,
    placeBar(
      page,
      act,
      report.conflict ? badge("warn", `${siblings.length} siblings in conflict`) : noConflict(siblings),
    ),
    ...notices,
    siblings.length
      ? h(
          "section",
          { "aria-label": "Siblings" },
          h(
            "div",
            { class: "siblings" },
            siblings.map((it, at) => card(it, at, page, act)),
          ),
        )
      : null,
    siblings.length > 1 ? panel("What differs", { aside: choices(page, act) }, difference(page)) : null,
    report.conflict ? merging(page, act) : null,
    h(
      "div",
      { class: "grid halves" },
      panel("Who holds what", null, holders(report)),
      panel("Causal history", null, historyView(report, known)),
    ),
  ];
}

function noConflict(siblings) {
  if (siblings.length === 0) return badge("good", "never written, or reaped");
  return siblings.every(isOver) ? badge("note", "expired") : badge("good", "one value, no conflict");
}

function placeBar(page, act, state) {
  const { report } = page;
  return h(
    "div",
    { class: "bar" },
    state,
    h(
      "span",
      { class: "dim" },
      `partition ${report.partition}, N = ${report.n}` +
        (report.conflicts === "lww" ? ", last writer wins" : ""),
    ),
    page.typed ? null : h("button", { type: "button", on: { click: act.load } }, "Look again"),
    h(
      "a",
      { href: `#/keys/${encodeURIComponent(page.bucket)}/${encodeURIComponent(page.key)}` },
      "Open in Keys",
    ),
  );
}

function card(sibling, at, page, act) {
  const kind = sibling.deleted
    ? sibling.expires_at
      ? "in place of a value that expired"
      : "a delete"
    : `${sibling.content_type ?? "no content type"}, ${bytes(sibling.size)}`;
  const meta = [...Object.entries(sibling.meta ?? {}), ...entriesOf(sibling)];
  return h(
    "article",
    { class: "sibling", key: sibling.dot, "aria-label": `Sibling ${letter(at)}` },
    h(
      "header",
      null,
      h(
        "h2",
        null,
        h("span", { class: "letter", "aria-hidden": "true" }, letter(at)),
        h("span", { class: "hidden" }, `Sibling ${letter(at)}, `),
        h("code", { title: sibling.dot }, shortDot(sibling.dot)),
      ),
      h(
        "span",
        { class: "dim" },
        `${sibling.writer}, `,
        h("time", { datetime: sibling.written_at, title: sibling.written_at }, ago(sibling.written_at)),
      ),
    ),
    h(
      "p",
      { class: "dim small" },
      kind,
      ", on ",
      sibling.held_by.length ? list(sibling.held_by) : "no replica",
      sibling.hinted_at.length ? `, as a hint on ${list(sibling.hinted_at)}` : "",
    ),
    valueView(sibling, `Value of sibling ${letter(at)}`),
    expiryView(sibling),
    meta.length
      ? h(
          "dl",
          { class: "meta" },
          meta.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]),
        )
      : null,
    page.report.conflict
      ? h(
          "div",
          { class: "actions" },
          h(
            "button",
            { type: "button", disabled: page.busy, on: { click: () => keep(sibling, at, page, act) } },
            sibling.deleted ? `Keep ${letter(at)}: delete the key` : `Keep ${letter(at)}`,
          ),
        )
      : null,
  );
}

async function keep(sibling, at, page, act) {
  const others = page.report.siblings.length - 1;
  const yes = await confirm({
    title: `Keep sibling ${letter(at)}?`,
    action: sibling.deleted ? "Delete the key" : `Keep ${letter(at)}`,
    danger: true,
    body: [
      h(
        "p",
        null,
        `It becomes the only value of this key; ${many(others, "other sibling is", "other siblings are")} ` +
          "superseded, and cannot be had back.",
      ),
      valueView(sibling, "The value to keep"),
    ],
  });
  if (yes)
    await act.resolve(
      { keep: sibling.dot },
      sibling.deleted ? "the key is deleted" : `sibling ${letter(at)} is kept`,
    );
}

function choices(page, act) {
  const all = page.report.siblings.map((it, at) => [String(at), letter(at)]);
  const pick = (side, label) =>
    select(
      {
        "aria-label": label,
        on: {
          change() {
            page[side] = Number(this.value);
            act.show();
          },
        },
      },
      all,
      String(page[side]),
    );
  const isJson = [page.left, page.right].every((at) => read(page.report.siblings[at]).kind === "json");
  const view = page.view ?? (isJson ? "json" : "text");
  return [
    pick("left", "Left sibling"),
    h("span", null, "and"),
    pick("right", "Right sibling"),
    h(
      "div",
      { class: "switch", role: "group", "aria-label": "Kind of difference" },
      ["text", "json"].map((it) =>
        h(
          "button",
          {
            type: "button",
            "aria-pressed": String(view === it),
            disabled: it === "json" && !isJson,
            on: {
              click: () => {
                page.view = it;
                act.show();
              },
            },
          },
          it === "text" ? "Text" : "JSON",
        ),
      ),
    ),
  ];
}

function difference(page) {
  const [left, right] = [page.left, page.right].map((at) => page.report.siblings[at]);
  const [a, b] = [read(left), read(right)];
  const names = [page.left, page.right].map(
    (at) => `${letter(at)} · ${shortDot(page.report.siblings[at].dot)}`,
  );
  if (page.left === page.right) return h("p", { class: "empty" }, "Choose two siblings.");
  if (a.kind === "deleted" || b.kind === "deleted")
    return h("p", { class: "empty" }, "One of them is a delete.");
  const bothJson = a.kind === "json" && b.kind === "json";
  if (bothJson && page.view !== "text") {
    const found = jsonDiff(a.json, b.json);
    const value = (it, side) =>
      it.kind !== "changed" && it.kind !== side
        ? h("span", { class: "dim" }, "not there")
        : h("code", { class: side }, JSON.stringify(it[side]));
    return table(
      "Differences of the JSON values",
      ["Path", ...names],
      found.map((it) => ({
        key: it.path,
        cells: [h("code", null, it.path), value(it, "left"), value(it, "right")],
      })),
      "The JSON values are equal; only the text differs.",
    );
  }
  const [x, y] = [pretty(a), pretty(b)];
  return x === y ? h("p", { class: "empty" }, "The values are equal.") : diffView(x, y, names);
}

function merging(page, act) {
  if (!page.merge) {
    const texts = page.report.siblings
      .map((it, at) => ({ at, known: read(it) }))
      .filter(({ known }) => known.kind !== "deleted" && known.kind !== "bytes");
    return panel(
      "Merge by hand",
      null,
      texts.length === 0
        ? h(
            "p",
            { class: "empty" },
            "No sibling is text: keep one of them, or write another value with the API.",
          )
        : h(
            "div",
            { class: "row" },
            h("span", null, "Start from"),
            texts.map(({ at }) =>
              h("button", { type: "button", on: { click: () => startMerge(page, at, act) } }, letter(at)),
            ),
            texts.filter(({ known }) => known.kind === "json").length > 1
              ? h(
                  "button",
                  { type: "button", on: { click: () => startMerge(page, "joined", act) } },
                  "All joined as JSON",
                )
              : null,
          ),
    );
  }
  return panel("Merge by hand", null, mergeEditor(page, act));
}
