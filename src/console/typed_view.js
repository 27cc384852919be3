// A typed key on the page: its value, the dots and holders of its parts, and forms for its operations.

import { confirm } from "./dialog.js";
import { badge, field, h, notice, panel, select, table, unseen } from "./dom.js";
import { ago, list, many, shortDot, whole } from "./format.js";
import { partHolders } from "./holders.js";
import { elementsOf, fieldChange, fieldsOf, increment, TYPES } from "./typed.js";
import { valueView } from "./value.js";

const VIEWS = { counter, set, flag, map, register_lww: register, hll: estimate };

/** The panels of a typed key. */
export function typedPanels(it) {
  const about = TYPES[it.type] ?? { name: it.type, merges: "" };
  const isThere = it.value !== undefined;
  return [
    panel(
      about.name,
      {
        key: `${it.bucket}/${it.key}`,
        class: "typed",
        "aria-busy": String(it.busy),
        aside: [
          isThere && !it.exists ? badge("note", "nothing is there yet") : null,
          h("button", { type: "button", on: { click: it.load } }, "Read again"),
        ],
      },
      it.told ? h("div", { id: "told", tabindex: -1 }, notice(it.told.kind, it.told.text)) : null,
      it.failed ? notice("bad", it.failed) : null,
      isThere ? (VIEWS[it.type] ?? other)(it) : h("p", { class: "empty" }, it.failed ? "" : "Reading"),
      h("p", { class: "help merges" }, about.merges),
      it.exists
        ? h(
            "div",
            { class: "actions" },
            button("Delete the key", () => remove(it), "danger"),
          )
        : deletes(it),
    ),
    it.report ? panel("Who holds what", null, partHolders(it.report)) : null,
  ];
}

const button = (text, click, kind = null, more = {}) =>
  h("button", { type: "button", class: kind, ...more, on: { click } }, text);

/** A form on one line, with its action, and other actions. */
function form(action, submit, fields, others = null) {
  return h(
    "form",
    {
      class: "row",
      on: {
        submit(event) {
          event.preventDefault();
          submit();
        },
      },
    },
    fields,
    h("button", { type: "submit", class: "primary" }, action),
    others,
  );
}

/** A text input: what is typed is in the draft under `name`. */
function text(it, name, { start = "", rows, ...props } = {}) {
  return h(rows ? "textarea" : "input", {
    type: rows ? null : "text",
    rows,
    autocomplete: "off",
    spellcheck: "false",
    value: it.draft[name] ?? start,
    ...props,
    on: {
      input() {
        it.draft[name] = this.value;
      },
    },
  });
}

const partsOf = (it, kind) => (it.report?.siblings ?? []).filter((part) => part.part === kind);

const dot = (part) => h("code", { title: part.dot }, shortDot(part.dot));
const when = (part) => h("time", { datetime: part.written_at, title: part.written_at }, ago(part.written_at));

/** The nodes that hold a part, and the home replicas that answered and do not. */
function held(part, { replicas }) {
  const lacks = replicas.filter((each) => each.dots && !each.dots.includes(part.dot));
  return [
    part.held_by.length ? list(part.held_by) : "no replica",
    part.hinted_at.length ? `, as a hint on ${list(part.hinted_at)}` : "",
    lacks.length ? [" ", badge("warn", `not on ${list(lacks.map((each) => each.node))}`)] : null,
  ];
}

/** Parts as a table; `extra` are columns `{name, number, cell}` of what they hold. */
function partsTable(it, kind, caption, extra = []) {
  if (!it.report) return null;
  return table(
    caption,
    ["Dot", "Written by", "When", ...extra, "On"],
    partsOf(it, kind).map((part) => ({
      key: part.dot,
      cells: [
        dot(part),
        part.writer,
        when(part),
        ...extra.map(({ cell }) => cell(part)),
        held(part, it.report),
      ],
    })),
    "No replica holds a part.",
  );
}

