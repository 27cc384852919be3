/** Everything that can go wrong, one class each; {@link QuorateError} is the base of all. */

/** What a failed write left behind: nothing; a copy that may still spread; or nobody knows. */
export type Outcome = "not_applied" | "partial" | "unknown";

/** What is known about an error. All of it may be missing, as the answer may come from anywhere. */
export interface Facts {
  /** The problem's name, such as `bad_parameter`: the end of its `type`. */
  readonly problem?: string | undefined;
  /** The HTTP status. */
  readonly status?: number | undefined;
  readonly title?: string | undefined;
  /** What was wrong with this request. */
  readonly detail?: string | undefined;
  /** All members of the problem, as sent. */
  readonly members?: Readonly<Record<string, unknown>> | undefined;
  /** How long the server asked to wait, in milliseconds. */
  readonly retryAfterMs?: number | undefined;
  /** The request's id in the node's log. */
  readonly requestId?: string | undefined;
}

/** Any failure of this client. */
export class QuorateError extends Error {
  /** What is known about it. */
  readonly facts: Facts;
  /** For a write: what it may have left behind, over all attempts. */
  readonly outcome: Outcome | undefined;
  /** How many requests were sent for this operation. */
  readonly attempts: number;

  constructor(
    message: string,
    more: { facts?: Facts; outcome?: Outcome | undefined; attempts?: number } = {},
  ) {
    super(message);
    this.name = new.target.name;
    this.facts = more.facts ?? {};
    this.outcome = more.outcome;
    this.attempts = more.attempts ?? 0;
  }

  /** The name of the server's problem, such as `bad_parameter`. */
  get problem(): string | undefined {
    return this.facts.problem;
  }

  /** The HTTP status of the last answer, if there was one. */
  get status(): number | undefined {
    return this.facts.status;
  }

  /** What the server said was wrong with this request. */
  get detail(): string | undefined {
    return this.facts.detail;
  }

  /** How long the server asked to wait, in milliseconds. */
  get retryAfterMs(): number | undefined {
    return this.facts.retryAfterMs;
  }

  /** The query parameter that was wrong. */
  get parameter(): string | undefined {
    return text(this.facts.members?.["parameter"]);
  }

  /** The request header that was wrong. */
  get header(): string | undefined {
    return text(this.facts.members?.["header"]);
  }
}

/** An argument that this client refuses; nothing was sent. */
export class InvalidArgument extends QuorateError {}
/** The server refused the request as wrong: see `problem`, `detail`, `parameter`, `header`. */
export class BadRequest extends QuorateError {}
/** The context is damaged or belongs to another key or cluster: read the key again. */
export class BadContext extends BadRequest {}
/** The route, sibling or other thing named does not exist (an absent key is no error). */
export class NotFound extends QuorateError {}
/** The sibling to keep was superseded: read again, decide again. */
export class SiblingGone extends QuorateError {}
/** `ifAbsent`, `ifPresent` or `ifMatch` does not hold: read again. */
export class ConditionFailed extends QuorateError {}
/** The value is over the server's limit. */
export class TooLarge extends QuorateError {}
/**
 * The key has too many siblings, bytes or writers: read, resolve, write back with the context. A typed value has
 * too many elements or bytes: remove some, or use several keys.
 */
export class LimitReached extends QuorateError {}
/** The bucket's values are of another type than asked for, or it has another type already. */
export class WrongType extends QuorateError {}
/** A bucket gets a type only while it has no keys. */
export class BucketNotEmpty extends QuorateError {}
/**
 * What removes needs the context of a read: read, and remove through what was read. Of a key that was never
 * written there is nothing to remove.
 */
export class ContextNeeded extends QuorateError {}
/** The node did not find all that the context covers: read again, and use what that gives. */
export class ContextAhead extends QuorateError {}
/** The counter has counted so far that this increment does not fit: use another key. */
export class CounterFull extends QuorateError {}
/** The bucket has no feed: set its property `feedRetentionS`. Changes are kept from then on. */
export class NoFeed extends QuorateError {}
/**
 * Changes after this cursor are not kept any more, so that some were missed.
 *
 * List all keys (`Client.keys`, with the same prefix), read them, and drop what you have of keys that are not
 * listed; then go on with `cursor`. It was made before that, so that nothing is missed in between.
 */
