/** Steps on index entries, and questions to an index. */

import * as quorate from "../../src/index.js";
import type { Json } from "./servers.js";

const QUESTION = ["index", "eq", "from", "to", "limit"];
export const OPS: Record<string, readonly string[]> = {
  list_index: [...QUESTION, "cursor"],
  all_index: QUESTION,
};

type Lists = Record<string, unknown[]>;

/** Entries, as the cases write them, as the client takes them. Of a question it is the name of an index. */
export function given(entries: unknown): quorate.Index | undefined {
  if (entries === undefined || typeof entries === "string") return undefined;
  const lists = Object.entries(entries as Lists).map(([name, values]) => [
    name,
    values.map((each) => valueOf(name, each)),
  ]);
  return Object.fromEntries(lists) as quorate.Index;
}

/** A value in an index. An integer may be written as text, for all its digits. */
function valueOf(name: string, value: unknown): any {
  const isNumber = name.endsWith("_i") && typeof value === "string" && /^-?[0-9]+$/.test(value);
  return isNumber ? BigInt(value) : value;
}

/** The name of an index, and what it is asked for. */
export function question<Rest extends object>(step: Json, rest: Rest): [string, quorate.IndexQuery & Rest] {
  const { index, eq, from, to } = step as { [name: string]: unknown };
  const name = String(index);
  const asked = { eq: valueOf(name, eq), from: valueOf(name, from), to: valueOf(name, to) };
  return [name, { ...asked, ...rest }];
}

/** All entries, and whether each of their pages was complete, which the iterator itself does not tell. */
export async function all(client: quorate.Client, bucket: string, step: Json): Promise<quorate.IndexPage> {
  const pages: quorate.IndexPage[] = [];
  const indexPage = async (...asked: Parameters<quorate.Client["indexPage"]>): Promise<quorate.IndexPage> => {
    const page = await client.indexPage(...asked);
    pages.push(page);
    return page;
  };
  const noting = { indexPage } as unknown as quorate.Client;
  const pageSize = step["limit"] as number | undefined;
  const asked = question(step, { pageSize, allowIncomplete: true });
  const entries: quorate.IndexEntry[] = [];
  for await (const entry of client.index.call(noting, bucket, ...asked)) entries.push(entry);
  return { entries, cursor: pages.at(-1)?.cursor, complete: pages.every((page) => page.complete) };
}

/** Entries in a form in which integers of the client and of the cases are the same. */
export function shown(entries: object): Json {
  const lists = Object.entries(entries as Lists).map(([name, values]) => {
    return [name, values.map((each) => (name.endsWith("_i") ? String(each) : each))];
  });
  return Object.fromEntries(lists);
}

/** Those of the live siblings, and those expected. */
export function inAnyOrder(siblings: quorate.Siblings, wanted: readonly object[]): [unknown, unknown] {
  const sorted = (all: readonly object[]): string[] =>
    all.map((each) => JSON.stringify(Object.entries(shown(each)).sort())).sort();
  return [sorted(siblings.live.map(({ index }) => index)), sorted(wanted)];
}

/** The hits of a page, and those expected. */
export function hits(
  page: quorate.IndexPage,
  wanted: readonly (readonly [unknown, string])[],
): [unknown, unknown] {
  const isOfNumbers = page.entries.some(({ value }) => typeof value === "bigint");
  const form = (value: unknown): unknown => (isOfNumbers ? String(value) : value);
  return [
    page.entries.map(({ value, key }) => [form(value), key]),
    wanted.map(([value, key]) => [form(value), key]),
  ];
}
