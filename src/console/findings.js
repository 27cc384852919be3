// What an operator should know, in words: from /cluster, /hints, /anti-entropy and /jobs, worst first.

import { bytes, count, duration, list, many } from "./format.js";

/** The findings: `{kind: bad|warn|note, what, todo}`. None means that all is well. */
export function findings({ cluster, hints, antiEntropy, jobs, hintHistory }) {
  if (!cluster) return [];
  return [
    ...ofThisNode(cluster),
    ...ofPeers(cluster),
    ...ofHints(cluster, hints, hintHistory),
    ...ofRepair(antiEntropy),
    ...ofJobs(cluster, jobs),
  ].sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind));
}

const ORDER = ["bad", "warn", "note"];
const finding = (kind, what, todo = "") => ({ kind, what, todo });

function ofThisNode(cluster) {
  const me = cluster.node;
  const found = [];
  if (cluster.waits_for_operator) {
    found.push(
      finding(
        "bad",
        `Waits for an operator: ${cluster.waits_for_operator}`,
        "See `quorate distrusted` and GET /distrusted, then accept or discard.",
      ),
    );
  }
  if (!cluster.ready) found.push(finding("bad", `${me} takes no requests: ${cluster.not_ready}`));
  if (cluster.ready && !cluster.writable) {
    found.push(
      finding(
        "bad",
        `${me} takes no writes: its disk is nearly full or has failed`,
        "GET /readyz says which. Make room, or mend the disk.",
      ),
    );
  }
  if (cluster.lost_partitions > 0) {
    found.push(
      finding(
        "bad",
        `${many(cluster.lost_partitions, "partition")} lost all replicas`,
        "An operator has to decide: see `quorate distrusted`.",
      ),
    );
  }
  if (cluster.distrusted_rows > 0) {
    found.push(
      finding(
        "warn",
        `${many(cluster.distrusted_rows, "row")} set aside, because the cluster does not hold them`,
        "GET /distrusted shows them on all nodes.",
      ),
    );
  }
  if (cluster.clock_corrected) {
    found.push(
      finding(
        "warn",
        `The clock of ${me} is wrong by ${duration(Math.abs(cluster.clock_ahead_ms))}`,
        "It uses the cluster's time meanwhile. Set the clock.",
      ),
    );
  }
  if (cluster.ready && !cluster.filled) {
    found.push(finding("note", `${me} is being filled: it answers reads of a partition once it has it`));
  }
  return found;
}

function ofPeers(cluster) {
  const found = [];
  const peers = cluster.nodes.filter((it) => it.state !== "self");
  const names = (nodes) => list(nodes.map((it) => it.node));
  const plural = (nodes, one, more) => (nodes.length === 1 ? one : more);
  for (const peer of peers.filter((it) => it.state === "down")) {
    found.push(
      finding(
        "bad",
        `${peer.node} has been down for ${duration(peer.since_ms)}` +
          (peer.last_error ? ` (${peer.last_error})` : ""),
        "Fallbacks take its writes and keep hints for it. Start it again.",
      ),
    );
  }
  const suspected = peers.filter((it) => it.state === "suspected");
  if (suspected.length) {
    found.push(
      finding(
        "warn",
        `${names(suspected)} ${plural(suspected, "is", "are")} suspected: heartbeats are missing`,
        "Asked last until they come again.",
      ),
    );
  }
  const deaf = peers.filter((it) => it.state === "up" && it.reaches_us === false);
  if (deaf.length) {
    found.push(
      finding(
        "warn",
        `${names(deaf)} cannot reach ${cluster.node}, though ${cluster.node} reaches ` +
          plural(deaf, "it", "them"),
        "Check addresses and firewalls in that direction.",
      ),
    );
  }
  for (const peer of peers.filter((it) => it.disagrees?.length)) {
    found.push(
      finding(
        "warn",
        `${peer.node} has other settings: ${peer.disagrees.map(String).join(", ")}`,
        "These must be equal on all nodes.",
      ),
    );
  }
  const hash = cluster.layout?.hash;
  const strange = peers.filter((it) => it.layout && it.layout.hash !== hash);
  if (strange.length) {
    found.push(
      finding(
        "bad",
        `${names(strange)} ${plural(strange, "has", "have")} another layout`,
        "Nodes with different layouts refuse each other.",
      ),
    );
  }
  const full = peers.filter((it) => it.writable === false);
  if (full.length) {
    found.push(
      finding("warn", `${names(full)} ${plural(full, "takes", "take")} no writes`, "Look at their disks."),
    );
  }
  const filling = peers.filter((it) => it.state !== "down" && it.ready === false);
  if (filling.length)
    found.push(finding("note", `${names(filling)} ${plural(filling, "is", "are")} being filled`));
  const releases = new Set(cluster.nodes.map((it) => it.release).filter(Boolean));
  if (releases.size > 1) found.push(finding("note", `Several releases run: ${list([...releases])}`));
  return found;
}

