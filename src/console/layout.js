// The layout: who is a member, a change that is planned, compared and committed, and how far it is.

import { Refused, ask, get } from "./api.js";
import { confirm } from "./dialog.js";
import { draw, h, notice, panel } from "./dom.js";
import { comparison, review } from "./layout_compare.js";
import { asked, editor, emptyDraft, isEmpty, sentences } from "./layout_plan.js";
import { history, leaving, members, moving, summary, waiting } from "./layout_view.js";

/** How often the node is asked: while a change is under way, and while none is. */
const EVERY_MS = { moving: 2_000, stable: 5_000 };
const RECORDS_MAX = 20;

/** Opens the page. */
export function layout(main, _parts, say) {
  const page = {
    layout: null,
    history: null,
    failed: null,
    draft: emptyDraft(),
    // What was planned: `{body, answer, accepted}`, where `accepted` are the places of warnings.
    plan: null,
    told: null,
    busy: false,
  };
  const ended = new AbortController();
  const show = () => ended.signal.aborted || draw(main, body(page, act));
  let timer = null;
  let isAsking = false;

  // One request at a time, and none while nobody looks.
  async function load() {
    clearTimeout(timer);
    if (isAsking || ended.signal.aborted || document.hidden) return;
    isAsking = true;
    try {
      const found = await get("/layout", { signal: ended.signal, timeout_ms: 10_000 });
      follow(page, found, say);
      if (page.history?.[0]?.hash !== found.hash) {
        page.history = await get(`/layout/history?limit=${RECORDS_MAX}`, { signal: ended.signal });
      }
      page.failed = null;
    } catch (error) {
      page.failed = words(error);
    }
    isAsking = false;
    if (ended.signal.aborted) return;
    show();
    timer = setTimeout(load, page.layout?.phase === "stable" ? EVERY_MS.stable : EVERY_MS.moving);
  }

  // Sends what an operator has decided, and shows what came of it in the node's own words.
  async function send(path, sent, done) {
    if (page.busy) return null;
    page.busy = true;
    show();
    try {
      const answer = await ask(path, {
        method: "POST",
        body: JSON.stringify(sent),
        headers: { "Content-Type": "application/json" },
      });
      page.told = null;
      return done(await answer.json());
    } catch (error) {
      page.told = { kind: "bad", text: words(error), parts: partsOf(error) };
      return null;
    } finally {
      page.busy = false;
      show();
      document.getElementById("told")?.focus();
    }
  }

  const told = (kind, text) => {
    page.told = { kind, text };
    say(text);
  };
  const act = {
    change(edit) {
      edit(page.draft);
      [page.plan, page.told] = [null, null];
      show();
    },
    reset() {
      [page.draft, page.plan, page.told] = [emptyDraft(), null, null];
      show();
    },
    accept(place, isAccepted) {
      page.plan.accepted[isAccepted ? "add" : "delete"](place);
      show();
    },
    compare() {
      const wanted = asked(page.draft, page.layout);
      if (wanted.wrong) {
        page.told = { kind: "warn", text: wanted.wrong };
        show();
        return null;
      }
      // The record that is shown: what was decided since is a reason to look again.
      const sent = { base: page.layout.hash, ...wanted };
      return send("/layout/plan", sent, (answer) => {
        page.plan = { body: sent, answer, accepted: new Set() };
        say("The change is planned. Nothing is written yet.");
      });
    },
    async commit() {
      const { body: sent, answer } = page.plan;
      const accept = [...new Set(answer.warnings.map((it) => it.name))];
      const isYes = await confirm({
        title: "Commit the change?",
        action: "Commit",
        danger: sent.gone.length > 0,
        body: review(page.plan, sentences(page.draft)),
      });
      if (!isYes) return;
      await send(
        "/layout/commit",
        { ...sent, base: answer.base, result: answer.result, accept },
        (record) => {
          [page.draft, page.plan] = [emptyDraft(), null];
          told("good", `The change is committed: epoch ${record.epoch} is in force.`);
          load();
        },
      );
    },
    async release(name) {
      const isYes = await confirm({
        title: `Let ${name} go?`,
        action: "Let it go",
        danger: true,
        body: h("p", null, `It is declared that ${name} will never come back. What only it holds is lost.`),
      });
      if (!isYes) return;
      const sent = { base: page.layout.hash, node: name, lost: true };
      await send("/layout/release", sent, (record) => {
        told("good", `${name} is let go: epoch ${record.epoch} is in force.`);
        load();
      });
    },
    async abort() {
      const lost = new Set();
      const isYes = await confirm({
        title: "Give the change up?",
        action: "Give it up",
        danger: true,
        body: giveUp(page.layout, lost),
      });
      if (!isYes) return;
      await send("/layout/abort", { base: page.layout.hash, lost: [...lost] }, (record) => {
        told("good", `The change is given up: epoch ${record.epoch} is in force.`);
        load();
      });
    },
  };
  document.addEventListener("visibilitychange", load, { signal: ended.signal });
  show();
  load();
  return () => {
    clearTimeout(timer);
    ended.abort();
  };
}

