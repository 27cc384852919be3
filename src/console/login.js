// Who one is: a token, kept in memory only. It is gone with the page, and no other page can read it.

import { h } from "./dom.js";

let token = "";
let asking = null;
let isDeclined = false;

/** The headers that say who one is. */
export function authorization() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/**
 * Asks for a token, once however many ask, after a request with the headers `sent` was refused. Resolves to
 * whether there is another one. Who declines is not asked again.
 */
export function logIn(reason, sent) {
  if (sent.Authorization !== authorization().Authorization) return Promise.resolve(true);
  if (isDeclined) return Promise.resolve(false);
  asking ??= ask(reason).finally(() => (asking = null));
  return asking;
}

function ask(reason) {
  return new Promise((resolve) => {
    const field = h("input", {
      type: "password",
      id: "login-token",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "qk_…",
    });
    const end = (given) => {
      dialog.close();
      dialog.remove();
      isDeclined = !given;
      resolve(given);
    };
    const enter = (event) => {
      event.preventDefault();
      token = field.value.trim();
      end(token !== "");
    };
    const dialog = h(
      "dialog",
      { "aria-labelledby": "login-title", on: { cancel: () => end(false) } },
      h("h2", { id: "login-title" }, "This node wants a token"),
      h(
        "form",
        { on: { submit: enter } },
        h("p", {}, reason),
        h("p", {}, "An operator makes one: quorate token create NAME --allow look,… --config FILE"),
        h("label", { for: "login-token" }, "Token, kept until this page is closed "),
        field,
        h(
          "div",
          { class: "actions" },
          h("button", { type: "button", on: { click: () => end(false) } }, "Cancel"),
          h("button", { type: "submit", class: "primary" }, "Log in"),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
}