/** The dots of one element or field, each with its holders. */
function dots(parts, report) {
  if (!report || parts.length === 0) return h("span", { class: "dim" }, "not known");
  return h(
    "ul",
    { class: "dots" },
    parts.map((part) =>
      h("li", { key: part.dot }, dot(part), ` by ${part.writer}, `, when(part), ", on ", held(part, report)),
    ),
  );
}

function cut(it, rows, draw) {
  return [
    draw(rows.slice(0, it.rows)),
    rows.length > it.rows
      ? button(`Show all ${rows.length}`, () => {
          it.rows = rows.length;
          it.show();
        })
      : null,
  ];
}

const name = (content) =>
  content === "" ? h("span", { class: "dim" }, "(empty text)") : h("span", { class: "mono" }, content);
const short = (content) => `“${content.length > 60 ? `${content.slice(0, 60)}…` : content}”`;

function counter(it) {
  const step = (sign) => {
    const wanted = increment(it.draft.amount ?? "1", sign);
    if (!wanted) {
      it.refuse("The amount must be a whole number of less than 64 bits.");
      return;
    }
    const said = wanted.by < 0n ? `${whole(-wanted.by)} subtracted` : `${whole(wanted.by)} added`;
    it.run({ body: wanted.body, said });
  };
  const number = (of) => ({ number: true, cell: (part) => whole(part.content?.[of] ?? 0) });
  return [
    h("p", { class: "big" }, unseen("The value is "), whole(it.value)),
    form(
      "Add",
      () => step(1),
      field("Amount", text(it, "amount", { start: "1", inputmode: "numeric" })),
      button("Subtract", () => step(-1)),
    ),
    h("h3", null, "Shares, one for each actor"),
    partsTable(it, "count", "Shares of the counter", [
      { name: "Added", ...number("added") },
      { name: "Subtracted", ...number("subtracted") },
    ]),
  ];
}

function add(it) {
  const element = it.draft.element ?? "";
  if (element === "") it.refuse("Type what to add.");
  else it.run({ body: JSON.stringify({ add: [element] }), said: `${short(element)} added`, clear: true });
}

function set(it) {
  const take = (element) =>
    it.run({ body: JSON.stringify({ remove: [element] }), said: `${short(element)} removed`, takes: true });
  const all = elementsOf(it.value, partsOf(it, "element"));
  return [
    form("Add", () => add(it), field("Element", text(it, "element"))),
    h("h3", null, many(it.value.length, "element")),
    cut(it, all, (rows) =>
      table(
        "Elements",
        ["Element", "Dots, and who holds them", unseen("Remove")],
        rows.map(({ name: element, isRead, parts }) => ({
          key: element,
          cells: [
            name(element),
            dots(parts, it.report),
            isRead
              ? button("Remove", () => take(element), null, { "aria-label": `Remove ${short(element)}` })
              : h("span", { class: "dim" }, "not in what was read"),
          ],
        })),
        "No elements.",
      ),
    ),
  ];
}

function flag(it) {
  const turn = () =>
    it.run({
      body: JSON.stringify({ enable: !it.value }),
      said: it.value ? "Switched off" : "Switched on",
      takes: it.value,
    });
  return [
    h(
      "p",
      { class: "bar" },
      h(
        "button",
        {
          type: "button",
          role: "switch",
          class: "toggle",
          "aria-checked": String(it.value),
          on: { click: turn },
        },
        h("span", { class: "track", "aria-hidden": "true" }),
        "Flag",
      ),
      h("b", { "aria-hidden": "true" }, it.value ? "on" : "off"),
    ),
    h("h3", null, "Dots that keep it on"),
    partsTable(it, "flag", "Dots of the flag"),
  ];
}

function register(it) {
  const assign = () =>
    it.run({
      body: JSON.stringify({ assign: it.draft.text ?? it.value ?? "" }),
      said: "Assigned",
      clear: true,
    });
  const parts = partsOf(it, "register_lww");
  return [
    it.value === null
      ? h("p", { class: "empty" }, "Nothing was assigned.")
      : valueView({ value: it.value }, "The value"),
    form("Assign", assign, field("Text", text(it, "text", { start: it.value ?? "", rows: 3 }))),
    h("h3", null, parts.length > 1 ? "Assigned at the same time: the latest counts" : "Its dot"),
    partsTable(it, "register_lww", "Dots of the register", [
      { name: "Text", cell: (part) => name(part.content) },
    ]),
  ];
}

