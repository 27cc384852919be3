// Numbers, sizes and times in words.

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A count, with separators. */
export function count(value) {
  return typeof value === "number" && Number.isFinite(value) ? GROUPED.format(value) : "–";
}

/** A whole number of any size, or its digits, with separators. */
export function whole(value) {
  return GROUPED.format(BigInt(value));
}

/** A rate per second: few digits, the more the smaller. */
export function rate(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (value >= 100_000) return `${(value / 1000).toFixed(0)}k`;
  if (value >= 10_000) return `${(value / 1000).toFixed(1)}k`;
  if (value >= 100) return GROUPED.format(value);
  return value === 0 ? "0" : value.toFixed(value < 10 ? 1 : 0);
}

/** A size in bytes, decimal units. */
export function bytes(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (value < 1000) return `${value} B`;
  const units = ["kB", "MB", "GB", "TB", "PB"];
  let [left, unit] = [value / 1000, 0];
  while (left >= 999.5 && unit < units.length - 1) [left, unit] = [left / 1000, unit + 1];
  return `${left < 10 ? left.toFixed(1) : left.toFixed(0)} ${units[unit]}`;
}

/** A short time, given in seconds. */
export function latency(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "–";
  const us = seconds * 1e6;
  if (us < 1000) return `${us.toFixed(0)} µs`;
  const ms = us / 1000;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  return `${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)} s`;
}

/** A short time, given in microseconds; 0 is "not measured". */
export function micros(us) {
  return us ? latency(us / 1e6) : "–";
}

/** A long time, given in milliseconds. */
export function duration(ms) {
  if (typeof ms !== "number" || !Number.isFinite(ms)) return "–";
  const seconds = ms / 1000;
  if (seconds < 1) return `${Math.round(ms)} ms`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** How long ago a date was. */
export function ago(date) {
  const ms = Date.now() - new Date(date).getTime();
  return Number.isFinite(ms) ? `${duration(Math.max(ms, 0))} ago` : "–";
}

/** A date and the time of day, to the second. */
export function moment(date) {
  const at = new Date(date);
  return Number.isNaN(at.getTime()) ? "–" : `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

const UNITS = [
  ["d", 86_400],
  ["h", 3600],
  ["min", 60],
  ["s", 1],
];
/** 100 years. */
const LIFETIME_S_MAX = 3_162_240_000;

/** How long values live, given in seconds, as `seconds` reads it; null is for ever. */
export function lifetime(given) {
  if (typeof given !== "number") return "never";
  const [unit, of] = UNITS.find((it) => given % it[1] === 0) ?? ["s", 1];
  return `${given / of} ${unit}`;
}

/** The seconds of a lifetime as someone types it; "never"; undefined for no text, null for what is none. */
export function seconds(text) {
  const given = text.trim().toLowerCase();
  if (given === "") return undefined;
  if (given === "never") return given;
  const [, digits, unit = "s"] = /^(\d{1,10})\s*(s|min|h|d)?$/.exec(given) ?? [];
  const total = Number(digits) * UNITS.find((it) => it[0] === unit)[1];
  return total >= 1 && total <= LIFETIME_S_MAX ? total : null;
}

/** The time of day of a date, to the millisecond. */
export function clock(date) {
  const at = new Date(date);
  return Number.isNaN(at.getTime()) ? "–" : at.toISOString().slice(11, 23);
}

/** "1 node", "2 nodes". */
export function many(number, noun, plural = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : plural}`;
}

/** "a, b and c". */
export function list(words) {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** A dot, shortened: the beginning of its actor and its counter. */
export function shortDot(dot) {
  const [actor, counter] = String(dot).split("-");
  return `${actor.slice(0, 6)}…-${counter}`;
}
