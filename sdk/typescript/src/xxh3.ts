/**
 * The 64-bit XXH3 hash of short inputs (up to 240 bytes), as the partition of a key is computed from it.
 * After the specification at https://xxhash.com/doc/; seed 0 and the default secret.
 */

const MASK = (1n << 64n) - 1n;
const P64_1 = 0x9e3779b185ebca87n;
const P64_2 = 0xc2b2ae3d27d4eb4fn;
const P64_3 = 0x165667b19e3779f9n;
const MX1 = 0x165667919e3779f9n;
const MX2 = 0x9fb21c651e98df25n;

/** The first 136 bytes of the default secret; short inputs use no more. */
const SECRET = fromHex(
  "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221" +
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8" +
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3",
);

/** The longest input, in bytes. */
export const XXH3_BYTES_MAX = 240;

/** The hash of `input`; `undefined` if it is longer than {@link XXH3_BYTES_MAX}. */
export function xxh3_64(input: Uint8Array): bigint | undefined {
  const length = input.length;
  if (length > XXH3_BYTES_MAX) return undefined;
  const data = new DataView(input.buffer, input.byteOffset, length);
  if (length > 16) return length > 128 ? upTo240(data) : upTo128(data);
  if (length > 8) return upTo16(data);
  if (length >= 4) return upTo8(data);
  return length > 0 ? upTo3(input) : avalanche64(u64(SECRET, 56) ^ u64(SECRET, 64));
}

function upTo3(input: Uint8Array): bigint {
  const length = input.length;
  const [first, middle, last] = [input[0] ?? 0, input[length >> 1] ?? 0, input[length - 1] ?? 0];
  const combined = (BigInt(first) << 16n) | (BigInt(middle) << 24n) | BigInt(last) | (BigInt(length) << 8n);
  return avalanche64(combined ^ u32(SECRET, 0) ^ u32(SECRET, 4));
}

function upTo8(data: DataView): bigint {
  const length = data.byteLength;
  const both = u32(data, length - 4) + (u32(data, 0) << 32n);
  let hash = both ^ u64(SECRET, 8) ^ u64(SECRET, 16);
  hash ^= rotateLeft(hash, 49n) ^ rotateLeft(hash, 24n);
  hash = (hash * MX2) & MASK;
  hash ^= (hash >> 35n) + BigInt(length);
  hash = (hash * MX2) & MASK;
  return hash ^ (hash >> 28n);
}

function upTo16(data: DataView): bigint {
  const length = data.byteLength;
  const low = u64(data, 0) ^ u64(SECRET, 24) ^ u64(SECRET, 32);
  const high = u64(data, length - 8) ^ u64(SECRET, 40) ^ u64(SECRET, 48);
  return avalanche((BigInt(length) + swapBytes(low) + high + folded(low, high)) & MASK);
}

function upTo128(data: DataView): bigint {
  const length = data.byteLength;
  let hash = BigInt(length) * P64_1;
  for (let pair = (length - 1) >> 5; pair >= 0; pair -= 1) {
    hash += mixed(data, 16 * pair, 32 * pair);
    hash += mixed(data, length - 16 * (pair + 1), 32 * pair + 16);
  }
  return avalanche(hash & MASK);
}

function upTo240(data: DataView): bigint {
  const length = data.byteLength;
  let hash = BigInt(length) * P64_1;
  for (let round = 0; round < 8; round += 1) hash += mixed(data, 16 * round, 16 * round);
  hash = avalanche(hash & MASK);
  for (let round = 8; round < length >> 4; round += 1) hash += mixed(data, 16 * round, 16 * (round - 8) + 3);
  return avalanche((hash + mixed(data, length - 16, 119)) & MASK);
}

function mixed(data: DataView, at: number, secretAt: number): bigint {
  return folded(u64(data, at) ^ u64(SECRET, secretAt), u64(data, at + 8) ^ u64(SECRET, secretAt + 8));
}

function folded(a: bigint, b: bigint): bigint {
  const product = a * b;
  return (product & MASK) ^ (product >> 64n);
}

function avalanche(hash: bigint): bigint {
  hash ^= hash >> 37n;
  hash = (hash * MX1) & MASK;
  return hash ^ (hash >> 32n);
}

function avalanche64(hash: bigint): bigint {
  hash ^= hash >> 33n;
  hash = (hash * P64_2) & MASK;
  hash ^= hash >> 29n;
  hash = (hash * P64_3) & MASK;
  return hash ^ (hash >> 32n);
}

function rotateLeft(value: bigint, by: bigint): bigint {
  return ((value << by) | (value >> (64n - by))) & MASK;
}

function swapBytes(value: bigint): bigint {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setBigUint64(0, value, true);
  return bytes.getBigUint64(0, false);
}

function u32(data: DataView, at: number): bigint {
  return BigInt(data.getUint32(at, true));
}

function u64(data: DataView, at: number): bigint {
  return data.getBigUint64(at, true);
}

function fromHex(hex: string): DataView {
  const bytes = Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
  return new DataView(bytes.buffer);
}
