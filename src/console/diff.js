// Differences of two texts, by line and word, and of two JSON values, by path.

/** Beyond this many pairs of lines or words, everything between the equal ends counts as changed. */
const PAIRS_MAX = 1_000_000;

/** Runs of `{kind: same|left|right, items}` that turn `a` into `b`: the longest common subsequence. */
export function runs(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end += 1;
  const found = [];
  const add = (kind, items) => {
    if (items.length === 0) return;
    if (found.at(-1)?.kind === kind) found.at(-1).items.push(...items);
    else found.push({ kind, items: [...items] });
  };
  add("same", a.slice(0, start));
  between(a.slice(start, a.length - end), b.slice(start, b.length - end), add);
  add("same", a.slice(a.length - end));
  return found;
}

function between(a, b, add) {
  if (a.length * b.length > PAIRS_MAX) {
    add("left", a);
    add("right", b);
    return;
  }
  const width = b.length + 1;
  const longest = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] =
        a[i] === b[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      add("same", [a[i]]);
      [i, j] = [i + 1, j + 1];
    } else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) add("left", [a[i++]]);
    else add("right", [b[j++]]);
  }
  add("left", a.slice(i));
  add("right", b.slice(j));
}

/**
 * Rows of a side-by-side view: `{kind, left, right}`, each side `{number, parts}` or null; parts are `{text,
 * changed}`.
 */
export function rows(a, b) {
  const found = [];
  let [left, right] = [1, 1];
  const whole = (text, changed) => [{ text, changed }];
  const all = runs(a.split("\n"), b.split("\n"));
  for (let at = 0; at < all.length; at += 1) {
    const { kind, items } = all[at];
    if (kind === "same") {
      for (const text of items) {
        found.push({
          kind,
          left: { number: left++, parts: whole(text, false) },
          right: { number: right++, parts: whole(text, false) },
        });
      }
      continue;
    }
    // Removed and added lines in one place are the same lines, changed.
    const other = all[at + 1] && all[at + 1].kind !== "same" ? all[++at].items : [];
    const [lefts, rights] = kind === "left" ? [items, other] : [other, items];
    for (let line = 0; line < Math.max(lefts.length, rights.length); line += 1) {
      const [l, r] = [lefts[line], rights[line]];
      const [lp, rp] =
        l !== undefined && r !== undefined ? inLine(l, r) : [whole(l ?? "", true), whole(r ?? "", true)];
      found.push({
        kind: l === undefined ? "right" : r === undefined ? "left" : "changed",
        left: l === undefined ? null : { number: left++, parts: lp },
        right: r === undefined ? null : { number: right++, parts: rp },
      });
    }
  }
  return found;
}

const WORDS = /[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu;

function inLine(a, b) {
  const [left, right] = [[], []];
  for (const { kind, items } of runs(a.match(WORDS) ?? [], b.match(WORDS) ?? [])) {
    const text = items.join("");
    if (kind !== "right") left.push({ text, changed: kind === "left" });
    if (kind !== "left") right.push({ text, changed: kind === "right" });
  }
  return [left, right];
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Where two JSON values differ: `{path, kind: changed|left|right, left, right}`. */
export function jsonDiff(a, b, path = "$") {
  if (isObject(a) && isObject(b)) {
    return [...new Set([...Object.keys(a), ...Object.keys(b)])].flatMap((name) => {
      const at = /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)
        ? `${path}.${name}`
        : `${path}[${JSON.stringify(name)}]`;
      return oneOf(Object.hasOwn(a, name), Object.hasOwn(b, name), a[name], b[name], at);
    });
  }
  if (Array.isArray(a) && Array.isArray(b)) {
    return Array.from({ length: Math.max(a.length, b.length) }, (_, index) =>
      oneOf(index < a.length, index < b.length, a[index], b[index], `${path}[${index}]`),
    ).flat();
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [{ path, kind: "changed", left: a, right: b }];
}

function oneOf(inLeft, inRight, left, right, path) {
  if (inLeft && inRight) return jsonDiff(left, right, path);
  return [{ path, kind: inLeft ? "left" : "right", left, right }];
}

/**
 * Both values in one: members of objects and elements of arrays from both sides; where they differ,
 * `later`'s.
 */
export function joined(earlier, later) {
  if (isObject(earlier) && isObject(later)) {
    const all = { ...earlier };
    for (const [name, value] of Object.entries(later)) {
      const both = Object.hasOwn(earlier, name);
      Object.defineProperty(all, name, {
        value: both ? joined(earlier[name], value) : value,
        enumerable: true,
        configurable: true,
        writable: true,
      });
    }
    return all;
  }
  if (Array.isArray(earlier) && Array.isArray(later)) {
    const seen = new Set(later.map((it) => JSON.stringify(it)));
    return [...later, ...earlier.filter((it) => !seen.has(JSON.stringify(it)))];
  }
  return later;
}
