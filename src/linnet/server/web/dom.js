// Elements without markup: what a model or a user wrote is only ever text.

/** h("p", {class: "x", onclick: f, hidden: true}, "text", element, null) */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A button that acts. */
export function action(label, act, attributes = {}) {
  return h("button", { type: "button", ...attributes, onclick: act }, label);
}

/** A button that copies a text, and says whether it could: away from localhost, browsers give pages without TLS no clipboard. */
export function copyButton(text, attributes = {}) {
  const button = action("Copy", async () => {
    button.textContent = (await copied(text())) ? "Copied" : "Not copied";
    say(button.textContent);
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }, attributes);
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "visually-hidden", value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** 1.2 M, 34 k */
export const amount = (n) => {
  const [unit, size] = [["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, size]) => n >= size) ?? ["", 1];
  if (size === 1) return `${n} `;
  return `${(n / size).toFixed(n >= 100 * size ? 0 : 1)} ${unit}`;
};

/** Says something to a screen reader. */
export function say(text) {
  byId("status").textContent = text;
}