export class CursorExpired extends QuorateError {
  /** Where to go on, once all keys have been read. */
  get cursor(): string {
    return text(this.facts.members?.["cursor"]) ?? "";
  }

  /** Where the keys are listed, as the server says: `/keys/{bucket}`. */
  get resync(): string | undefined {
    return text(this.facts.members?.["resync"]);
  }
}
/** The idempotency key was used for another request. */
export class IdempotencyKeyReused extends QuorateError {}
/** Fewer than R replicas answered. */
export class NoReadQuorum extends QuorateError {}
/** Fewer than W replicas acknowledged the write, and nothing was stored. */
export class NoQuorum extends QuorateError {}
/** The write was not acknowledged, but a copy is stored and may still spread. */
export class PartialWrite extends QuorateError {}
/** Nobody can say whether the write was stored. Repeating it with the same key is safe. */
export class UnknownOutcome extends QuorateError {}
/** The node refuses work for now: see `retryAfterMs`. */
export class Overloaded extends QuorateError {}
/** The node is starting, stopping, or not part of a formed cluster. */
export class NotReady extends QuorateError {}
/** A disk or a table of the server is full. */
export class NoRoom extends QuorateError {}
/** Any other failure of the server, or of something between. */
export class ServerError extends QuorateError {}
/** An answer that no Quorate node gives: a wrong address, a proxy, or damage on the way. */
export class ProtocolError extends QuorateError {}
/** No node could be reached, or none sent a whole answer; no write was applied. */
export class Unreachable extends QuorateError {}
/** No answer came in time; no write was applied. */
export class DeadlineExceeded extends QuorateError {}
/** Too few replicas answered for some part of the listing. */
export class IncompleteListing extends QuorateError {}

/** A class of errors. */
export type ErrorClass = new (...args: ConstructorParameters<typeof QuorateError>) => QuorateError;

const BY_NAME: ReadonlyMap<string, ErrorClass> = new Map<string, ErrorClass>([
  ["bad_context", BadContext],
  ["sibling_gone", SiblingGone],
  ["condition_failed", ConditionFailed],
  ["too_large", TooLarge],
  ["too_many_siblings", LimitReached],
  ["object_too_large", LimitReached],
  ["clock_full", LimitReached],
  ["wrong_type", WrongType],
  ["bucket_not_empty", BucketNotEmpty],
  ["context_needed", ContextNeeded],
  ["context_ahead", ContextAhead],
  ["counter_full", CounterFull],
  ["no_feed", NoFeed],
  ["cursor_expired", CursorExpired],
  ["idempotency_key_reused", IdempotencyKeyReused],
  ["no_read_quorum", NoReadQuorum],
  ["no_quorum", NoQuorum],
  ["overloaded", Overloaded],
  ["hints_full", Overloaded],
  ["not_ready", NotReady],
  ["removed", NotReady],
  ["not_formed", NotReady],
  ["stopping", NotReady],
  ["auth_stale", NotReady],
]);
const BY_STATUS: ReadonlyMap<number, ErrorClass> = new Map<number, ErrorClass>([
  [412, ConditionFailed],
  [413, TooLarge],
  [429, Overloaded],
  [507, NoRoom],
]);

/** The class of an error answer: by the problem's name, else by its status. */
export function classOf(facts: Facts): ErrorClass {
  const status = facts.status ?? 0;
  const named = BY_NAME.get(facts.problem ?? "") ?? BY_STATUS.get(status);
  if (named !== undefined) return named;
  if (status === 404) return facts.problem === undefined ? ProtocolError : NotFound;
  if (status >= 400 && status < 500) return BadRequest;
  return status >= 500 && status < 600 ? ServerError : ProtocolError;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}
