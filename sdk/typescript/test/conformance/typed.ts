/** Steps on typed values, with the handle that their type names. */

import * as quorate from "../../src/index.js";
import type { Json } from "./servers.js";

const CHANGE = ["type", "key", "context", "w", "n", "sloppy", "timeout_ms", "idempotency_key"];
export const OPS: Record<string, readonly string[]> = {
  typed_get: ["type", "key", "r", "n", "sloppy", "timeout_ms"],
  typed_delete: CHANGE,
  change: [...CHANGE, "operation", "return_body", "at_most_once"],
};

/** Carries out a step. The operation of a change, as the cases write it, becomes calls of the handle. */
export async function perform(
  client: quorate.Client,
  step: Json,
  bucket: string,
  given: quorate.PutOptions & quorate.GetOptions,
): Promise<unknown> {
  const { op, type, key } = step as { op: string; type: string; key: string };
  const operation = step["operation"] as any;
  const { w, r, n, sloppy, timeoutMs, idempotencyKey, context } = given;
  const seen = context as quorate.Typed<unknown> | undefined;
  const handle = handleOf(client, type, bucket, key);
  if (op === "typed_get") return handle.get({ r, n, sloppy, timeoutMs });
  const options = { w, n, sloppy, timeoutMs, idempotencyKey };
  if (op === "typed_delete") return handle.delete({ ...options, context: seen });
  const change = { ...options, returnBody: step["return_body"] === true };
  if (handle instanceof quorate.Counter) {
    return handle.increment(operation.increment, { ...change, atMostOnce: step["at_most_once"] === true });
  }
  if (handle instanceof quorate.TextSet) {
    if (context instanceof quorate.SetRead) return context.change(operation, change);
    return seen === undefined
      ? handle.add(operation.add, change)
      : handle.change(operation, { ...change, context: seen });
  }
  if (handle instanceof quorate.Flag) {
    return operation.enable
      ? handle.enable(change)
      : (context as unknown as quorate.FlagRead).disable(change);
  }
  if (handle instanceof quorate.FieldMap) {
    return handle.update(mapChange(operation), { ...change, context: seen });
  }
  return handle instanceof quorate.Register
    ? handle.assign(operation.assign, change)
    : handle.add(operation.add, change);
}

function handleOf(client: quorate.Client, type: string, bucket: string, key: string) {
  switch (type) {
    case "counter":
      return client.counter(bucket, key);
    case "set":
      return client.set(bucket, key);
    case "flag":
      return client.flag(bucket, key);
    case "map":
      return client.map(bucket, key);
    case "register_lww":
      return client.register(bucket, key);
    case "hll":
      return client.estimate(bucket, key);
    default:
      throw new Error(`unknown type ${type}`);
  }
}

function mapChange({ update = {}, remove = [], ...unknown }: any): quorate.MapChange {
  const assign: Record<string, string> = {};
  const [add, removeFrom]: Record<string, string[]>[] = [{}, {}];
  const [enable, disable]: string[][] = [[], []];
  for (const [name, field] of Object.entries<any>(update)) {
    const { register_lww, flag, set, ...rest } = field;
    Object.assign(unknown, rest);
    if (register_lww !== undefined) assign[name] = register_lww;
    if (flag !== undefined) (flag ? enable : disable)?.push(name);
    if (set?.add !== undefined) add![name] = set.add;
    if (set?.remove !== undefined) removeFrom![name] = set.remove;
  }
  if (Object.keys(unknown).length > 0) throw new Error(`unknown: ${JSON.stringify(unknown)}`);
  return { assign, enable, disable, add, removeFrom, remove };
}

/** The value of a read and the expected one, in the form of the HTTP API. */
export function compared(read: any, wanted: unknown): [unknown, unknown] {
  const { value } = read.read ?? read;
  if (typeof value === "bigint") return [String(value), String(wanted)];
  if (value instanceof Set) return [[...value], wanted];
  if (value instanceof Map) return [Object.fromEntries([...value].map(fieldOf)), wanted];
  return [value ?? null, wanted];
}

function fieldOf([name, field]: [string, quorate.Field]): [string, Json] {
  const register = field.register === undefined ? {} : { register_lww: field.register };
  const flag = field.flag ? { flag: true } : {};
  const set = field.set.size > 0 ? { set: [...field.set] } : {};
  return [name, { ...register, ...flag, ...set }];
}
