/** Pages of a feed: what changed keys are now. No I/O. */

import { answerOf } from "./batch.js";
import {
  Absent,
  type FeedChange,
  type FeedPage,
  type LargeValue,
  ValueStream,
  type Writes,
} from "./model.js";
import * as parse from "./parse.js";
import { COUNTER, ESTIMATE, FLAG, MAP, REGISTER, SET, typed } from "./parse_typed.js";
import type { Kind, Typed } from "./typed.js";
import { plain, type Request } from "./wire.js";

const KINDS: ReadonlyMap<string, Kind<unknown>> = new Map<string, Kind<unknown>>(
  [COUNTER, SET, FLAG, MAP, REGISTER, ESTIMATE].map((kind) => [kind.name, kind]),
);

type Fields = Readonly<Record<string, unknown>>;

/** Reads the answer to `GET /feed/{bucket}`. */
export function page(bucket: string, answer: parse.Answer, client: Writes): FeedPage {
  const { changes, cursor, complete } = parse.exactJsonObject(answer) as { [name: string]: unknown };
  if (!Array.isArray(changes)) throw parse.wrong(answer, "has no list of changes");
  if (typeof cursor !== "string" || cursor === "" || typeof complete !== "boolean") {
    throw parse.wrong(answer, "has no cursor, or does not say whether it is complete");
  }
  const read = (changes as unknown[]).map((each) => changeOf(bucket, answer, each, client));
  return { changes: read, cursor, complete };
}

/** Reads a change as the answer to a read of its key. */
function changeOf(bucket: string, answer: parse.Answer, each: unknown, client: Writes): FeedChange {
  const change: Fields = parse.isObject(each) ? each : {};
  const key = change["key"];
  if (typeof key !== "string") throw parse.wrong(answer, "has a change without a key");
  const request: Request = { ...plain("GET", ""), place: [bucket, key] };
  if ("bytes" in change) return largeOf(request, answer, change);
  if ("type" in change) return typedOf(request, answer, change);
  const alone = answerOf(answer, change);
  if (alone.status === 404) {
    return new Absent(parse.fieldsOf(request, alone), true, change["expired"] === true, client);
  }
  const read = parse.read(request, alone, client);
  if (read instanceof ValueStream) throw parse.wrong(answer, "was not read");
  return read;
}

function largeOf(request: Request, answer: parse.Answer, change: Fields): LargeValue {
  const alone = answerOf(answer, { ...change, value: "", siblings: null });
  const { bucket, key, etag } = parse.fieldsOf(request, alone);
  const size = change["bytes"];
  const isRead = alone.status === 200 || alone.status === 300;
  if (typeof size !== "number" || !Number.isInteger(size) || !isRead) {
    throw parse.wrong(answer, "has a change without its size");
  }
  return {
    kind: "large",
    bucket,
    key,
    size,
    siblings: parse.count(parse.header(alone, "quorate-siblings")) ?? 1,
    etag,
    contentType: alone.status === 200 ? parse.header(alone, "content-type") : undefined,
    meta: parse.metaOf(alone),
    index: parse.indexOf(alone),
    expiresAt: parse.endOf(alone),
  };
}

function typedOf(request: Request, answer: parse.Answer, change: Fields): Typed<unknown> {
  const { type, exists, value } = change as { [name: string]: unknown };
  const kind = KINDS.get(String(type));
  if (kind === undefined) {
    throw parse.wrong(answer, "has a change of a type that this client does not know");
  }
  const json = JSON.stringify({ type, exists, value });
  const described = { ...change, value: json, encoding: undefined, content_type: "application/json" };
  return typed(request, answerOf(answer, described), kind);
}
