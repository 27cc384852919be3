/** One operation: which requests to send, when to repeat them, and what comes of it. */

import {
  classOf,
  DeadlineExceeded,
  type ErrorClass,
  type Facts,
  type Outcome,
  PartialWrite,
  ProtocolError,
  UnknownOutcome,
  Unreachable,
} from "./errors.js";
import type { Node, Nodes } from "./nodes.js";
import { type Answer, cluster, type Cluster, epochOf, factsOf, homes, outcomeOf } from "./parse.js";
import type { Failure, Timing } from "./transport.js";
import { isRepeatable, plain, type Request } from "./wire.js";

const BACKOFF_MS = 50;
const BACKOFF_MS_MAX = 2000;
/** How long the nodes may be looked up, at most a quarter of the time there is. */
const LOOK_UP_MS_MAX = 1000;
/** How many nodes are asked, if those before have not heard of the last change of the layout. */
const LOOK_UP_NODES_MAX = 3;
/** The problem of a node that is no member of the cluster any more. */
const REMOVED = "removed";
const FINAL = new Set(["internal", "disk_full", "buckets_full"]);

/** How long and how often to try, and how a request is sent. */
export interface Policy {
  readonly deadlineMs: number;
  readonly attemptsMax: number;
  /** How long a node may be silent: longer than its own time-out, so that it can say what became of a write. */
  readonly attemptTimeoutMs: number;
  readonly send: (url: string, request: Request, timing: Timing) => Promise<Answer | Failure>;
  /** Milliseconds of a monotonic clock. */
  readonly now: () => number;
  readonly sleep: (ms: number) => Promise<void>;
}

/** What one operation has tried so far. */
class Attempts {
  readonly tried: Node[] = [];
  outcome: Outcome = "not_applied";
  last: Facts = {};
  message = "";
  kind: ErrorClass = DeadlineExceeded;

  constructor(
    readonly request: Request,
    readonly nodes: Nodes,
    readonly deadline: number,
    readonly now: () => number,
  ) {}

  leftMs(): number {
    return this.deadline - this.now();
  }

  noteFailure(node: Node, { failure, detail }: Failure): void {
    if (failure !== "oversized") this.nodes.failed(node, this.now());
    if (failure !== "unsent") this.addOutcome("unknown");
    this.last = {};
    this.message = `${node.url}: ${detail}`;
    this.kind = failure === "timeout" ? DeadlineExceeded : Unreachable;
    if (failure === "oversized") this.kind = ProtocolError;
  }

  noteRefusal(node: Node, facts: Facts): void {
    // As good as dead, until it answers otherwise.
    if (facts.problem === REMOVED) this.nodes.failed(node, this.now());
    else this.nodes.answered(node);
    this.addOutcome(outcomeOf(facts));
    this.last = facts;
    this.message = describe(facts);
    this.kind = classOf(facts);
    if (mayRepeat(facts) && facts.retryAfterMs !== undefined) {
      node.busyUntil = this.now() + facts.retryAfterMs;
    }
  }

  /** The last error, in the class that the outcome of all attempts asks for. */
  error(): Error {
    const { isWrite } = this.request;
    const status = this.last.status ?? 0;
    const isFinal = status >= 400 && status < 500 && status !== 408 && status !== 429;
    let kind = this.kind;
    if (isWrite && !isFinal && this.outcome === "partial") kind = PartialWrite;
    if (isWrite && !isFinal && this.outcome === "unknown") kind = UnknownOutcome;
    const outcome = isWrite ? this.outcome : undefined;
    return new kind(this.message, { facts: this.last, outcome, attempts: this.tried.length });
  }

  /** `partial` is known, so it outweighs `unknown`. */
  private addOutcome(outcome: Outcome): void {
    if (outcome === "partial" || (outcome === "unknown" && this.outcome === "not_applied"))
      this.outcome = outcome;
  }
}