function ofHints(cluster, hints, history) {
  if (!hints) return [];
  const found = hints.targets.map((target) => {
    const drain = drainOf(target, history.get(target.node), cluster);
    return finding(
      "note",
      `${many(target.keys, "write")} (${bytes(target.bytes)}) wait here for ${target.node}` +
        (target.oldest_ms === null ? "" : `, the oldest for ${duration(target.oldest_ms)}`) +
        `: ${drain}`,
    );
  });
  if (hints.bytes > hints.bytes_max * 0.8) {
    found.unshift(
      finding(
        "warn",
        `The room for hints is ${Math.round((hints.bytes / hints.bytes_max) * 100)} % full`,
        "When it is full, this node takes no more hints: bring their targets back.",
      ),
    );
  }
  return found;
}

/** How the hints for a node change, in words. */
export function drainOf(target, history = [], cluster = null) {
  const peer = cluster?.nodes.find((it) => it.node === target.node);
  const past = history.slice(-8);
  const seconds = past.length > 1 ? (past.at(-1).at - past[0].at) / 1000 : 0;
  const perSecond = seconds > 0 ? (past[0].keys - past.at(-1).keys) / seconds : 0;
  if (perSecond >= 0.5) {
    const left_ms = (target.keys / perSecond) * 1000;
    return `draining at ${count(perSecond)} a second, done in about ${duration(left_ms)}`;
  }
  if (peer?.state === "down") return `${target.node} is down`;
  return perSecond <= -0.5 ? `growing by ${count(-perSecond)} a second` : "to be delivered soon";
}

function ofRepair(antiEntropy) {
  if (!antiEntropy) return [];
  const found = [];
  if (antiEntropy.partitions_not_ready > 0) {
    found.push(
      finding("note", `${many(antiEntropy.partitions_not_ready, "partition")} still to be filled here`),
    );
  }
  if (antiEntropy.keys_in_doubt > 0) {
    found.push(
      finding(
        "warn",
        `${many(antiEntropy.keys_in_doubt, "key")} not served here until another replica gives them`,
      ),
    );
  }
  if (antiEntropy.scrub?.wrong_leaves > 0) {
    found.push(
      finding(
        "warn",
        `A scrub found ${many(antiEntropy.scrub.wrong_leaves, "wrong leaf", "wrong leaves")} ` +
          "and repaired them",
        "If the number grows, suspect memory or disk.",
      ),
    );
  }
  return found;
}

/** Whether a job panicked: it has ended then, and its last error says so. */
export function hasPanicked(job) {
  return job.state === "ended" && String(job.last_error).startsWith("panicked");
}

function ofJobs(cluster, jobs) {
  return (jobs ?? []).filter(hasPanicked).map((job) => {
    const which = job.peer === null ? job.job : `${job.job} for ${job.peer}`;
    return finding(
      "bad",
      `The background job ${which} has ended: it ${job.last_error}`,
      `Restart ${cluster.node}, and report it with its log.`,
    );
  });
}

/** One sentence about the whole. */
export function verdict(cluster, found) {
  const peers = cluster.nodes.filter((it) => it.state === "up" || it.state === "self").length;
  const all = cluster.nodes.length;
  const up =
    peers === all
      ? `All ${many(all, "node")} ${all === 1 ? "is" : "are"} up`
      : `${peers} of ${all} nodes are up`;
  const bad = found.filter((it) => it.kind === "bad").length;
  if (cluster.waits_for_operator) return { kind: "bad", text: `${up}. Something waits for an operator.` };
  if (bad) return { kind: "bad", text: `${up}. ${many(bad, "thing needs", "things need")} attention.` };
  const warn = found.filter((it) => it.kind === "warn").length;
  if (warn) return { kind: "warn", text: `${up}. ${many(warn, "thing is", "things are")} worth a look.` };
  return { kind: "good", text: `${up}. Nothing waits for an operator.` };
}
