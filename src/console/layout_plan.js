// A change of the layout that is being put together: what becomes of each node.

import { field, h, panel } from "./dom.js";

const ZONE_CHARS_MAX = 255;

/**
 * A draft: `changes` by the name of the member or of the node that joins, each `{op, new, zone, weight}` as
 * typed; `gone` are the members that are declared dead.
 */
export function emptyDraft() {
  return { changes: {}, gone: new Set() };
}

/** Whether nothing is to change. */
export function isEmpty(draft) {
  return Object.keys(draft.changes).length === 0;
}

/**
 * The changes as the API takes them: `{changes, gone}`, or `{wrong}` if what was typed cannot be sent. A zone
 * or a weight that is empty, or as it was, is not sent.
 */
export function asked(draft, known) {
  const changes = [];
  for (const [name, it] of Object.entries(draft.changes)) {
    const change = it.op === "replace" ? { op: it.op, old: name, new: it.new } : { op: it.op, name };
    const now = [...known.members, ...known.waiting].find((other) => other.name === name);
    const zone = it.zone.trim();
    const weight = it.weight.trim();
    if (weight && !/^\d{1,5}$/.test(weight)) {
      return { wrong: `The weight of ${name} is a whole number from 1, not ${weight}.` };
    }
    if (zone && (it.op === "replace" || zone !== now?.zone)) change.zone = zone;
    if (weight && (it.op === "replace" || Number(weight) !== now?.weight)) change.weight = Number(weight);
    changes.push(change);
  }
  const leaves = (name) => ["remove", "replace"].includes(draft.changes[name]?.op);
  return { changes, gone: [...draft.gone].filter(leaves).sort() };
}

/** What is to happen, a sentence for each change. */
export function sentences(draft) {
  return Object.entries(draft.changes).map(([name, it]) => {
    const dead = draft.gone.has(name) ? ", and is declared dead" : "";
    const set = [
      it.zone.trim() ? `zone ${it.zone.trim()}` : "",
      it.weight.trim() ? `weight ${it.weight.trim()}` : "",
    ];
    const parts = set.filter(Boolean).join(", ");
    if (it.op === "remove") return `${name} is removed${dead}`;
    if (it.op === "replace") return `${name} is replaced by ${it.new}${parts ? ` with ${parts}` : ""}${dead}`;
    if (it.op === "add") return `${name} is added${parts ? ` with ${parts}` : ""}`;
    return `${name} gets ${parts || "nothing else yet"}`;
  });
}

/** The draft: what was chosen, with what can be said about it. */
export function editor(known, page, act) {
  const all = Object.entries(page.draft.changes);
  return panel(
    "The change to plan",
    { class: "editor" },
    h(
      "form",
      {
        on: {
          submit: (event) => {
            event.preventDefault();
            act.compare();
          },
        },
      },
      h(
        "ul",
        { class: "changes" },
        all.map(([name, it], at) => one(name, it, sentences(page.draft)[at], known, page, act)),
      ),
      h(
        "p",
        { class: "help" },
        "Planning writes nothing. Several changes together move less data than one after the other.",
      ),
      h(
        "div",
        { class: "actions" },
        h("button", { type: "button", on: { click: act.reset } }, "Take all back"),
        h("button", { type: "submit", class: "primary", disabled: page.busy }, "Compare"),
      ),
    ),
  );
}

function one(name, it, sentence, known, page, act) {
  const member = known.members.find((other) => other.name === name);
  const now = member ?? known.waiting.find((other) => other.name === name);
  const isLeaving = it.op === "remove" || it.op === "replace";
  const isSilent = member && !["up", "self"].includes(member.state);
  const edit = (part) => ({
    input() {
      // The element that is drawn may not be the one made here.
      const { value } = this;
      act.change((draft) => {
        draft.changes[name][part] = value;
      });
    },
  });
  const text = (part, label) =>
    field(
      `${label} of ${it.new ?? name}`,
      h("input", {
        type: "text",
        id: `${part}-of-${name}`,
        autocomplete: "off",
        spellcheck: "false",
        maxlength: part === "zone" ? ZONE_CHARS_MAX : 5,
        inputmode: part === "weight" ? "numeric" : null,
        placeholder: it.op === "replace" ? "as before" : String(now?.[part] ?? ""),
        value: it[part],
        on: edit(part),
      }),
    );
  return h(
    "li",
    { key: name },
    h("b", null, sentence),
    h(
      "div",
      { class: "row" },
      it.op === "remove" ? null : [text("zone", "Zone"), text("weight", "Weight")],
      isLeaving && isSilent ? oath(name, page, act) : null,
    ),
  );
}

// A node that answers is not gone: the question is asked only about one that does not.
function oath(name, page, act) {
  return h(
    "label",
    { class: "check-label" },
    h("input", {
      type: "checkbox",
      checked: page.draft.gone.has(name),
      on: {
        change() {
          const isGone = this.checked;
          act.change((draft) => draft.gone[isGone ? "add" : "delete"](name));
        },
      },
    }),
    `Declare ${name} dead: its disk never comes back, and nobody waits for it`,
  );
}
