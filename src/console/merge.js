// A merge by hand: an editor with a check, and the write that supersedes all siblings shown.

import { confirm } from "./dialog.js";
import { joined } from "./diff.js";
import { field, h, notice } from "./dom.js";
import { bytes, many, seconds } from "./format.js";
import { diffView, LIFETIMES, lifetimeInput, pretty, read } from "./value.js";

/** Starts with the value of a sibling, or with all that are JSON `joined`. */
export function startMerge(page, from, act) {
  const { siblings } = page.report;
  if (from === "joined") {
    const all = siblings
      .filter((it) => read(it).kind === "json")
      .sort((a, b) => a.written_at.localeCompare(b.written_at))
      .map((it) => read(it).json);
    const text = JSON.stringify(
      all.reduce((earlier, later) => joined(earlier, later)),
      null,
      2,
    );
    page.merge = { text, type: "application/json", expires: "", from };
  } else {
    const known = read(siblings[from]);
    page.merge = {
      text: pretty(known),
      type: siblings[from].content_type ?? "text/plain; charset=utf-8",
      expires: "",
      from,
    };
  }
  act.show();
  document.getElementById("merge-text")?.focus();
}

/** What is wrong with the merged value: `{kind, text}`, bad if it cannot be written so. */
export function check({ text, type, expires = "" }) {
  const size = new TextEncoder().encode(text).length;
  if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+\/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(;.*)?$/.test(type)) {
    return { kind: "bad", text: "The content type must look like text/plain." };
  }
  if (/^application\/(json|[^;]*\+json)/.test(type)) {
    try {
      JSON.parse(text);
    } catch (error) {
      return { kind: "bad", text: `Not JSON, though the content type says so: ${error.message}` };
    }
  }
  if (seconds(expires) === null) {
    return { kind: "bad", text: "The time after which it expires is no time that a value can live." };
  }
  if (size === 0) return { kind: "warn", text: "Empty: the key will have a value of no bytes." };
  return { kind: "good", text: `Valid, ${bytes(size)}.` };
}

/** The editor. */
export function mergeEditor(page, act) {
  const { merge } = page;
  const verdict = check(merge);
  const submit = (event) => {
    event.preventDefault();
    if (check(page.merge).kind === "bad") document.getElementById("merge-text").focus();
    else write(page, act);
  };
  return h(
    "form",
    { class: "merge", on: { submit } },
    merge.from === "joined"
      ? notice(
          "note",
          "Joined: members and elements of all siblings; where they differ, the value that was " +
            "written later. What one sibling has removed is back if another still had it. Check it.",
        )
      : null,
    field(
      "Merged value",
      h("textarea", {
        id: "merge-text",
        rows: 14,
        spellcheck: "false",
        value: merge.text,
        "aria-invalid": String(verdict.kind === "bad"),
        "aria-describedby": "merge-check",
        on: {
          input() {
            merge.text = this.value;
            act.show();
          },
        },
      }),
    ),
    field(
      "Content type",
      h("input", {
        type: "text",
        id: "merge-type",
        value: merge.type,
        spellcheck: "false",
        on: {
          input() {
            merge.type = this.value;
            act.show();
          },
        },
      }),
    ),
    field(
      "Expires after",
      lifetimeInput("merge-expires", merge.expires, seconds(merge.expires) === null, (text) => {
        merge.expires = text;
        act.show();
      }),
      `${LIFETIMES} Empty: as the bucket says.`,
    ),
    h("p", { class: `check ${verdict.kind}`, id: "merge-check" }, verdict.text),
    h(
      "div",
      { class: "actions" },
      h(
        "button",
        {
          type: "button",
          on: {
            click: () => {
              page.merge = null;
              act.show();
            },
          },
        },
        "Discard",
      ),
      h(
        "button",
        { type: "submit", class: "primary", disabled: page.busy || verdict.kind === "bad" },
        `Resolve ${many(page.report.siblings.length, "sibling")} with this`,
      ),
    ),
  );
}

async function write(page, act) {
  const { siblings } = page.report;
  const latest = [...siblings].sort((a, b) => a.written_at.localeCompare(b.written_at)).at(-1);
  const before = latest.deleted ? "" : pretty(read(latest));
  const yes = await confirm({
    title: "Resolve with the merged value?",
    action: "Resolve",
    body: [
      h("p", null, `It supersedes the ${siblings.length} siblings shown. Against the latest of them:`),
      before === page.merge.text
        ? h("p", { class: "empty" }, "the same")
        : diffView(before, page.merge.text, ["latest sibling", "merged"]),
      siblings.some((it) => it.index || Object.keys(it.meta ?? {}).length)
        ? notice("note", "Metadata and index entries of the siblings are not taken over.")
        : null,
    ],
  });
  const lives = seconds(page.merge.expires);
  if (yes)
    await act.resolve(
      { value: page.merge.text, content_type: page.merge.type },
      "the merged value is written",
      lives ? { "Quorate-Expires-In": String(lives) } : {},
    );
}
