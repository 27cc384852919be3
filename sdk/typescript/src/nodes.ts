/** The nodes a client knows, which of them to ask next, and what each did lately. No I/O. */

import { InvalidArgument } from "./errors.js";
import type { Homes } from "./parse.js";
import { xxh3_64 } from "./xxh3.js";

/** How long a node is avoided after the first failure; doubled by each further one. */
const DOWN_MS = 250;
const DOWN_MS_MAX = 15_000;
/** How often the nodes are looked up again, and how soon after a failed look-up. */
const REFRESH_MS = 30_000;
const REFRESH_FAILED_MS = 3_000;
/**
 * How soon, at the least, after a node failed or told of a change; at most twice that, by chance, so that the
 * clients of a cluster do not look it up together.
 */
const REFRESH_SOON_MS = 1_000;
const NODES_MAX = 1000;

/** One node, as this client sees it. */
export interface NodeView {
  readonly url: string;
  /** Known once it was discovered. */
  readonly name: string | undefined;
}

/** One node, and what speaks against asking it. Times in milliseconds of a monotonic clock. */
export interface Node extends NodeView {
  name: string | undefined;
  failures: number;
  /** Until then it is asked only if no other is left. */
  downUntil: number;
  /** Until when it asked to be left alone. */
  busyUntil: number;
}

/** Checks a node's URL, and gives it without a slash at its end. */
export function baseUrl(url: string): string {
  const wrong = (why: string): InvalidArgument => new InvalidArgument(`url ${JSON.stringify(url)}: ${why}`);
  if (!URL.canParse(url.trim())) throw wrong("must be like http://host:port");
  const parsed = new URL(url.trim());
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:")
    throw wrong("must be like http://host:port");
  if (parsed.search !== "" || parsed.hash !== "" || parsed.username !== "" || parsed.password !== "") {
    throw wrong("must be without a user, a query and a fragment");
  }
  return `${parsed.protocol}//${parsed.host}${parsed.pathname.replace(/\/+$/, "")}`;
}

/** The URLs of nodes, given with commas or as a list; at least one. */
export function parseUrls(urls: string | Iterable<string>): string[] {
  const listed = typeof urls === "string" ? urls.split(",") : [...urls];
  const checked = [...new Set(listed.filter((url) => url.trim() !== "").map(baseUrl))];
  if (checked.length === 0) throw new InvalidArgument("urls: at least one is needed");
  return checked;
}

/** The nodes of one client. */
export class Nodes {
  readonly #seeds: readonly Node[];
  #found: readonly Node[] = [];
  #homes: Homes | undefined;
  #refreshAt = 0;
  #epoch = 0;
  #turn: number;

  constructor(urls: readonly string[]) {
    this.#seeds = urls.map(fresh);
    this.#turn = Math.floor(Math.random() * urls.length);
  }

  /** The nodes discovered; before that, those the client was given. */
  all(): readonly Node[] {
    return this.#found.length > 0 ? this.#found : this.#seeds;
  }

  /** Whether it is time to look the nodes up. Only one caller is told so. */
  claimRefresh(now: number): boolean {
    const isDue = now >= this.#refreshAt;
    if (isDue) this.#refreshAt = now + REFRESH_FAILED_MS;
    return isDue;
  }

  /** Makes the next operation look the nodes up. */
  expire(): void {
    this.#refreshAt = 0;
  }

