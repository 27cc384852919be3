/** One request over fetch: an answer within bounds of time and size, or the reason why there is none. */

import { DeadlineExceeded, InvalidArgument, QuorateError, Unreachable } from "./errors.js";
import { joined, type Pieces } from "./model.js";
import type { Answer } from "./parse.js";
import type { Request } from "./wire.js";

/** No problem is longer than this; what is longer is not read. */
const ERROR_BYTES_MAX = 64 * 1024;

/** There is no whole answer. `unsent`: not even the request left. */
export interface Failure {
  readonly failure: "unsent" | "lost" | "timeout" | "oversized";
  readonly detail: string;
}

/** What a transport needs to know. */
export interface TransportOptions {
  readonly fetch: typeof fetch;
  /** Sent with every request. */
  readonly headers: readonly (readonly [string, string])[];
  /** The longest answer that is read into memory, in bytes. */
  readonly valueBytesMax: number;
  /** How long the next piece of a value may take that is read in pieces, in milliseconds. */
  readonly idleTimeoutMs: number;
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

/** Sends a request to a node, and reads the answer unless its value is to be left unread. */
export async function send(
  options: TransportOptions,
  url: string,
  request: Request,
  timeoutMs: number,
): Promise<Answer | Failure> {
  const aborter = new AbortController();
  const timer = setTimeout(() => aborter.abort(), timeoutMs);
  const state: { error?: unknown } = {};
  try {
    const response = await options.fetch(
      url + request.target,
      initOf(options, request, aborter.signal, state),
    );
    if (request.streams && response.status === 200) {
      const pieces = opened(response, aborter, options.idleTimeoutMs);
      return { status: 200, headers: response.headers, body: new Uint8Array(), isWhole: true, pieces };
    }
    return await whole(options, response, aborter);
  } catch (error) {
    // What the caller's own pieces threw is the caller's; fetch hides it in an error of its own.
    if (state.error !== undefined) throw state.error;
    if (error instanceof QuorateError) throw error;
    return failureOf(error, aborter.signal);
  } finally {
    clearTimeout(timer);
  }
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
): Promise<Answer | Failure> {
  const isError = response.status >= 400;
  const bytesMax = isError ? ERROR_BYTES_MAX : options.valueBytesMax;
  const answer = { status: response.status, headers: response.headers };
  const pieces: Uint8Array[] = [];
  let size = 0;
  const reader = response.body?.getReader();
  try {
    for (;;) {
      const next = await reader?.read();
      if (next === undefined || next.done) return { ...answer, body: joined(pieces), isWhole: true };
      size += next.value.length;
      if (size > bytesMax) break;
      pieces.push(next.value);
    }
  } catch (error) {
    if (isError) return { ...answer, body: new Uint8Array(), isWhole: false };
    const failure = failureOf(error, aborter.signal);
    return failure.failure === "unsent" ? { ...failure, failure: "lost" } : failure;
  }
  aborter.abort(); // the rest is not wanted, nor is the connection
  if (isError) return { ...answer, body: new Uint8Array(), isWhole: false };
  return { failure: "oversized", detail: `the answer is longer than ${bytesMax} bytes` };
}

async function* opened(
  response: Response,
  aborter: AbortController,
  idleTimeoutMs: number,
): AsyncGenerator<Uint8Array, void> {
  const reader = response.body?.getReader();
  let isAtEnd = reader === undefined;
  try {
    while (!isAtEnd && reader !== undefined) {
      const timer = setTimeout(() => aborter.abort(), idleTimeoutMs);
      const next = await reader.read().finally(() => clearTimeout(timer));
      if (next.value !== undefined) yield next.value;
      isAtEnd = next.done;
    }
  } catch (error) {
    isAtEnd = true;
    const failure = failureOf(error, aborter.signal);
    const kind = failure.failure === "timeout" ? DeadlineExceeded : Unreachable;
    throw new kind(`the value ended early: ${failure.detail}`);
  } finally {
    if (!isAtEnd) await reader?.cancel();
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
