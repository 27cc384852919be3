/** One request over fetch: an answer within bounds of time and size, or the reason why there is none. */

import { DeadlineExceeded, InvalidArgument, QuorateError, Unreachable } from "./errors.js";
import { joined, type Pieces, type PieceStream } from "./model.js";
import type { Answer } from "./parse.js";
import type { Request } from "./wire.js";

/** No problem is longer than this; what is longer is not read. */
const ERROR_BYTES_MAX = 64 * 1024;

/** There is no whole answer, or none that can be read. `unsent`: not even the request left. */
export interface Failure {
  readonly failure: "unsent" | "lost" | "timeout" | "oversized" | "unreadable";
  readonly detail: string;
}

/** What a transport needs to know. */
export interface TransportOptions {
  readonly fetch: typeof fetch;
  /** Sent with every request. */
  readonly headers: readonly (readonly [string, string])[];
  /** The longest answer that is read into memory, in bytes. */
  readonly valueBytesMax: number;
}

/** Why a connection could not even be made, in Node's words. */
const UNSENT = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "EADDRNOTAVAIL",
  "UND_ERR_CONNECT_TIMEOUT",
]);

/** How long one request may take, in milliseconds. */
export interface Timing {
  /** How long the node may be silent. */
  readonly timeoutMs: number;
  /** How long all of it may take. */
  readonly leftMs: number;
}

/** Up to this size an upload is taken to be immediate. fetch does not tell how far it is. */
const SMALL_BODY_BYTES = 64 * 1024;

/** Sends a request to a node, and reads the answer unless its value is to be left unread. */
export async function send(
  options: TransportOptions,
  url: string,
  request: Request,
  { timeoutMs, leftMs }: Timing,
): Promise<Answer | Failure> {
  const aborter = new AbortController();
  const stopTotal = after(leftMs, () => aborter.abort());
  const state: { error?: unknown } = {};
  try {
    const init = initOf(options, request, aborter.signal, state);
    const waitMs = isSmall(request) ? timeoutMs : leftMs;
    const response = await within(waitMs, aborter, options.fetch(url + request.target, init));
    const headers = response.headers;
    if (request.streams && response.status === 200) {
      const pieces = new Body(response, aborter, timeoutMs);
      return { status: 200, headers, body: new Uint8Array(), isWhole: true, pieces };
    }
    return await whole(options, response, aborter, timeoutMs);
  } catch (error) {
    // What the caller's own pieces threw is the caller's; fetch hides it in an error of its own.
    if (state.error !== undefined) throw state.error;
    if (error instanceof QuorateError) throw error;
    return failureOf(error, aborter.signal);
  } finally {
    stopTotal();
  }
}

function isSmall(request: Request): boolean {
  const { body } = request;
  return body === undefined || (body instanceof Uint8Array && body.length <= SMALL_BODY_BYTES);
}

/** Waits for `work`, and aborts it when it takes too long. */
async function within<T>(waitMs: number, aborter: AbortController, work: Promise<T>): Promise<T> {
  return work.finally(after(waitMs, () => aborter.abort()));
}

/**
 * Does `action` after this time, unless the function that it gives is called before. It does so in two steps:
 * when the process itself was held up, what has arrived meanwhile is read between them.
 */
function after(waitMs: number, action: () => void): () => void {
  let timer = setTimeout(() => {
    timer = setTimeout(action, 1);
  }, waitMs);
  return () => clearTimeout(timer);
}

function initOf(
  options: TransportOptions,
  request: Request,
  signal: AbortSignal,
  state: { error?: unknown },
): RequestInit {
  const headers = new Headers();
  for (const [name, text] of [...options.headers, ...request.headers]) headers.append(name, text);
  const init: RequestInit & { duplex?: "half" } = {
    method: request.method,
    headers,
    signal,
    redirect: "manual",
  };
  const body = typeof request.body === "function" ? request.body() : request.body;
  if (body instanceof Uint8Array) {
    init.body = body as Uint8Array<ArrayBuffer>;
  } else if (body !== undefined) {
    init.body = streamOf(body, state);
    init.duplex = "half";
  } else if (request.method === "PUT") {
    init.body = new Uint8Array();
  }
  return init;
}