// Takes over what the node says now, and tells when a change has ended.
function follow(page, found, say) {
  const before = page.layout;
  page.layout = found;
  if (before && before.phase !== "stable" && found.phase === "stable") {
    const text = `The change has ended: epoch ${found.epoch} is in force.`;
    page.told = { kind: "good", text };
    say(text);
  }
}

function body(page, act) {
  const known = page.layout;
  const head = h("h1", null, "Layout");
  if (!known) {
    return [head, page.failed ? notice("bad", page.failed) : h("p", { class: "empty" }, "Loading")];
  }
  const isStable = known.phase === "stable";
  return [
    head,
    page.failed ? notice("warn", `What you see may be old. ${page.failed}`) : null,
    summary(known),
    page.told ? toldBox(page.told) : null,
    isStable ? null : moving(known, page, act),
    known.leaving.length ? leaving(known, page, act) : null,
    members(known, page, act),
    isStable || known.waiting.length ? waiting(known, page, act) : null,
    isEmpty(page.draft) ? null : editor(known, page, act),
    page.plan ? comparison(known, page, act) : null,
    page.history ? history(page.history) : panel("History", null, h("p", { class: "empty" }, "Loading")),
  ];
}

function toldBox({ kind, text, parts = [] }) {
  return h(
    "div",
    { id: "told", tabindex: "-1", key: "told" },
    notice(
      kind,
      h("p", null, text),
      parts.length
        ? h(
            "ul",
            { class: "plain" },
            parts.map((it) => h("li", null, it)),
          )
        : null,
    ),
  );
}

/** The node's own words. */
function words(error) {
  if (!(error instanceof Refused)) return `${error.message}.`;
  return `${error.name}: ${error.message.replace(/\.$/, "")}.`;
}

/** Each refusal and warning that a refused change names. */
function partsOf(error) {
  const { refusals, warnings } = error.problem ?? {};
  const texts = [refusals, warnings].flatMap((list) =>
    Array.isArray(list) ? list.map((it) => it?.text) : [],
  );
  return texts.filter((text) => typeof text === "string");
}

// Only those of the new layout that are not up can be lost; the node refuses the others anyway.
function giveUp(known, lost) {
  const old = new Set(known.members.map((it) => it.name));
  const silent = (known.next ?? []).filter((it) => !old.has(it.name) && !["up", "self"].includes(it.state));
  return [
    h("p", null, "The old layout stays. Nodes that were to join hand over what they took, and leave."),
    silent.map((it) =>
      h(
        "p",
        { key: it.name },
        h(
          "label",
          { class: "check-label" },
          h("input", {
            type: "checkbox",
            on: { change: (event) => lost[event.target.checked ? "add" : "delete"](it.name) },
          }),
          `${it.name} does not answer, and its disk will never come back: do not wait for it`,
        ),
      ),
    ),
  ];
}
