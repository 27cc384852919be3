// Buckets and their properties, and changing them.

import { ask, explain, get } from "./api.js";
import { confirm } from "./dialog.js";
import { badge, draw, field, h, notice, panel, select, table, unseen } from "./dom.js";
import { lifetime, seconds } from "./format.js";
import { number, words } from "./promise.js";
import { TYPES } from "./typed.js";
import { LIFETIMES, lifetimeInput } from "./value.js";

const PROPERTIES = [
  [
    "type",
    "Type",
    "What the keys hold: bytes, or values that replicas merge. A bucket gets a type only while it has no keys, " +
      "and keeps it.",
  ],
  ["n", "N", "Copies of each key."],
  ["r", "R", "Replicas that must answer a read: a number, one, quorum or all."],
  ["w", "W", "Replicas that must have stored a write: a number, one, quorum or all."],
  [
    "conflicts",
    "Conflicts",
    "Keep concurrent writes as siblings, or let the last writer win (lww), which loses the others.",
  ],
  ["sloppy", "Sloppy", "Whether fallbacks may stand in for home replicas that are down."],
  [
    "expires_in_s",
    "Expires after",
    `How long values live, unless a write says otherwise. ${LIFETIMES} It counts for what is written from then on.`,
  ],
  [
    "feed_retention_s",
    "Feed",
    `For how long subscribers can read what changed (GET /feed/…), from 1 min to 30 d. ${LIFETIMES}`,
  ],
];
/** Those that are times. */
const TIMES = ["expires_in_s", "feed_retention_s"];
/** What does not go with a type. */
const UNTYPED = ["conflicts", "expires_in_s"];
const NAME = /^[A-Za-z0-9._-]{1,128}$/;

/** Opens the page; a bucket may be given to edit. */
export function buckets(main, [wanted], say) {
  const page = {
    list: null,
    nodes: 1,
    edited: wanted ?? null,
    draft: {},
    typed: {},
    told: null,
    failed: null,
  };
  const show = () => draw(main, body(page, act));
  const act = {
    show,
    async load() {
      try {
        const [list, ring] = await Promise.all([get("/buckets"), get("/ring")]);
        Object.assign(page, { list, nodes: ring.nodes.length, failed: null });
        if (page.edited !== null) page.draft = { ...setOf(page, page.edited) };
      } catch (error) {
        page.failed = explain(error);
      }
      show();
    },
    edit(bucket) {
      Object.assign(page, { edited: bucket, draft: { ...setOf(page, bucket) }, typed: {}, told: null });
      show();
      document.getElementById("field-n")?.focus();
    },
    async change(bucket, settings, what) {
      try {
        if (settings === null) await ask(`/buckets/${bucket}`, { method: "DELETE" });
        else {
          await ask(`/buckets/${bucket}`, {
            method: "PUT",
            body: JSON.stringify(settings),
            headers: { "Content-Type": "application/json" },
          });
        }
        page.told = { kind: "good", text: what };
        say(what);
        page.edited = null;
        await act.load();
      } catch (error) {
        page.told = { kind: "bad", text: `Not changed. ${explain(error)}` };
        show();
      }
    },
  };
  show();
  act.load();
  return null;
}

function setOf(page, bucket) {
  return page.list?.buckets.find((it) => it.bucket === bucket)?.set ?? {};
}

function body(page, act) {
  if (page.failed) return [h("h1", null, "Buckets"), notice("bad", page.failed)];
  if (!page.list) return [h("h1", null, "Buckets"), h("p", { class: "empty" }, "Loading")];
  const { defaults } = page.list;
  return [
    h("h1", null, "Buckets"),
    page.told ? notice(page.told.kind, page.told.text) : null,
    panel(
      "Buckets with properties of their own",
      { aside: "all others follow the defaults" },
      table(
        "Buckets",
        [
          "Bucket",
          ...PROPERTIES.map(([, name]) => name),
          "Promise of a plain read and write",
          unseen("Change"),
        ],
        [...page.list.buckets.map((it) => row(it, page, act)), defaultsRow(defaults, page)],
      ),
    ),
    page.edited === null ? add(page, act) : editor(page, act),
  ];
}

