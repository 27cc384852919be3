// The layout as it is: the record in force, its members, a change under way, who waits, what was decided.

import { consoleOf } from "./api.js";
import { badge, factsOf, h, panel, select, table, unseen } from "./dom.js";
import { ago, bytes, count, duration, list, many } from "./format.js";
import { live } from "./live.js";
import { loadBars } from "./layout_compare.js";
import { STATES } from "./overview.js";

const PHASES = {
  stable: ["good", "Nothing changes"],
  moving: ["warn", "The layout changes"],
  releasing: ["note", "Nodes that left hand over what they hold"],
};

/** The record in force, in a sentence and some facts. */
export function summary(known) {
  const [kind, text] = PHASES[known.phase] ?? ["note", known.phase];
  const zones = new Set(known.members.map((it) => it.zone)).size;
  return h(
    "section",
    { class: `verdict ${kind}`, "aria-label": "State", key: "summary" },
    h(
      "p",
      { class: "sentence" },
      h("span", { class: "mark", "aria-hidden": "true" }),
      `${text}: epoch ${known.epoch}`,
    ),
    factsOf(
      [
        ["Phase", known.phase],
        ["Hash", h("code", null, known.hash)],
        ["Members", `${many(known.members.length, "node")} in ${many(zones, "zone")}`],
        ["Partitions", count(known.partitions)],
        ["Copies", `N = ${known.n}`],
        known.waiting.length ? ["Wait to join", count(known.waiting.length)] : null,
      ].filter(Boolean),
    ),
  );
}

/** The members: of the old layout and, while that changes, of the new one. */
export function members(known, page, act) {
  const stays = new Map((known.next ?? []).map((it) => [it.name, it]));
  const old = new Set(known.members.map((it) => it.name));
  const joining = (known.next ?? []).filter((it) => !old.has(it.name));
  const mayChange = known.phase === "stable";
  const most = Math.max(1, ...[...known.members, ...joining].flatMap((it) => [it.load ?? 0, it.fair ?? 0]));
  const row = (it, role) => ({
    key: it.name,
    class: it.name in page.draft.changes ? "chosen" : "",
    cells: [
      it.name,
      it.zone,
      count(it.weight),
      badge(...(STATES[it.state] ?? ["note", it.state])),
      count(it.load),
      shareOf(it),
      h("div", { class: "in-cell" }, loadBars(it.name, { after: it.load, fair: it.fair }, most)),
      clientsAt(it),
      mayChange ? choice(it, known, page, act) : role,
    ],
  });
  const roleOf = (it) => {
    if (known.gone.includes(it.name)) return badge("bad", "declared dead");
    if (known.next && !stays.has(it.name)) return badge("warn", "leaves");
    return known.next ? "stays" : "";
  };
  return panel(
    "Members",
    {
      class: "nodes",
      aside: known.next ? "of the old layout and of the new one" : `of epoch ${known.epoch}`,
    },
    table(
      "Members",
      [
        "Node",
        "Zone",
        { name: "Weight", number: true },
        "State",
        { name: "Load", number: true, title: "Replicas of partitions" },
        { name: "Of fair share", number: true, title: "By its weight" },
        "Load and fair share",
        "Clients reach it at",
        mayChange ? "Change" : "In the change",
      ],
      [
        ...known.members.map((it) => row(it, roleOf(it))),
        ...joining.map((it) => row(it, badge("note", "joins"))),
      ],
    ),
  );
}

// What the node says of itself now counts more than what is recorded.
function clientsAt(it) {
  const said = live.cluster?.nodes.find((node) => node.node === it.name)?.http_addr;
  const addr = said ?? it.client_addr;
  if (!addr) return h("span", { class: "dim" }, "not told");
  return h("a", { href: consoleOf(addr), rel: "noreferrer", title: `The console of ${it.name}` }, addr);
}

function shareOf({ load, fair }) {
  return typeof load === "number" && fair > 0 ? `${((load / fair) * 100).toFixed(0)} %` : "–";
}

// What is to become of a member.
function choice(it, known, page, act) {
  const now = page.draft.changes[it.name];
  const value = now?.op === "replace" ? `replace ${now.new}` : (now?.op ?? "");
  const isTaken = (name) => name in page.draft.changes;
  const free = known.waiting.filter((other) => !isTaken(other.name));
  const others = now?.op === "replace" ? [...free, { name: now.new }] : free;
  const names = [...new Set(others.map((other) => other.name))];
  const options = [
    ["", "stays as it is"],
    ["set", "other zone or weight"],
    ["remove", "is removed"],
    ...names.map((name) => [`replace ${name}`, `is replaced by ${name}`]),
  ];
  return select(
    {
      "aria-label": `Change ${it.name}`,
      on: {
        change() {
          const [op, other] = this.value.split(" ");
          act.change((draft) => {
            delete draft.changes[it.name];
            draft.gone.delete(it.name);
            if (op) draft.changes[it.name] = { op, ...(other ? { new: other } : {}), zone: "", weight: "" };
          });
        },
      },
    },
    options,
    value,
  );
}

