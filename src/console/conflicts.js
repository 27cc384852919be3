// Keys in conflict: the list of all, and one key in detail.

import { explain, get, pageOf, query } from "./api.js";
import { draw, field, h, notice, panel, table } from "./dom.js";
import { list, many } from "./format.js";
import { inspect } from "./inspect.js";

const PAGE = 100;

/** Opens the list, or one key if a bucket and a key follow. */
export function conflicts(main, parts, say) {
  if (parts.length === 2) return inspect(main, parts[0], parts[1], say);
  const page = {
    keys: [],
    cursor: null,
    bucket: parts[0] ?? "",
    unreachable: [],
    loaded: false,
    failed: null,
    busy: false,
  };
  const show = () => draw(main, body(page, load));
  const load = async (more) => {
    page.busy = true;
    show();
    try {
      const got = await get(
        `/siblings${query({ bucket: page.bucket, limit: PAGE, cursor: more ? page.cursor : null })}`,
      );
      Object.assign(page, {
        keys: more ? [...page.keys, ...got.keys] : got.keys,
        cursor: got.cursor,
        unreachable: got.unreachable,
        loaded: true,
        failed: null,
      });
      say(`${many(page.keys.length, "key")} in conflict.`);
    } catch (error) {
      page.failed = explain(error);
    }
    page.busy = false;
    show();
  };
  load(false);
  return null;
}

function body(page, load) {
  const bucket = h("input", {
    type: "text",
    value: page.bucket,
    autocomplete: "off",
    spellcheck: "false",
    on: {
      input() {
        page.bucket = this.value.trim();
      },
    },
  });
  const open = (event) => {
    event.preventDefault();
    load(false);
  };
  return [
    h("h1", null, "Conflicts"),
    panel(
      "Keys in conflict",
      { aside: page.loaded ? `${many(page.keys.length, "key")}${page.cursor ? " so far" : ""}` : null },
      h(
        "form",
        { class: "row", on: { submit: open } },
        field("Only of bucket", bucket),
        h("button", { type: "submit" }, "Look again"),
      ),
      page.failed ? notice("bad", page.failed) : null,
      page.unreachable.length
        ? notice(
            "warn",
            `Not asked, because they could not be reached: ${list(page.unreachable)}. ` +
              "There may be more conflicts there.",
          )
        : null,
      page.loaded && !page.failed
        ? table(
            "Keys in conflict",
            ["Key", "Bucket", { name: "Siblings", number: true }],
            page.keys.map((it) => ({
              key: `${it.bucket}/${it.key}`,
              cells: [
                h("a", { class: "mono", href: pageOf(it.bucket, it.key) }, it.key),
                it.bucket,
                String(it.siblings),
              ],
            })),
            "No key is in conflict.",
          )
        : h("p", { class: "empty" }, page.busy ? "Asking every node" : ""),
      page.cursor
        ? h("button", { type: "button", disabled: page.busy, on: { click: () => load(true) } }, "More")
        : null,
    ),
    panel("Look at any key", null, lookAt(page.bucket)),
  ];
}

function lookAt(bucket) {
  const [inBucket, inKey] = [
    h("input", {
      type: "text",
      id: "look-bucket",
      value: bucket,
      required: true,
      autocomplete: "off",
      spellcheck: "false",
    }),
    h("input", { type: "text", id: "look-key", required: true, autocomplete: "off", spellcheck: "false" }),
  ];
  const form = h(
    "form",
    {
      class: "row",
      on: {
        submit(event) {
          event.preventDefault();
          const [of, key] = ["look-bucket", "look-key"].map((id) => document.getElementById(id).value);
          location.hash = pageOf(of, key);
        },
      },
    },
    field("Bucket", inBucket),
    field("Key", inKey),
    h("button", { type: "submit" }, "Inspect"),
  );
  return [
    h(
      "p",
      { class: "help" },
      "The inspection asks every node what it holds of a key, in conflict or not, and changes nothing.",
    ),
    form,
  ];
}