  /** The highest epoch of the layout that was heard of since the last look-up; 0 before the first. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Records which epoch a node follows: a later one than is known is a reason to look the nodes up. */
  heard(epoch: number | undefined, now: number): void {
    if (epoch === undefined || epoch <= this.#epoch) return;
    if (this.#epoch > 0) this.#lookSoon(now); // before the first look-up nothing is known, and that is due
    this.#epoch = epoch;
  }

  /** Looks the nodes up soon. Drawn once: of many draws the shortest would count. */
  #lookSoon(now: number): void {
    if (this.#refreshAt > now + REFRESH_FAILED_MS) {
      this.#refreshAt = now + REFRESH_SOON_MS * (1 + Math.random());
    }
  }

  /** Takes over what a look-up found: client addresses by node name, and the epoch of the layout. */
  discovered(
    found: ReadonlyMap<string, string>,
    homes: Homes | undefined,
    now: number,
    epoch: number = 0,
  ): void {
    this.#epoch = epoch;
    const known = new Map([...this.#seeds, ...this.#found].map((node) => [node.url, node]));
    const nodes: Node[] = [];
    for (const [name, address] of [...found].sort().slice(0, NODES_MAX)) {
      const url = this.#urlOf(address);
      if (url === undefined) continue;
      const node = known.get(url) ?? fresh(url);
      node.name = name;
      nodes.push(node);
    }
    if (nodes.length === 0) return;
    this.#found = nodes;
    this.#homes = homes;
    this.#refreshAt = now + REFRESH_MS;
  }

  /** The URL of an advertised address: by the scheme of the URL that the client was given. */
  #urlOf(address: string): string | undefined {
    const seed = new URL(this.#seeds[0]?.url ?? "http://localhost");
    const isNone =
      address.startsWith("0.0.0.0:") || address.startsWith("[::]:") || /[/\\?#@\s]/.test(address);
    if (isNone || seed.pathname !== "/") return undefined; // or nodes that are behind something
    return URL.canParse(`${seed.protocol}//${address}`) ? baseUrl(`${seed.protocol}//${address}`) : undefined;
  }

  /**
   * The node to ask next. In order of weight: not known to be down or busy, not tried in this operation, a
   * home replica of the key (for a write the first, which would coordinate it), and in turn.
   */
  pick(
    place: readonly [string, string] | undefined,
    isWrite: boolean,
    tried: readonly Node[],
    now: number,
  ): Node {
    this.#turn += 1;
    let nodes = this.all();
    if (!nodes.some((node) => isGood(node, now))) {
      nodes = [...nodes, ...this.#seeds.filter((seed) => !nodes.includes(seed))];
    }
    const homes = this.#homesOf(place);
    const weight = (node: Node, index: number): number[] => {
      const rank = node.name === undefined ? -1 : homes.indexOf(node.name);
      const isHome = rank >= 0;
      const until = Math.max(node.downUntil, node.busyUntil);
      const turn = (((index - this.#turn) % nodes.length) + nodes.length) % nodes.length;
      const byRank = isWrite && isHome ? rank : Number(!isHome) * homes.length;
      return [until <= now ? 0 : until, tried.filter((it) => it === node).length, byRank, turn];
    };
    const weighed = nodes.map((node, index) => ({ node, weight: weight(node, index) }));
    const best = weighed.reduce((a, b) => (isLess(b.weight, a.weight) ? b : a));
    return best.node;
  }

  #homesOf(place: readonly [string, string] | undefined): readonly string[] {
    if (this.#homes === undefined || place === undefined) return [];
    const hash = xxh3_64(new TextEncoder().encode(place.join("\0")));
    if (hash === undefined) return [];
    const { nodes, homes } = this.#homes;
    const partition = Number(hash >> BigInt(64 - Math.log2(homes.length)));
    return (homes[partition] ?? []).map((at) => nodes[at] ?? "");
  }

  /** Records that a node answered. */
  answered(node: Node): void {
    node.failures = 0;
    node.downUntil = 0;
  }

  /** Records that a node could not be reached or did not answer: avoid it, longer each time. */
  failed(node: Node, now: number): void {
    node.failures = Math.min(node.failures + 1, 30);
    const waitMs = Math.min(DOWN_MS * 2 ** (node.failures - 1), DOWN_MS_MAX);
    node.downUntil = now + waitMs * (0.75 + Math.random() / 2);
    this.#lookSoon(now);
  }
}

function isGood(node: Node, now: number): boolean {
  return now >= node.downUntil && now >= node.busyUntil;
}

function isLess(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at >= 0 && (a[at] ?? 0) < (b[at] ?? 0);
}

function fresh(url: string): Node {
  return { url, name: undefined, failures: 0, downUntil: 0, busyUntil: 0 };
}
