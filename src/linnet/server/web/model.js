// The models of the server: the one that is chosen, what it is, and how it is asked.
import { modelInfo, models } from "./api.js";
import { amount, byId, h } from "./dom.js";
import { failed } from "./notice.js";
import { sampling, showSampling } from "./settings.js";

let known = null; // a promise of what there is to know, for which what is sent waits
let unopened = false;

export const chosen = () => byId("model").value;

/** The model to ask, and how; once that is known. Where the server has not told its models, it takes its first. */
export const asked = () => known.then(request, request);

const request = () => ({ model: chosen() || undefined, ...sampling() });

/** Asks for the models. */
export function connect() {
  known = showModels().then(showModel);
  known.catch((error) => failed(error, connect));
}

/** Asks what the chosen model is. */
export function learn() {
  known = showModel();
  known.catch((error) => failed(error, learn));
}

/** After an answer: a model that was not open before tells more now. */
export function learnMore() {
  if (unopened) learn();
}

async function showModels() {
  const names = await models();
  byId("model").replaceChildren(...names.map((name) => h("option", { value: name }, name)));
}

async function showModel() {
  const info = await modelInfo(chosen());
  unopened = info.sampling === null;
  showSampling(info.sampling);
  const types = Object.keys(info.types).join(", ");
  byId("facts").textContent = `${amount(info.parameters).replace("G", "B")} parameters, ${types}, context ${info.context.toLocaleString()}`;
  const rows = {
    Family: info.family,
    Parameters: info.parameters.toLocaleString(),
    Layers: info.layers,
    "Hidden size": info.hidden,
    Vocabulary: info.vocab_size.toLocaleString(),
    Context: info.context.toLocaleString(),
    Files: `${amount(info.file_bytes)}B`,
    Types: types,
  };
  byId("details").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}
