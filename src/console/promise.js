// What a combination of N, R and W promises, in words (docs/design.md, "Promises" and "Quorums").

import { many } from "./format.js";

/** A count as a number: one, quorum and all are of `n`. */
export function number(count, n) {
  if (count === "one") return 1;
  if (count === "quorum") return Math.floor(n / 2) + 1;
  if (count === "all") return n;
  return Number(count);
}

/**
 * The promises: `{kind: good|warn|bad|note, short, text}`, freshness first. `n`, `r` and `w` are numbers,
 * `sloppy` is of both sides, `nodes` how many nodes there are, `homes` the bucket's own n, which a request
 * may only lower.
 */
export function words({ n, r, w, sloppy, nodes, homes }) {
  return [
    freshness({ n, r, w, sloppy, homes }),
    writes({ n, w, sloppy, nodes }),
    reads({ n, r, sloppy }),
    disks({ w }),
    cost({ n, r, w }),
  ].filter(Boolean);
}

function freshness({ n, r, w, sloppy, homes }) {
  const both = r + w - n;
  if (n < homes) {
    return {
      kind: "warn",
      short: "may be stale",
      text:
        `Freshness is not promised: with N lowered to ${n} of ${homes}, ` +
        "a read may ask other home replicas than those that a write reached.",
    };
  }
  if (both <= 0) {
    return {
      kind: "warn",
      short: "may be stale",
      text:
        `A read may be stale until repair: R + W is ${r + w}, not more ` +
        `than N = ${n}, so the ${many(r, "replica")} that answer may all have missed the write.`,
    };
  }
  const why = `R + W = ${r + w} is more than N = ${n}, so ${
    both === 1 ? "at least one replica" : `at least ${both} replicas`
  } of any read took part in the last write.`;
  if (!sloppy) {
    return {
      kind: "good",
      short: "fresh reads",
      text: "A read sees the last acknowledged write, or a later one: " + why,
    };
  }
  return {
    kind: "note",
    short: "fresh while replicas are up",
    text:
      "A read sees the last acknowledged write while its " +
      "home replicas are up: " +
      why +
      " While fallbacks stand in, a read may miss a write until its hint is delivered.",
  };
}

function writes({ n, w, sloppy, nodes }) {
  if (sloppy) {
    const spare = nodes - w;
    return {
      kind: spare > 0 ? "good" : "warn",
      short: "",
      text:
        spare > 0
          ? `Writes succeed while any ${many(w, "node")} of all ${nodes} can be reached: fallbacks take ` +
            "the place of home replicas that are down."
          : `Writes need all ${nodes} nodes: there is no node to stand in.`,
    };
  }
  return w < n
    ? {
        kind: "good",
        short: "",
        text: `Writes succeed while at most ${n - w} of the ${n} home replicas are down.`,
      }
    : {
        kind: "warn",
        short: "",
        text: `No writes of a key while ${n === 1 ? "its home" : "one of its home replicas"} is down.`,
      };
}

function reads({ n, r, sloppy }) {
  if (r < n) {
    return {
      kind: "good",
      short: "",
      text:
        `Reads succeed while at most ${n - r} of the ${n} home replicas are down` +
        (sloppy ? "; a fallback that keeps a hint for the key counts too." : "."),
    };
  }
  return {
    kind: "warn",
    short: "",
    text:
      `Reads need ${n === 1 ? "the home replica" : `all ${n} home replicas`}` +
      (sloppy
        ? ", or a fallback that keeps a hint for the key in the place of each that is down."
        : ": none while one is down."),
  };
}

function disks({ w }) {
  return w === 1
    ? {
        kind: "bad",
        short: "",
        text: "One lost disk can lose an acknowledged write: W = 1 waits for a single copy.",
      }
    : {
        kind: "good",
        short: "",
        text:
          `An acknowledged write survives the loss of ${many(w - 1, "disk")}: W = ${w} copies ` +
          "are durable before the answer.",
      };
}

function cost({ n, r, w }) {
  const slowest = [w === n && n > 1 ? "a write" : null, r === n && n > 1 ? "a read" : null].filter(Boolean);
  if (slowest.length === 0) return null;
  return { kind: "note", short: "", text: `The slowest replica sets the pace of ${slowest.join(" and ")}.` };
}
