// Sampling options and the system prompt.
import { byId, h } from "./dom.js";

const KEY = "linnet.sampling";

const OPTIONS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, help: "0 takes the likeliest token each time", start: 0 },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01, help: "draws among the likeliest, up to this share", start: 1 },
  { name: "top_k", label: "Top k", min: 0, max: 200, step: 1, help: "draws among so many; 0: all", start: 0 },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, help: "leaves out what is less likely than this share of the best", start: 0 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.5, max: 2, step: 0.05, help: "above 1 avoids what was said", start: 1 },
  { name: "max_tokens", label: "Longest answer, tokens", min: 1, max: 4096, step: 1, help: "", start: 512 },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 32, step: 1, help: "empty: another each time", start: null },
];

let values = {};
try {
  values = JSON.parse(localStorage.getItem(KEY)) ?? {};
} catch {
  // another page's; the defaults will do
}

/** What goes with a request. */
export function sampling() {
  const given = OPTIONS.map(({ name, start }) => [name, values[name] ?? start]).filter(([, value]) => value !== null && Number.isFinite(value));
  return Object.fromEntries(given);
}

export function showSampling() {
  byId("sampling").replaceChildren(...OPTIONS.map(control));
}

function control({ name, label, min, max, step, help, start }) {
  const id = `option-${name}`;
  const input = h("input", { id, type: "number", min, max, step, value: values[name] ?? start ?? "", "aria-describedby": help ? `${id}-help` : null });
  input.addEventListener("change", () => {
    const valid = input.value !== "" && input.checkValidity();
    input.setAttribute("aria-invalid", String(input.value !== "" && !valid));
    if (valid) values[name] = Number(input.value);
    else delete values[name];
    localStorage.setItem(KEY, JSON.stringify(values));
  });
  return h("div", { class: "option" }, h("label", { for: id }, label), input, help ? h("small", { id: `${id}-help` }, help) : null);
}
