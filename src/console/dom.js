// Elements are made and changed here and nowhere else. Text becomes a text node, never markup: keys, values
// and messages may hold anything.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "readOnly", "selected"]);

/**
 * An HTML element. `props` are attributes, but for `on` (listeners by type), `key`, and properties of forms.
 */
export function h(name, props, ...children) {
  return fill(document.createElement(name), props, children);
}

/** An SVG element. */
export function svg(name, props, ...children) {
  return fill(document.createElementNS(SVG, name), props, children);
}

function fill(element, props, children) {
  element.own = { on: {}, set: {} };
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null) continue;
    if (name === "key") element.own.key = value;
    else if (name === "on") listen(element, value);
    else if (PROPERTIES.has(name)) element.own.set[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...flat(children));
  for (const [name, value] of Object.entries(element.own.set)) element[name] = value;
  return element;
}

// One listener per type for good; what it calls is replaced when the element is drawn again.
function listen(element, listeners) {
  for (const [type, listener] of Object.entries(listeners)) {
    element.own.on[type] = listener;
    element.addEventListener(type, (event) => element.own.on[type]?.call(element, event));
  }
}

function flat(children) {
  return children
    .flat(Infinity)
    .filter((it) => it !== null && it !== undefined && it !== false && it !== "")
    .map((it) => (it instanceof Node ? it : document.createTextNode(String(it))));
}

/**
 * Makes the children of `parent` look like `next`, and keeps elements that stay: with them the focus, the
 * selection and what a user has typed.
 */
export function draw(parent, ...next) {
  reconcile(parent, next);
  settle(parent);
}

function reconcile(parent, next) {
  let at = parent.firstChild;
  for (const node of flat(next)) {
    let kept = at;
    while (kept && !same(kept, node)) kept = kept.nextSibling;
    if (!kept) {
      parent.insertBefore(node, at);
      continue;
    }
    while (at !== kept) at = remove(at);
    if (kept !== node) patch(kept, node);
    at = kept.nextSibling;
  }
  while (at) at = remove(at);
}

/**
 * Boxes that scroll take the focus, so that the keyboard can scroll them; others would only be in its way.
 */
function settle(parent) {
  for (const box of parent.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

globalThis.window?.addEventListener("resize", () => settle(document));

function remove(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function same(a, b) {
  return a === b || (a.nodeName === b.nodeName && a.own?.key === b.own?.key);
}

function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // `open` belongs to the user: details are opened and closed by hand. `tabindex` is set by `settle`.
    if (!fresh.hasAttribute(name) && name !== "open" && name !== "tabindex") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  reconcile(old, [...fresh.childNodes]);
  const [was, is] = [old.own, fresh.own];
  for (const [type, listener] of Object.entries(is.on)) {
    if (type in was.on) was.on[type] = listener;
    else listen(old, { [type]: listener });
  }
  for (const [name, value] of Object.entries(is.set)) {
    if (was.set[name] !== value) old[name] = value;
  }
  was.set = is.set;
}

/** A table: `columns` are `{name, number, title}` or text, `rows` lists of cells or `{key, cells, …}`. */
export function table(caption, columns, rows, empty) {
  const heads = columns.map((it) => (typeof it === "string" || it instanceof Node ? { name: it } : it));
  if (rows.length === 0 && empty) return h("p", { class: "empty" }, empty);
  const cell = (content, index) =>
    h(
      index === 0 ? "th" : "td",
      {
        scope: index === 0 ? "row" : null,
        class: heads[index]?.number ? "number" : null,
      },
      content,
    );
  return h(
    "div",
    { class: "scroll", role: "group", "aria-label": caption },
    h(
      "table",
      null,
      h("caption", { class: "hidden" }, caption),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          heads.map(({ name, number, title }) =>
            h("th", { scope: "col", class: number ? "number" : null, title }, name),
          ),
        ),
      ),
      h(
        "tbody",
        null,
        rows.map((row) => {
          const { key, cells, ...rest } = Array.isArray(row) ? { cells: row } : row;
          return h("tr", { key, ...rest }, cells.map(cell));
        }),
      ),
    ),
  );
}

/** Text for screen readers only. */
export function unseen(text) {
  return h("span", { class: "hidden" }, text);
}

/** A section with a heading. */
export function panel(title, props, ...children) {
  const { aside, ...rest } = props ?? {};
  const id = `panel-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  return h(
    "section",
    { ...rest, class: `panel ${rest.class ?? ""}`.trim(), "aria-labelledby": id },
    h("header", null, h("h2", { id }, title), aside ? h("div", { class: "aside" }, aside) : null),
    children,
  );
}

/** A state: a mark whose form, not only its colour, tells it, and the word. */
export function badge(kind, text, title) {
  return h(
    "span",
    { class: `badge ${kind}`, title },
    h("span", { class: "mark", "aria-hidden": "true" }),
    text,
  );
}

/** A message in a box: `kind` is good, note, warn or bad. */
export function notice(kind, ...children) {
  return h("div", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : null }, children);
}

/** A labelled control; `help` explains it. */
export function field(label, control, help) {
  const id = control.id || `field-${label.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  control.id = id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    control,
    help ? h("p", { class: "help", id: `${id}-help` }, help) : null,
  );
}

/** A choice among `options`, each a value or `[value, text]`. */
export function select(props, options, value) {
  const all = options.map((it) => (Array.isArray(it) ? it : [it, it]));
  return h(
    "select",
    { ...props, value },
    all.map(([it, text]) => h("option", { value: it, selected: String(it) === String(value) }, text)),
  );
}

/** Names and values, side by side. */
export function factsOf(facts) {
  return h(
    "dl",
    { class: "facts" },
    facts.map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value))),
  );
}