/** Sends a request until there is an answer with a status in `accepts`, and gives that. */
export async function call(
  request: Request,
  nodes: Nodes,
  policy: Policy,
  accepts: ReadonlySet<number>,
  deadline: number,
): Promise<Answer> {
  const attempts = new Attempts(request, nodes, deadline, policy.now);
  for (;;) {
    const node = nodes.pick(request.place, request.isWrite, attempts.tried, policy.now());
    if (attempts.tried.length > 0) {
      let waitMs = backoffMs(attempts.tried.length);
      if (attempts.tried.includes(node)) waitMs = Math.max(waitMs, node.busyUntil - policy.now());
      if (waitMs >= attempts.leftMs()) throw attempts.error();
      await policy.sleep(waitMs);
    }
    attempts.tried.push(node);
    const leftMs = Math.max(1, attempts.leftMs());
    const timeoutMs = Math.min(policy.attemptTimeoutMs, leftMs);
    const reply = await policy.send(node.url, request, { timeoutMs, leftMs });
    if (!("failure" in reply)) nodes.heard(epochOf(reply), policy.now());
    let mayTryAgain: boolean;
    if ("failure" in reply) {
      attempts.noteFailure(node, reply);
      mayTryAgain = reply.failure === "unsent" || (reply.failure !== "oversized" && isRepeatable(request));
    } else if (accepts.has(reply.status)) {
      nodes.answered(node);
      return reply;
    } else {
      const facts = factsOf(reply);
      attempts.noteRefusal(node, facts);
      const leftNothing = request.once === true && outcomeOf(facts) === "not_applied";
      mayTryAgain = mayRepeat(facts) && (isRepeatable(request) || leftNothing);
    }
    const isLast = attempts.tried.length >= policy.attemptsMax || attempts.leftMs() <= 0;
    if (!mayTryAgain || isLast) throw attempts.error();
  }
}

/** Looks the nodes up if it is time. A failure changes nothing: the nodes known are still good. */
export async function lookUp(nodes: Nodes, policy: Policy): Promise<void> {
  if (!nodes.claimRefresh(policy.now())) return;
  const leftMs = Math.min(LOOK_UP_MS_MAX, policy.deadlineMs / 4);
  const timing = { timeoutMs: leftMs, leftMs };
  const told = await askAboutCluster(nodes, policy, timing);
  if (told === undefined || told.found.addresses.size === 0) return;
  const { node, found } = told;
  const ring = await policy.send(node.url, plain("GET", "/ring/partitions"), timing);
  const known = !("failure" in ring) && ring.status === 200 ? readable(() => homes(ring)) : undefined;
  nodes.discovered(found.addresses, known, policy.now(), found.epoch);
}

/**
 * Asks nodes in turn until one has heard of the last change of the layout. If none has, the one that knows
 * most is believed: the cluster may have been formed afresh.
 */
async function askAboutCluster(
  nodes: Nodes,
  policy: Policy,
  timing: Timing,
): Promise<{ node: Node; found: Cluster } | undefined> {
  const tried: Node[] = [];
  let best: { node: Node; found: Cluster } | undefined;
  while (tried.length < LOOK_UP_NODES_MAX) {
    const node = nodes.pick(undefined, false, tried, policy.now());
    if (tried.includes(node)) break;
    tried.push(node);
    const reply = await policy.send(node.url, plain("GET", "/cluster"), timing);
    if ("failure" in reply) {
      nodes.failed(node, policy.now());
      break;
    }
    const found = reply.status === 200 ? readable(() => cluster(reply)) : undefined;
    if (found === undefined) break;
    if (best === undefined || found.epoch > best.found.epoch) best = { node, found };
    if (found.epoch >= nodes.epoch) break;
  }
  return best;
}

/** What `read` gives; `undefined` for an answer that no node gives. */
function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof ProtocolError) return undefined;
    throw error;
  }
}

/** A random wait before the attempt after this one (from 1). */
function backoffMs(attempt: number): number {
  return Math.random() * Math.min(BACKOFF_MS * 2 ** Math.min(attempt, 16), BACKOFF_MS_MAX);
}

function mayRepeat(facts: Facts): boolean {
  const status = facts.status ?? 0;
  if (status === 408 || status === 429) return true;
  return status >= 500 && status < 600 && status !== 507 && !FINAL.has(facts.problem ?? "");
}

function describe(facts: Facts): string {
  if (facts.problem === undefined) return `status ${facts.status} without a readable problem`;
  return `${facts.problem}: ${facts.detail ?? facts.title ?? "no detail"}`;
}
