/** Answers about typed values, read with the suspicion of `parse`. No I/O. */

import { WrongType } from "./errors.js";
import { type Answer, count, header, jsonObject, wrong } from "./parse.js";
import type { Applied, Field, Fields, Kind, Typed } from "./typed.js";
import type { Request } from "./wire.js";

/** Reads the answer to a GET of a typed key, or to a change that gives back the value. */
export function typed<V>(request: Request, answer: Answer, kind: Kind<V>): Typed<V> {
  const [bucket, key] = request.place ?? ["", ""];
  const { type, exists, ...body } = jsonObject(answer) as { [name: string]: unknown };
  const requestId = header(answer, "x-request-id");
  if (typeof type === "string" && type !== kind.name) {
    const message = `bucket ${bucket} has values of type ${type.slice(0, 100)}, not ${kind.name}`;
    throw new WrongType(message, { facts: { status: answer.status, requestId } });
  }
  if (typeof type !== "string" || typeof exists !== "boolean" || !("value" in body)) {
    throw wrong(answer, "has no typed value");
  }
  const context = header(answer, "quorate-context");
  if (context === undefined || context === "") throw wrong(answer, "has no Quorate-Context");
  const read = kind.of(body["value"], new TextDecoder().decode(answer.body));
  if (read === undefined) throw wrong(answer, `has no value of type ${kind.name}`);
  const etag = header(answer, "etag");
  return { kind: "typed", bucket, key, value: read.value, exists, context, etag, requestId };
}

/** Reads the answer to a change. */
export function applied<V>(request: Request, answer: Answer, kind: Kind<V>): Applied<V> {
  const [bucket, key] = request.place ?? ["", ""];
  const read = answer.status === 200 ? typed(request, answer, kind) : undefined;
  return {
    kind: "applied",
    bucket,
    key,
    acks: count(header(answer, "quorate-acks")),
    hints: count(header(answer, "quorate-hints")),
    read,
    context: read?.context,
    requestId: header(answer, "x-request-id"),
  };
}

/** A total. JSON.parse would round what is beyond 2^53: such a number is read from the text. */
export const COUNTER: Kind<bigint> = {
  name: "counter",
  of: (json, source) => {
    if (typeof json === "string") {
      return /^-?[0-9]{1,60}$/.test(json) ? { value: BigInt(json) } : undefined;
    }
    if (typeof json !== "number" || !Number.isInteger(json)) return undefined;
    if (Number.isSafeInteger(json)) return { value: BigInt(json) };
    // Of a counter's answer the value is the only number, and no other text holds one.
    const digits = /"value"\s*:\s*(-?[0-9]{1,60})\s*[,}]/.exec(source)?.[1];
    return digits === undefined ? undefined : { value: BigInt(digits) };
  },
};

/** Elements. */
export const SET: Kind<ReadonlySet<string>> = {
  name: "set",
  of: (json) => (isTexts(json) ? { value: new Set(json) } : undefined),
};

/** On or off. */
export const FLAG: Kind<boolean> = {
  name: "flag",
  of: (json) => (typeof json === "boolean" ? { value: json } : undefined),
};

/** Fields. */
export const MAP: Kind<Fields> = {
  name: "map",
  of: (json) => {
    if (!isRecord(json)) return undefined;
    const fields = new Map<string, Field>();
    for (const [name, each] of Object.entries(json)) {
      const field = isRecord(each) ? fieldOf(each) : undefined;
      if (field === undefined) return undefined;
      fields.set(name, field);
    }
    return { value: fields };
  },
};

/** A text, or none. */
export const REGISTER: Kind<string | undefined> = {
  name: "register_lww",
  of: (json) => (json === null || typeof json === "string" ? { value: json ?? undefined } : undefined),
};

/** A count. */
export const ESTIMATE: Kind<number> = {
  name: "hll",
  of: (json) =>
    typeof json === "number" && Number.isInteger(json) && json >= 0 ? { value: json } : undefined,
};

function fieldOf(json: Readonly<Record<string, unknown>>): Field | undefined {
  const { register_lww: register, flag = false, set = [] } = json as { [name: string]: unknown };
  if (register !== undefined && typeof register !== "string") return undefined;
  if (typeof flag !== "boolean" || !isTexts(set)) return undefined;
  return { register, flag, set: new Set(set) };
}

function isTexts(json: unknown): json is string[] {
  return Array.isArray(json) && json.every((each) => typeof each === "string");
}

function isRecord(json: unknown): json is Readonly<Record<string, unknown>> {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}
