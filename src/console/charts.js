// Small charts. Each says in words what it shows.

import { svg } from "./dom.js";

const [WIDTH, HEIGHT] = [240, 44];

/**
 * Lines over the last `span` seconds, one value per second, the newest at the right. `lines` are `{name,
 * values}`, `null` where nothing was measured; `format` renders a value.
 */
export function sparkline(label, lines, { span, format, least = 1 }) {
  const known = lines.flatMap(({ values }) => values.filter((it) => it !== null));
  const most = Math.max(least, ...known);
  const x = (index, length) => WIDTH - 2 - (length - 1 - index) * ((WIDTH - 4) / (span - 1));
  const y = (value) => HEIGHT - 3 - (value / most) * (HEIGHT - 8);
  const words = lines.map(({ name, values }) => {
    const seen = values.filter((it) => it !== null);
    if (seen.length === 0) return `${name}: nothing measured`;
    const now = values.at(-1) === null ? "none" : format(values.at(-1));
    return `${name}: now ${now}, least ${format(Math.min(...seen))}, most ${format(Math.max(...seen))}`;
  });
  return svg(
    "svg",
    {
      class: "spark",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `${label}, last ${span} seconds. ${words.join("; ")}`,
    },
    svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 2.5, y2: HEIGHT - 2.5 }),
    lines.map(({ values }, at) => {
      const path = trace(values, x, y);
      return [
        at === 0 && path.area ? svg("path", { class: "area", d: path.area }) : null,
        svg("path", { class: `line line-${at}`, d: path.line }),
      ];
    }),
  );
}

// The path through all values that are known, with gaps where they are not; and the area below it.
function trace(values, x, y) {
  let [line, area, pen] = ["", "", null];
  values.forEach((value, index) => {
    const at = x(index, values.length);
    if (value === null) {
      if (pen !== null) area += `V${HEIGHT - 3}Z`;
      pen = null;
      return;
    }
    const point = `${at.toFixed(1)} ${y(value).toFixed(1)}`;
    area += pen === null ? `M${at.toFixed(1)} ${HEIGHT - 3}L${point}` : `L${point}`;
    line += pen === null ? `M${point}` : `L${point}`;
    // A single value is still seen.
    if (pen === null && (index === values.length - 1 || values[index + 1] === null)) line += "h1";
    pen = at;
  });
  if (pen !== null) area += `V${HEIGHT - 3}Z`;
  return { line, area };
}
