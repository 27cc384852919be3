/** The hash, against values of the reference implementation. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { xxh3_64, XXH3_BYTES_MAX } from "../src/xxh3.js";

const pattern = (length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => index % 251);

test("lengths at the edges of each case of the algorithm", () => {
  const known: [number, bigint][] = [
    [0, 0x2d06800538d394c2n],
    [1, 0xc44bdff4074eecdbn],
    [3, 0x5f4299fc161c9cbbn],
    [4, 0x60dab036a58211f2n],
    [8, 0x3a1c2d7c85af88f8n],
    [9, 0xe9612598145bb9dcn],
    [16, 0x8355e3a6f61770dbn],
    [17, 0x9ef341a99de37328n],
    [64, 0x6187eb9089b0ed55n],
    [65, 0x6928c76ce90422d0n],
    [128, 0x85c6174c7ff4c46bn],
    [129, 0xec7642b431ba3e5an],
    [240, 0x375a384d957fe865n],
  ];
  for (const [length, hash] of known) assert.equal(xxh3_64(pattern(length)), hash, `length ${length}`);
});

test("all lengths, folded into one number", () => {
  let folded = 0n;
  for (let length = 0; length <= XXH3_BYTES_MAX; length += 1) {
    folded = BigInt.asUintN(64, folded * 31n + (xxh3_64(pattern(length)) ?? 0n));
  }
  assert.equal(folded, 0x9f7e8ab9032f923n);
});

test("a view into a larger buffer, and what is too long", () => {
  const within = new Uint8Array(pattern(100).buffer, 10, 20);
  assert.equal(xxh3_64(within), xxh3_64(Uint8Array.from(within)));
  assert.equal(xxh3_64(pattern(XXH3_BYTES_MAX + 1)), undefined);
});
