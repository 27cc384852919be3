// A question before something is changed.

import { h } from "./dom.js";

/** Asks; resolves to whether the answer was the action. Escape and Cancel are no. */
export function confirm({ title, body, action, danger = false }) {
  return new Promise((resolve) => {
    const yes = h(
      "button",
      { type: "button", class: danger ? "danger" : "primary", on: { click: () => end(true) } },
      action,
    );
    const no = h("button", { type: "button", on: { click: () => end(false) } }, "Cancel");
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title", on: { cancel: () => end(false) } },
      h("h2", { id: "dialog-title" }, title),
      h("div", { class: "dialog-body" }, body),
      h("div", { class: "actions" }, no, yes),
    );
    const opener = document.activeElement;
    const end = (answer) => {
      dialog.close();
      dialog.remove();
      opener?.focus?.();
      resolve(answer);
    };
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  });
}
