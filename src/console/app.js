// The shell: pages by the part of the address after `#`, the live stream, the scheme.

import { about } from "./about.js";
import { consoleOf } from "./api.js";
import { buckets } from "./buckets.js";
import { conflicts } from "./conflicts.js";
import { badge, draw, h } from "./dom.js";
import { explorer } from "./explorer.js";
import { duration } from "./format.js";
import { layout } from "./layout.js";
import { live, start, watch } from "./live.js";
import { overview } from "./overview.js";
import { slow } from "./slow.js";

// `open(main, parts, say)` shows a page, given what follows its path, and returns what ends it.
const PAGES = [
  { path: "", name: "Overview", open: overview },
  { path: "layout", name: "Layout", open: layout },
  { path: "buckets", name: "Buckets", open: buckets },
  { path: "conflicts", name: "Conflicts", open: conflicts },
  { path: "keys", name: "Keys", open: explorer },
  { path: "slow", name: "Slow requests", open: slow },
  { path: "about", name: "About", open: about },
];

const main = document.getElementById("main");
let close = null;
let shown = null;

/** Tells a screen reader what has happened. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

function route() {
  const [path = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  let parts;
  try {
    parts = rest.map(decodeURIComponent);
  } catch {
    parts = [];
  }
  const page = PAGES.find((it) => it.path === path);
  if (!page) {
    location.replace("#/");
    return;
  }
  close?.();
  const isFirst = shown === null;
  shown = page;
  document.title = `${page.name} · Quorate${live.cluster ? ` · ${live.cluster.node}` : ""}`;
  nav();
  main.replaceChildren();
  close = page.open(main, parts, say) ?? null;
  // A reader of the page starts at its head, but not when the address itself was opened.
  if (!isFirst) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function nav() {
  draw(
    document.getElementById("nav"),
    PAGES.map((page) =>
      h(
        "li",
        { key: page.path },
        h("a", { href: `#/${page.path}`, "aria-current": page === shown ? "page" : null }, page.name),
      ),
    ),
  );
}

function where() {
  const { cluster, status } = live;
  const state = { live: ["good", "live"], connecting: ["note", "connecting"], cut: ["bad", "cut"] }[status];
  draw(
    document.getElementById("where"),
    cluster
      ? h(
          "span",
          { class: "me" },
          h("span", { class: "dim" }, "node "),
          h("b", null, cluster.node),
          h("span", { class: "dim" }, " of "),
          cluster.cluster_id,
        )
      : null,
    badge(...state, "The stream of events from this node"),
  );
  draw(document.getElementById("cut"), status === "cut" ? banner() : null);
  document.documentElement.classList.toggle("stale", status === "cut" && shown?.path === "");
  if (shown) document.title = `${shown.name} · Quorate${cluster ? ` · ${cluster.node}` : ""}`;
}

function banner() {
  const name = live.cluster?.node ?? "this node";
  const others = (live.cluster?.nodes ?? []).filter(
    (it) => it.http_addr && it.node !== name && it.state !== "down",
  );
  return h(
    "section",
    { class: "notice bad", "aria-label": "Connection" },
    h(
      "p",
      null,
      h("b", null, `The stream from ${name} is cut`),
      `: ${live.reason}. `,
      live.heard ? `What you see is ${duration(Date.now() - live.heard)} old. ` : "",
      "Trying again.",
    ),
    others.length
      ? h(
          "p",
          null,
          "Other consoles: ",
          others.map((it, at) => [
            at ? ", " : "",
            h("a", { href: consoleOf(it.http_addr), rel: "noreferrer" }, it.node),
          ]),
        )
      : null,
  );
}

const THEMES = ["auto", "light", "dark"];

function themeButton() {
  const button = document.getElementById("theme");
  const now = document.documentElement.dataset.theme ?? "auto";
  button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[now];
  button.setAttribute("aria-label", `Colour scheme: ${now}. Change it`);
  button.onclick = () => {
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      if (next === "auto") localStorage.removeItem("theme");
      else localStorage.setItem("theme", next);
    } catch {
      // Not remembered, then.
    }
    themeButton();
  };
}

// What was cut and comes back is said once, not every second.
let said = "connecting";
watch(({ status }) => {
  where();
  if (status !== said && said !== "connecting") {
    say(status === "live" ? "The stream is live again." : "The stream is cut.");
  }
  said = status;
});
window.addEventListener("hashchange", route);
themeButton();
where();
start();
route();
