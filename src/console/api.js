// Requests to this node.

import { authorization, logIn } from "./login.js";

/** The node refused, and said why (RFC 9457). */
export class Refused extends Error {
  constructor(status, problem, headers) {
    super(problem.detail || problem.title || `status ${status}`);
    this.status = status;
    this.problem = problem;
    this.headers = headers;
    this.name = String(problem.type ?? "").replace("urn:quorate:problem:", "") || `status_${status}`;
  }
}

/** The node did not answer. */
export class Unreachable extends Error {
  constructor() {
    super("this node does not answer");
    this.name = "unreachable";
  }
}

/**
 * The answer to a request: `{status, headers, text(), json()}`. A status of `options.accept` is not an error.
 * Throws `Refused` or `Unreachable`.
 */
export async function ask(path, options = {}) {
  const { accept = [], timeout_ms = 30_000, signal, headers = {}, ...rest } = options;
  const signals = [AbortSignal.timeout(timeout_ms), signal].filter(Boolean);
  const sent = authorization();
  let answer;
  try {
    answer = await fetch(path, {
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.any(signals),
      headers: { ...headers, ...sent },
      ...rest,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable();
  }
  if (answer.status === 401) {
    const problem = await problemOf(answer);
    if (await logIn(problem.detail, sent)) return ask(path, options);
    throw new Refused(answer.status, problem, answer.headers);
  }
  if (!answer.ok && answer.status !== 300 && !accept.includes(answer.status)) {
    throw new Refused(answer.status, await problemOf(answer), answer.headers);
  }
  return answer;
}

async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return { title: `status ${answer.status}` };
  }
}

/** The JSON answer to a GET. */
export async function get(path, options) {
  return (await ask(path, options)).json();
}

/** The path of a key below `route`. Throws if no URL can name it. */
export function keyPath(route, bucket, key) {
  if (key === "." || key === "..") {
    throw new Error(`a browser cannot ask for the key "${key}": it takes it for a part of the path`);
  }
  return `/${route}/${encodeURIComponent(bucket)}/${encodeURIComponent(key)}`;
}

/** The console of the node with this client address. */
export function consoleOf(addr) {
  return `${location.protocol}//${addr}/console`;
}

/** The address of a key's page. */
export function pageOf(bucket, key) {
  return `#/conflicts/${encodeURIComponent(bucket)}/${encodeURIComponent(key)}`;
}

/** A query string of what is set. */
export function query(values) {
  const set = Object.entries(values).filter(
    ([, value]) => value !== undefined && value !== null && value !== "",
  );
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

/** What to tell of an error, with what to do about it. */
export function explain(error) {
  const hints = {
    unreachable: "It may have stopped; another node's console works as well.",
    no_read_quorum: "Lower R, allow a sloppy quorum, or wait until more replicas are up.",
    no_quorum: "Lower W, allow a sloppy quorum, or wait until more replicas are up.",
    overloaded: "Try again in a moment.",
    forbidden: "The token of this page does not allow it; load the page again to give another.",
    auth_stale: "Another node's console works as well.",
    sibling_gone: "Look at the key again, then decide again.",
    bad_context: "Look at the key again.",
    too_many_siblings: "Resolve the conflict first.",
    bucket_not_empty: "Give the type to a bucket without keys.",
  };
  const outcome =
    {
      not_applied: " Nothing was written.",
      partial: " A copy may exist and still spread.",
      unknown: " A node was silent and may hold the write.",
    }[error.problem?.outcome] ?? "";
  return [
    error.name && error.name !== "Error" ? `${error.name}: ` : "",
    error.message,
    ".",
    outcome,
    hints[error.name] ? ` ${hints[error.name]}` : "",
  ]
    .join("")
    .replace("..", ".");
}
