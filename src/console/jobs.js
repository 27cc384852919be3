// What the node does in the background, live: a section of the overview.

import { badge, factsOf, h, panel, table } from "./dom.js";
import { hasPanicked } from "./findings.js";
import { ago, count, duration, latency, many } from "./format.js";
import { live } from "./live.js";

const COLUMNS = [
  "Job",
  { name: "Peer", title: "The peer that it is for, if there is one such job for each" },
  "State",
  { name: "Progress", number: true, title: "How much of its current or last pass is done, if it knows" },
  { name: "Runs", number: true, title: "How often it worked since the node's start" },
  { name: "Last run", number: true, title: "When its last run ended" },
  { name: "Took", number: true, title: "How long that run took, waits for peers and for its turn included" },
  { name: "Share", number: true, title: "The share of a core that it may take at the current load" },
  "Last error",
];

/** The section. `page.onlyTroubled` is which jobs it lists; `show` draws the page again. */
export function jobs(page, show) {
  const known = live.jobs;
  if (!known) return panel("Background jobs", null, h("p", { class: "empty" }, "Waiting for the node"));
  const troubled = known.filter(isTroubled);
  const shown = page.onlyTroubled ? troubled : known;
  const choice = (isChosen, onlyTroubled, text) =>
    h(
      "button",
      {
        type: "button",
        "aria-pressed": String(isChosen),
        on: {
          click: () => {
            page.onlyTroubled = onlyTroubled;
            show();
          },
        },
      },
      text,
    );
  return panel(
    "Background jobs",
    {
      class: "jobs",
      aside: h(
        "div",
        { class: "switch", role: "group", "aria-label": "Which jobs to list" },
        choice(!page.onlyTroubled, false, "All"),
        choice(page.onlyTroubled, true, "Paused or failed"),
      ),
    },
    h(
      "p",
      { class: "help" },
      "What this node does by itself. A job for a peer that is down is paused until the peer is back.",
    ),
    factsOf(factsAbout(known)),
    table("Background jobs", COLUMNS, byName(shown).map(rowOf), emptyText(known)),
  );
}

/** Whether an operator might want to know: it cannot work, or something went wrong since the start. */
export function isTroubled(job) {
  return job.state === "paused" || job.last_error !== null;
}

/** The jobs with those of one name together, for each peer; else in the node's order. */
export function byName(all) {
  const names = [...new Set(all.map((it) => it.job))];
  return names.flatMap((name) => all.filter((it) => it.job === name));
}

function emptyText(known) {
  return known.length ? "No job is paused, and none had an error since the node's start." : "No jobs yet.";
}

function factsAbout(known) {
  const of = (state) => known.filter((it) => it.state === state).length;
  const failed = known.filter((it) => it.last_error !== null).length;
  return [
    ["Working", count(of("working"))],
    ["Waiting for their turn", count(of("waiting"))],
    ["Paused", count(of("paused"))],
    ["Ended", count(of("ended"))],
    ["Had an error", failed ? h("b", null, many(failed, "job")) : "none"],
  ];
}

function rowOf(job, at, all) {
  // What it does is said once for all peers.
  const isFirst = at === 0 || all[at - 1].job !== job.job;
  return {
    key: `${job.job} ${job.peer ?? ""}`,
    cells: [
      [h("div", { title: job.about }, job.job), isFirst ? h("div", { class: "job-about" }, job.about) : null],
      job.peer ?? "",
      badge(...stateOf(job)),
      progressOf(job),
      count(job.runs),
      job.worked_at === null ? "never" : whenOf(job.worked_at),
      job.took_us === null ? "–" : tookOf(job.took_us),
      job.share_now_percent === null ? "" : `${job.share_now_percent.toFixed(1)} %`,
      job.last_error === null
        ? ""
        : h("div", { class: "job-error" }, job.last_error, " (", whenOf(job.failed_at), ")"),
    ],
  };
}

/** The kind of mark and the words for what a job does. */
export function stateOf(job) {
  if (hasPanicked(job)) return ["bad", "ended"];
  if (job.state === "paused") return ["warn", `paused: ${job.reason ?? "no reason given"}`];
  if (job.state === "working") return ["good", "working"];
  return ["note", job.state];
}

/** How far a job is; it may be at work on more than it knew of. */
export function progressOf({ done, of }) {
  if (done === null || !of) return "";
  return `${count(done)} of ${count(of)}`;
}

function whenOf(date) {
  return h("time", { datetime: date, title: date }, ago(date));
}

/** How long a run took, given in microseconds: of some jobs it is no time at all, of others hours. */
export function tookOf(us) {
  return us < 10_000_000 ? latency(us / 1e6) : duration(us / 1000);
}
