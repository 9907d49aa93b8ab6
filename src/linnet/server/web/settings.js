// Sampling options and the system prompt.
import { byId, h } from "./dom.js";
import { read, write } from "./storage.js";

const KEY = "linnet.sampling";

const OPTIONS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, help: "0 takes the likeliest token each time", start: 0 },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01, help: "draws among the likeliest, up to this share", start: 1 },
  { name: "top_k", label: "Top k", min: 0, max: 200, step: 1, help: "draws among so many; 0: all", start: 0 },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, help: "leaves out what is less likely than this share of the best", start: 0 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.5, max: 2, step: 0.05, help: "above 1 avoids what was said", start: 1 },
  { name: "max_tokens", label: "Longest answer, tokens", min: 1, max: 2 ** 20, step: 1, help: "empty: until the context is full", start: null },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 32, step: 1, help: "empty: another each time", start: null },
];

let values = {};
try {
  values = JSON.parse(read(KEY)) ?? {};
} catch {
  // another page's; the defaults will do
}

let advised = {};

/** What goes with a request: what is seen. Of a model that is not open yet, what it wants is not known, and only what the user gave goes. */
export function sampling() {
  const shown = OPTIONS.map(({ name, start }) => [name, shownValue(name, start)]);
  return Object.fromEntries(shown.filter(([, value]) => Number.isFinite(value)));
}

const shownValue = (name, start) => values[name] ?? (advised ? advised[name] ?? start : null);

/** advice: what the model's publishers advise, by name; null where it is not known. */
export function showSampling(advice) {
  advised = advice;
  if (byId("sampling").contains(document.activeElement)) return; // somebody writes there
  byId("sampling").replaceChildren(...OPTIONS.map(control));
}

function control({ name, label, min, max, step, help, start }) {
  const id = `option-${name}`;
  const said = h("small", { id: `${id}-help` }, help);
  const placeholder = advised || start === null ? null : "auto";
  const input = h("input", { id, type: "number", min, max, step, placeholder, value: shownValue(name, start) ?? "", "aria-describedby": said.id });
  input.addEventListener("change", () => {
    const { badInput, rangeUnderflow, rangeOverflow } = input.validity;
    const wrong = badInput || rangeUnderflow || rangeOverflow || (step === 1 && !Number.isInteger(Number(input.value)));
    input.setAttribute("aria-invalid", String(wrong));
    said.textContent = wrong ? `not used: give ${step === 1 ? "a whole number " : ""}from ${min} to ${max}` : help;
    if (wrong || input.value === "") delete values[name];
    else values[name] = Number(input.value);
    if (!wrong) input.value = shownValue(name, start) ?? "";
    write(KEY, JSON.stringify(values));
  });
  return h("div", { class: "option" }, h("label", { for: id }, label), input, said);
}