/** Pieces as a stream; remembers in `state` what their source threw. */
function streamOf(pieces: Pieces, state: { error?: unknown }): ReadableStream<Uint8Array> {
  const source = Symbol.asyncIterator in pieces ? pieces[Symbol.asyncIterator]() : pieces[Symbol.iterator]();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await source.next();
        if (done) return controller.close();
        if (!(value instanceof Uint8Array)) throw new InvalidArgument("value: a piece must be a Uint8Array");
        if (value.length > 0) return controller.enqueue(value);
        return this.pull?.(controller);
      } catch (error) {
        state.error = error;
        throw error;
      }
    },
    async cancel() {
      await source.return?.();
    },
  });
}

async function whole(
  options: TransportOptions,
  response: Response,
  aborter: AbortController,
  timeoutMs: number,
): Promise<Answer | Failure> {
  const isError = response.status >= 400;
  const bytesMax = isError ? ERROR_BYTES_MAX : options.valueBytesMax;
  const answer = { status: response.status, headers: response.headers };
  const unreadable = { ...answer, body: new Uint8Array(), isWhole: false };
  const pieces: Uint8Array[] = [];
  let size = 0;
  const reader = response.body?.getReader();
  try {
    for (;;) {
      const next = reader === undefined ? undefined : await within(timeoutMs, aborter, reader.read());
      if (next === undefined || next.done) return { ...answer, body: joined(pieces), isWhole: true };
      size += next.value.length;
      if (size > bytesMax) break;
      pieces.push(next.value);
    }
  } catch (error) {
    if (isError) return unreadable;
    const failure = failureOf(error, aborter.signal);
    return failure.failure === "unsent" ? { ...failure, failure: "lost" } : failure;
  }
  aborter.abort(); // the rest is not wanted, nor is the connection
  if (isError) return unreadable;
  return { failure: "oversized", detail: `the answer is longer than ${bytesMax} bytes` };
}

/**
 * The pieces of a body. Not a generator: one that was never started does nothing when it is given up, and
 * the connection would stay.
 */
class Body implements PieceStream {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  readonly #aborter: AbortController;
  readonly #timeoutMs: number;
  #isAtEnd = false;

  constructor(response: Response, aborter: AbortController, timeoutMs: number) {
    this.#reader = response.body?.getReader();
    this.#aborter = aborter;
    this.#timeoutMs = timeoutMs;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Uint8Array, undefined>> {
    if (this.#isAtEnd || this.#reader === undefined) return { done: true, value: undefined };
    try {
      const next = await within(this.#timeoutMs, this.#aborter, this.#reader.read());
      if (!next.done) return { done: false, value: next.value };
      this.#isAtEnd = true;
      return { done: true, value: undefined };
    } catch (error) {
      this.#isAtEnd = true;
      const failure = failureOf(error, this.#aborter.signal);
      const kind = failure.failure === "timeout" ? DeadlineExceeded : Unreachable;
      throw new kind(`the value ended early: ${failure.detail}`);
    }
  }

  async return(): Promise<IteratorResult<Uint8Array, undefined>> {
    if (!this.#isAtEnd) {
      this.#isAtEnd = true;
      await this.#reader?.cancel();
    }
    return { done: true, value: undefined };
  }
}

function failureOf(error: unknown, signal: AbortSignal): Failure {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = (cause as { code?: unknown } | null | undefined)?.code;
  const message = cause instanceof Error ? cause.message : String(cause);
  const detail = typeof code === "string" ? `${code} ${message}` : message;
  if (signal.aborted) return { failure: "timeout", detail: "no answer in time" };
  if (typeof code === "string" && UNSENT.has(code)) return { failure: "unsent", detail };
  const isSlow = typeof code === "string" && /^UND_ERR_(HEADERS|BODY)_TIMEOUT$/.test(code);
  return { failure: isSlow ? "timeout" : "lost", detail };
}