function estimate(it) {
  return [
    h("p", { class: "big" }, h("span", { class: "unit" }, "about "), whole(it.value)),
    form("Add", () => add(it), field("Text", text(it, "element"), "Only its hash is kept.")),
    h("h3", null, "Sketches"),
    partsTable(it, "hll", "Sketches of the estimate", [
      { name: "Estimate", number: true, cell: (part) => whole(part.content?.estimate ?? 0) },
    ]),
  ];
}

const HOW = [
  ["assign", "Assign a text"],
  ["on", "Switch a flag on"],
  ["off", "Switch a flag off"],
  ["add", "Add to a set"],
  ["remove", "Remove from a set"],
];

function map(it) {
  const how = it.draft.how ?? "assign";
  const change = () => {
    const { field: of = "", text: content = "" } = it.draft;
    if (of === "") it.refuse("Name the field to change.");
    else {
      const takes = how === "off" || how === "remove";
      it.run({
        body: fieldChange({ field: of, how, text: content }),
        said: `Field ${short(of)} changed`,
        takes,
        clear: true,
      });
    }
  };
  const choose = function () {
    it.draft.how = this.value;
    it.show();
  };
  const hasText = how !== "on" && how !== "off";
  return [
    form("Change", change, [
      field("Field", text(it, "field")),
      field("What", select({ on: { change: choose } }, HOW, how)),
      hasText ? field("Text", text(it, "text")) : null,
    ]),
    h("h3", null, many(Object.keys(it.value).length, "field")),
    cut(it, fieldsOf(it.value, partsOf(it, "field")), (rows) =>
      table(
        "Fields",
        ["Field", "Type", "Value, and who holds its dots", unseen("Remove")],
        rows.map((row) => ({
          key: `${row.type} ${row.name}`,
          cells: [
            name(row.name),
            (TYPES[row.type]?.name ?? row.type).toLowerCase(),
            fieldValue(row, it.report),
            row.isFirst
              ? button("Remove", () => removeField(it, row.name), null, {
                  "aria-label": `Remove the field ${short(row.name)}`,
                })
              : "",
          ],
        })),
        "No fields.",
      ),
    ),
  ];
}

function fieldValue({ type, value, parts }, report) {
  if (type !== "set") {
    return [type === "flag" ? h("b", null, "on") : name(value), dots(parts, report)];
  }
  const all = elementsOf(value, parts, (part) => part.content.content);
  return all.map((each) => h("div", { key: each.name }, name(each.name), dots(each.parts, report)));
}

async function removeField(it, of) {
  const yes = await confirm({
    title: "Remove this field?",
    action: "Remove",
    danger: true,
    body: h("p", null, h("code", null, of), ", all that was read of it. What others change meanwhile stays."),
  });
  if (yes)
    it.run({ body: JSON.stringify({ remove: [of] }), said: `Field ${short(of)} removed`, takes: true });
}

async function remove(it) {
  const yes = await confirm({
    title: "Delete this key?",
    action: "Delete",
    danger: true,
    body: h(
      "p",
      null,
      h("code", null, `${it.bucket}/${it.key}`),
      " as it was read. What others write meanwhile stays.",
    ),
  });
  if (yes) it.run({ method: "DELETE", said: "Deleted", takes: true });
}

/** A type of a later release. */
const other = (it) => valueView({ value: JSON.stringify(it.value) }, "The value");

function deletes(it) {
  return (it.report?.siblings ?? [])
    .filter((part) => part.deleted)
    .map((part) =>
      h(
        "p",
        { class: "help" },
        "Deleted by ",
        part.writer,
        ", ",
        when(part),
        ", ",
        dot(part),
        ", on ",
        held(part, it.report),
      ),
    );
}