/** The processes that asked to join. */
export function waiting(known, page, act) {
  const replaced = new Map(
    Object.entries(page.draft.changes)
      .filter(([, it]) => it.op === "replace")
      .map(([old, it]) => [it.new, old]),
  );
  const mayChange = known.phase === "stable";
  const joining = new Set((known.next ?? []).map((it) => it.disk));
  const all = known.waiting.filter((it) => !joining.has(it.disk));
  const rows = all.map((it) => ({
    key: `${it.name} ${it.disk}`,
    cells: [
      it.name,
      it.zone,
      count(it.weight),
      it.peer_addr,
      it.client_addr ?? "not told",
      duration(it.since_ms),
      !mayChange
        ? h("span", { class: "dim" }, "after the change")
        : replaced.has(it.name)
          ? `replaces ${replaced.get(it.name)}`
          : addButton(it, page, act),
    ],
  }));
  return panel(
    "Nodes that wait to join",
    null,
    h(
      "p",
      { class: "help" },
      "A node that is started with ",
      h("code", null, "join"),
      " asks the members, and serves nothing before it is added.",
    ),
    table(
      "Nodes that wait to join",
      [
        "Node",
        "Zone",
        { name: "Weight", number: true },
        "Peers reach it at",
        "Clients reach it at",
        { name: "Waits for", number: true },
        "Change",
      ],
      rows,
      "No node asks to join.",
    ),
  );
}

function addButton(it, page, act) {
  const isAdded = page.draft.changes[it.name]?.op === "add";
  const click = () =>
    act.change((draft) => {
      if (isAdded) delete draft.changes[it.name];
      else draft.changes[it.name] = { op: "add", zone: "", weight: "" };
    });
  return h(
    "button",
    { type: "button", "aria-pressed": String(isAdded), "aria-label": `Add ${it.name}`, on: { click } },
    isAdded ? "Is added" : "Add",
  );
}

/** How far the change under way is. */
export function moving(known, page, act) {
  const { progress } = known;
  const button = known.next
    ? h(
        "button",
        { type: "button", class: "danger", disabled: page.busy, on: { click: act.abort } },
        "Give the change up",
      )
    : null;
  if (!progress) return button ? panel("The change under way", { aside: button }) : null;
  const { partitions_ready: ready, partitions_total: total } = progress;
  const rows = Object.entries(progress.by_node)
    .filter(([, it]) => it.partitions !== 0)
    .map(([name, it]) => ({ key: name, cells: [name, ...progressCells(it)] }));
  return panel(
    "The change under way",
    { aside: button },
    h("progress", { max: Math.max(total, 1), value: ready, "aria-label": "Partitions received" }),
    factsOf([
      ["Partitions received", total ? `${count(ready)} of ${count(total)}` : "not known yet"],
      ...optional("Left to receive", progress.bytes_left, bytes),
      ...optional("Time left, about", progress.eta_s, (seconds) => duration(seconds * 1000)),
    ]),
    table(
      "Progress by node",
      ["Node", { name: "Receives", number: true }, { name: "Missing", number: true }, "State", "Waits for"],
      rows,
      "No node has to receive anything.",
    ),
  );
}

// Fields that a node of another release does not tell are left out.
function optional(name, value, format) {
  return typeof value === "number" ? [[name, format(value)]] : [];
}

function progressCells(it) {
  const waits = Array.isArray(it.waiting_for) ? it.waiting_for : [];
  const state =
    it.partitions === null
      ? badge("warn", "did not say")
      : it.missing === 0 && !it.busy
        ? badge("good", "has everything")
        : badge(waits.length ? "warn" : "note", it.missing === 0 ? "checks what it has" : "receives");
  const more = [
    ...optional("", it.bytes_left, (value) => `${bytes(value)} left`),
    ...optional("", it.eta_s, (value) => `about ${duration(value * 1000)}`),
  ].map(([, text]) => text);
  return [
    count(it.partitions),
    count(it.missing),
    [state, more.length ? ` ${more.join(", ")}` : ""],
    list(waits),
  ];
}

// It has not said how far it is.
function isSilent(it) {
  return !it.released && it.hints === null;
}

function leavingState(it) {
  if (it.released) return badge("good", "released: stop it");
  return isSilent(it) ? badge("warn", "did not say") : badge("note", "hands over");
}

function letGo(it, page, act) {
  const on = { click: () => act.release(it.name) };
  const label = `Let ${it.name} go: it is dead`;
  return h(
    "button",
    { type: "button", class: "danger", disabled: page.busy, "aria-label": label, on },
    "It is dead",
  );
}

/** Those that left, and what they still hold. */
export function leaving(known, page, act) {
  const rows = known.leaving.map((it) => ({
    key: it.disk,
    cells: [
      it.name,
      count(it.rows),
      count(it.hints),
      leavingState(it),
      list(Array.isArray(it.waiting_for) ? it.waiting_for : []),
      isSilent(it) ? letGo(it, page, act) : "",
    ],
  }));
  return panel(
    "Nodes that leave",
    null,
    h(
      "p",
      { class: "help" },
      "They hand over what they hold. Stop each once it is released, or gone from here, and not before.",
    ),
    table(
      "Nodes that leave",
      [
        "Node",
        { name: "Rows", number: true },
        { name: "Hints", number: true },
        "State",
        "Waits for",
        unseen("Let go"),
      ],
      rows,
    ),
  );
}

// The first record is made from the configuration of each node, at no time.
function whenOf(date) {
  if (!(new Date(date).getTime() > 0)) return "–";
  return h("time", { datetime: date, title: date }, ago(date));
}

/** What was decided, newest first. */
export function history(records) {
  return panel(
    "History",
    { aside: `the last ${many(records.length, "record")}` },
    table(
      "History",
      [{ name: "Epoch", number: true }, "What", "Phase", "Members", "Next", "By", "When"],
      records.map((it) => ({
        key: it.hash,
        cells: [
          h("span", { title: it.hash }, it.epoch),
          [it.cause.op, it.cause.note ? h("div", { class: "job-about" }, it.cause.note) : null],
          it.phase,
          it.members.join(", "),
          it.next ? it.next.join(", ") : "",
          it.cause.by,
          whenOf(it.cause.at),
        ],
      })),
    ),
  );
}
