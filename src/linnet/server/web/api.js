// The server, as the page asks it.

let key = sessionStorage.getItem("linnet.key") ?? "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem("linnet.key", value);
}

/** What went wrong, in words for the user. status 0: the server was not reached, or went away. */
export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const REMEDIES = {
  0: "The server cannot be reached. Is it running?",
  401: "The server wants an API key: give it under Settings, Access.",
  429: "The server is busy.",
};

function failure(status, said) {
  return new Failure(status, [REMEDIES[status], said && `It says: ${said}`].filter(Boolean).join(" ") || `The server failed (${status}).`);
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw failure(0);
  }
  if (response.ok) return response;
  let said = "";
  try {
    said = (await response.json()).error.message;
  } catch {
    // not the server's own answer
  }
  throw failure(response.status, said);
}

export const models = async () => (await (await ask("/v1/models")).json()).data.map((model) => model.id);
export const modelInfo = async (model) => (await ask(`/api/model_info?model=${encodeURIComponent(model)}`)).json();

/** Gauges and counters of one model by name, as numbers. */
export async function metrics() {
  const found = {};
  for (const line of (await (await ask("/metrics")).text()).split("\n")) {
    const parsed = /^(linnet_\w+)(?:\{[^}]*\})? ([\d.e+-]+)$/.exec(line);
    if (parsed) found[parsed[1]] = (found[parsed[1]] ?? 0) + Number(parsed[2]);
  }
  return found;
}

/** The events of an answer, as they come. Throws a Failure, whatever was sent before it. */
export async function* chat(body, signal) {
  const response = await ask("/api/chat", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let complete = false;
  while (true) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      break;
    }
    if (read.done) break;
    buffer += read.value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const text of events) {
      const data = JSON.parse(text.slice(text.indexOf("data: ") + 6));
      if (data.error) throw failure(data.error.code === "internal_error" ? 500 : data.error.status ?? 500, data.error.message);
      complete ||= data.done === true;
      yield data;
    }
  }
  if (!complete) throw new Failure(0, "The server went away in the middle of the answer. What had come is kept.");
}