function row(it, page, act) {
  return {
    key: it.bucket,
    class: page.edited === it.bucket ? "chosen" : "",
    cells: [
      h("a", { href: `#/keys/${encodeURIComponent(it.bucket)}` }, it.bucket),
      ...PROPERTIES.map(([name]) =>
        h(
          "span",
          {
            class: name in it.set ? "set" : "dim",
            title: name in it.set ? "set for this bucket" : "the default",
          },
          propertyOf(it.properties, name),
        ),
      ),
      summary(it.properties, page.nodes),
      h(
        "button",
        { type: "button", "aria-label": `Edit ${it.bucket}`, on: { click: () => act.edit(it.bucket) } },
        "Edit",
      ),
    ],
  };
}

function defaultsRow(defaults, page) {
  return {
    key: "defaults",
    class: "defaults",
    cells: [
      h("i", null, "defaults"),
      ...PROPERTIES.map(([name]) => propertyOf(defaults, name)),
      summary(defaults, page.nodes),
      "",
    ],
  };
}

function propertyOf(properties, name) {
  if (name === "feed_retention_s" && !properties[name]) return "none";
  if (TIMES.includes(name)) return lifetime(properties[name]);
  return String(properties[name] ?? "value");
}

function summary(properties, nodes) {
  const { n } = properties;
  const said = words({
    n,
    r: number(properties.r, n),
    w: number(properties.w, n),
    sloppy: properties.sloppy,
    nodes,
    homes: n,
  });
  return badge(said[0].kind, said[0].short);
}

function add(page, act) {
  const input = h("input", {
    type: "text",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 128,
  });
  const go = (event) => {
    event.preventDefault();
    // The element that is drawn may not be the one made here.
    const name = document.getElementById(input.id).value.trim();
    if (!NAME.test(name) || name === "." || name === "..") {
      page.told = {
        kind: "warn",
        text: "A bucket's name has 1 to 128 of A-Z a-z 0-9 . _ - and is not . or ..",
      };
      act.show();
      return;
    }
    act.edit(name);
  };
  return panel(
    "Set the properties of another bucket",
    null,
    h(
      "p",
      { class: "help" },
      "A bucket exists as soon as something is written to it; properties may be set before or after.",
    ),
    h(
      "form",
      { class: "row", on: { submit: go } },
      field("Bucket", input),
      h("button", { type: "submit" }, "Set properties"),
    ),
  );
}

function editor(page, act) {
  const { defaults } = page.list;
  const bucket = page.edited;
  const counts = (name) => [
    ["", `default (${defaults[name]})`],
    ...Array.from({ length: page.nodes }, (_, at) => String(at + 1)),
    ...(name === "n" ? [] : ["one", "quorum", "all"]),
  ];
  const has = setOf(page, bucket).type;
  const options = {
    type: has
      ? [[has, typeName(has)]]
      : [["", "value: bytes"], ...Object.keys(TYPES).map((it) => [it, typeName(it)])],
    n: counts("n"),
    r: counts("r"),
    w: counts("w"),
    conflicts: [["", `default (${defaults.conflicts})`], "siblings", "lww"],
    sloppy: [["", `default (${defaults.sloppy})`], "true", "false"],
  };
  const change = (name) =>
    function () {
      if (this.value === "") delete page.draft[name];
      else page.draft[name] = parse(name, this.value);
      // What merges has no conflicts, and does not expire.
      if (page.draft.type) for (const of of UNTYPED) delete page.draft[of];
      act.show();
    };
  const wanted = { ...defaults, ...page.draft };
  const effect = words({
    n: wanted.n,
    r: number(wanted.r, wanted.n),
    w: number(wanted.w, wanted.n),
    sloppy: wanted.sloppy,
    nodes: page.nodes,
    homes: wanted.n,
  });
  const { merges } = TYPES[page.draft.type] ?? {};
  if (merges) effect.push({ kind: page.draft.type === "register_lww" ? "warn" : "good", text: merges });
  return panel(
    `Properties of ${bucket}`,
    { class: "editor" },
    h(
      "form",
      {
        class: "fields",
        on: {
          submit: (event) => {
            event.preventDefault();
            review(page, act);
          },
        },
      },
      PROPERTIES.map(([name, title, help]) =>
        UNTYPED.includes(name) && page.draft.type
          ? null
          : field(
              title,
              TIMES.includes(name)
                ? timeOf(page, act, name, title)
                : select(
                    { disabled: name === "type" && Boolean(has), on: { change: change(name) } },
                    options[name],
                    page.draft[name] ?? "",
                  ),
              help,
            ),
      ),
      isWrong(page) ? h("p", { class: "check bad" }, "One of the times is none that can be set.") : null,
      h("div", { class: "promise" }, h("h3", null, "What this promises"), promiseList(effect)),
      h(
        "div",
        { class: "actions" },
        h(
          "button",
          {
            type: "button",
            on: {
              click: () => {
                page.edited = null;
                act.show();
              },
            },
          },
          "Close",
        ),
        Object.keys(setOf(page, bucket)).some((name) => name !== "type")
          ? h(
              "button",
              { type: "button", class: "danger", on: { click: () => reset(page, act) } },
              "Reset to defaults",
            )
          : null,
        h("button", { type: "submit", class: "primary", disabled: isWrong(page) }, "Review the change"),
      ),
    ),
  );
}

