/** One operation: which requests to send, when to repeat them, and what comes of it. */

import { acceptedOf, answersOf, type BatchOptions, type Item, requestOf } from "./batch.js";
import {
  classOf,
  DeadlineExceeded,
  type ErrorClass,
  type Facts,
  type Outcome,
  PartialWrite,
  ProtocolError,
  type QuorateError,
  UnknownOutcome,
  Unreachable,
} from "./errors.js";
import type { Node, Nodes } from "./nodes.js";
import { type Answer, cluster, type Cluster, epochOf, factsOf, homes, outcomeOf, wrong } from "./parse.js";
import type { Failure, Timing } from "./transport.js";
import { isRepeatable, plain, type Request, waiting } from "./wire.js";

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

/** Failures after which another answer would be the same. */
const isFinal = ({ failure }: Failure): boolean => failure === "oversized" || failure === "unreadable";

/** What has become of one operation so far. */
class Standing {
  attempts = 0;
  outcome: Outcome = "not_applied";
  last: Facts = {};
  message = "";
  kind: ErrorClass = DeadlineExceeded;

  constructor(readonly isWrite: boolean) {}

  addFailure(node: Node, failure: Failure): void {
    this.attempts += 1;
    if (failure.failure !== "unsent") this.addOutcome("unknown");
    this.last = {};
    this.message = `${node.url}: ${failure.detail}`;
    this.kind = failure.failure === "timeout" ? DeadlineExceeded : Unreachable;
    if (isFinal(failure)) this.kind = ProtocolError;
  }

  addRefusal(facts: Facts): void {
    this.attempts += 1;
    this.addOutcome(outcomeOf(facts));
    this.last = facts;
    this.message = describe(facts);
    this.kind = classOf(facts);
  }

  /** The last error, in the class that the outcome of all attempts asks for. */
  error(): QuorateError {
    const status = this.last.status ?? 0;
    const isDecided = status >= 400 && status < 500 && status !== 408 && status !== 429;
    let kind = this.kind;
    if (this.isWrite && !isDecided && this.outcome === "partial") kind = PartialWrite;
    if (this.isWrite && !isDecided && this.outcome === "unknown") kind = UnknownOutcome;
    const outcome = this.isWrite ? this.outcome : undefined;
    return new kind(this.message, { facts: this.last, outcome, attempts: this.attempts });
  }

  /** `partial` is known, so it outweighs `unknown`. */
  private addOutcome(outcome: Outcome): void {
    if (outcome === "partial" || (outcome === "unknown" && this.outcome === "not_applied"))
      this.outcome = outcome;
  }
}

/** Which nodes one request was sent to, and how long it may still go on. */
class Attempts {
  readonly tried: Node[] = [];

  constructor(
    readonly nodes: Nodes,
    readonly policy: Policy,
    readonly deadline: number,
  ) {}

  get isLast(): boolean {
    return this.tried.length >= this.policy.attemptsMax || this.leftMs() <= 0;
  }

  /** Chooses a node, and waits as long as has to be; `undefined` if there is not so much time. */
  async begin(request: Request): Promise<Node | undefined> {
    const { nodes, policy, tried } = this;
    const node = nodes.pick(request.place, request.isWrite, tried, policy.now());
    if (tried.length > 0) {
      let waitMs = backoffMs(tried.length);
      if (tried.includes(node)) waitMs = Math.max(waitMs, node.busyUntil - policy.now());
      if (waitMs >= this.leftMs()) return undefined;
      await policy.sleep(waitMs);
    }
    tried.push(node);
    return node;
  }

  /** Sends the request. What a failure says of the node is noted. */
  async send(node: Node, request: Request): Promise<Answer | Failure> {
    const { nodes, policy } = this;
    const leftMs = Math.max(1, this.leftMs());
    const sent = waiting(request, this.tried.length > 1 ? leftMs - policy.deadlineMs : (request.waitMs ?? 0));
    const timeoutMs = Math.min(policy.attemptTimeoutMs + (sent.waitMs ?? 0), leftMs);
    const reply = await policy.send(node.url, sent, { timeoutMs, leftMs });
    if (!("failure" in reply)) nodes.heard(epochOf(reply), policy.now());
    else if (!isFinal(reply)) nodes.failed(node, policy.now());
    return reply;
  }