const isWrong = (page) => TIMES.some((name) => isWrongTime(page, name));

function isWrongTime(page, name) {
  if (page.typed[name] === undefined || (page.draft.type && UNTYPED.includes(name))) return false;
  const wanted = seconds(page.typed[name]);
  const [least, most] = name === "feed_retention_s" ? [60, 2_592_000] : [1, Infinity];
  return wanted === null || (typeof wanted === "number" && (wanted < least || wanted > most));
}

/** The input for a time. What is typed is kept beside the draft, which has seconds. */
function timeOf(page, act, name, title) {
  const set = page.draft[name];
  const text = page.typed[name] ?? (set === undefined ? "" : lifetime(set));
  const id = `field-${title.toLowerCase().replaceAll(" ", "-")}`;
  return lifetimeInput(id, text, isWrongTime(page, name), (typed) => {
    page.typed[name] = typed;
    const wanted = seconds(typed);
    if (typeof wanted === "number") page.draft[name] = wanted;
    else delete page.draft[name];
    act.show();
  });
}

/** What a combination promises, as a list. */
export function promiseList(said) {
  return h(
    "ul",
    { class: "findings" },
    said.map((it) =>
      h(
        "li",
        { class: it.kind },
        h("span", { class: "mark", "aria-hidden": "true" }),
        h("span", null, it.text),
      ),
    ),
  );
}

function typeName(type) {
  const name = TYPES[type]?.name.toLowerCase() ?? "of a later release";
  return name === type ? type : `${type}: ${name}`;
}

function parse(name, value) {
  if (name === "sloppy") return value === "true";
  return /^\d+$/.test(value) ? Number(value) : value;
}

async function review(page, act) {
  const { defaults } = page.list;
  const [bucket, before, after] = [page.edited, setOf(page, page.edited), page.draft];
  const shown = (set, name) => {
    if (TIMES.includes(name) || (name === "type" && !(name in set))) return propertyOf(set, name);
    return name in set ? String(set[name]) : `default (${defaults[name]})`;
  };
  const changes = PROPERTIES.filter(([name]) => before[name] !== after[name]);
  if (changes.length === 0) {
    page.told = { kind: "note", text: "Nothing is different." };
    act.show();
    return;
  }
  const isOther = (name) => ({ ...defaults, ...before })[name] !== { ...defaults, ...after }[name];
  const yes = await confirm({
    title: `Change ${bucket}?`,
    action: "Change on all nodes",
    body: [
      table(
        "Changes",
        ["Property", "Now", "Then"],
        changes.map(([name, title]) => [title, shown(before, name), shown(after, name)]),
      ),
      isOther("n")
        ? notice(
            "warn",
            "Another N moves copies between nodes in the background; until that is done, more " +
              "work goes into repair.",
          )
        : null,
      after.type && !before.type
        ? notice(
            "warn",
            "The type stays: it can be given only while the bucket has no keys, and not taken back.",
          )
        : null,
      isOther("expires_in_s")
        ? notice(
            "note",
            "It counts for what is written from now on: values that are there keep what they have.",
          )
        : null,
      after.conflicts === "lww" && isOther("conflicts")
        ? notice("warn", "With lww, of two concurrent writes one is lost without a trace.")
        : null,
    ],
  });
  if (yes) await act.change(bucket, after, `The properties of ${bucket} are changed.`);
}

async function reset(page, act) {
  const bucket = page.edited;
  const yes = await confirm({
    title: `Reset ${bucket}?`,
    action: "Reset on all nodes",
    danger: true,
    body: h("p", null, "All its properties but a type follow the defaults again. Keys are not touched."),
  });
  if (yes) await act.change(bucket, null, `${bucket} follows the defaults.`);
}