  /** Notes what a refusal says of the node. */
  noteRefusal(node: Node, facts: Facts): void {
    // As good as dead, until it answers otherwise.
    if (facts.problem === REMOVED) this.nodes.failed(node, this.policy.now());
    else this.nodes.answered(node);
    if (mayRepeat(facts) && facts.retryAfterMs !== undefined) {
      node.busyUntil = this.policy.now() + facts.retryAfterMs;
    }
  }

  private leftMs(): number {
    return this.deadline - this.policy.now();
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
  const attempts = new Attempts(nodes, policy, deadline);
  const standing = new Standing(request.isWrite);
  for (;;) {
    const node = await attempts.begin(request);
    if (node === undefined) throw standing.error();
    const reply = await attempts.send(node, request);
    let mayTryAgain: boolean;
    if ("failure" in reply) {
      standing.addFailure(node, reply);
      mayTryAgain = reply.failure === "unsent" || (!isFinal(reply) && isRepeatable(request));
    } else if (accepts.has(reply.status)) {
      nodes.answered(node);
      return reply;
    } else {
      const facts = factsOf(reply);
      attempts.noteRefusal(node, facts);
      standing.addRefusal(facts);
      const leftNothing = request.once === true && outcomeOf(facts) === "not_applied";
      mayTryAgain = mayRepeat(facts) && (isRepeatable(request) || leftNothing);
    }
    if (!mayTryAgain || attempts.isLast) throw standing.error();
  }
}

/** An operation of a batch, and what came of it. */
export interface Answered {
  readonly item: Item;
  readonly answer: Answer | QuorateError;
}

/**
 * Sends operations as one request until each has an answer or an error, and gives those in order.
 *
 * Those that were refused for the moment are sent again, as they would be alone. What becomes of the request
 * becomes of each operation in it.
 */
export async function callBatch(
  items: readonly Item[],
  options: BatchOptions,
  nodes: Nodes,
  policy: Policy,
  deadline: number,
): Promise<readonly Answered[]> {
  const attempts = new Attempts(nodes, policy, deadline);
  const all = items.map((item) => ({
    item,
    standing: new Standing(item.request.isWrite),
    answer: undefined as Answer | undefined,
  }));
  let left = all;
  while (left.length > 0) {
    const request = requestOf(
      left.map(({ item }) => item),
      options,
    );
    const node = await attempts.begin(request);
    if (node === undefined) break;
    const replies = each(await attempts.send(node, request), left.length, attempts, node);
    left = left.filter((one, at) => {
      const reply = replies[at] ?? { failure: "lost", detail: "there is no answer" };
      if ("failure" in reply) {
        one.standing.addFailure(node, reply);
        return !isFinal(reply);
      }
      if (acceptedOf(one.item).has(reply.status)) {
        one.answer = reply;
        return false;
      }
      const facts = factsOf(reply);
      one.standing.addRefusal(facts);
      return mayRepeat(facts);
    });
    if (attempts.isLast) break;
  }
  return all.map(({ item, standing, answer }) => ({ item, answer: answer ?? standing.error() }));
}

/** What the reply to a batch is for each of its operations. */
function each(
  reply: Answer | Failure,
  count: number,
  attempts: Attempts,
  node: Node,
): readonly (Answer | Failure)[] {
  const same = (one: Answer | Failure): readonly (Answer | Failure)[] =>
    Array.from({ length: count }, () => one);
  if ("failure" in reply) return same(reply);
  if (reply.status >= 400) {
    attempts.noteRefusal(node, factsOf(reply));
    return same(reply);
  }
  attempts.nodes.answered(node);
  try {
    if (reply.status !== 200) throw wrong(reply, "has a status that a batch does not have");
    return answersOf(reply, count);
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    return same({ failure: "unreadable", detail: error.message });
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
