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
  401: "The server wants an API key.",
  429: "The server is busy.",
};

const WENT_AWAY = "The server went away in the middle of the answer.";

function failure(status, said) {
  const what = REMEDIES[status] ?? `The server ${status < 500 ? "refused" : "failed"} (${status}).`;
  return new Failure(status, said ? `${what} It says: ${said}` : what);
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

/** Gauges and counters of the process and of one model, by name, as numbers. */
export async function metrics(model) {
  const found = {};
  for (const line of (await (await ask("/metrics")).text()).split("\n")) {
    const [, name, of, value] = /^(\w+)(?:\{model="((?:[^"\\]|\\.)*)"\})? ([\d.e+-]+)$/.exec(line) ?? [];
    if (name && (of === undefined || of.replace(/\\(.)/g, "$1") === model)) found[name] = Number(value);
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
  while (true) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure(0, WENT_AWAY);
    }
    if (read.done) throw new Failure(0, WENT_AWAY);
    buffer += read.value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const data of events.map(parsed).filter(Boolean)) {
      if (data.error) throw failure(statusOf(data.error), data.error.message);
      yield data;
      if (data.done) return;
    }
  }
}

/** What an event carries; nothing where it is a comment, as proxies send them to keep a connection. */
function parsed(event) {
  const text = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch {
    throw new Failure(500, `The server sent what is no answer: ${text.slice(0, 80)}`);
  }
}

/** Of an error in the middle of an answer: some servers and proxies give the status in words. */
function statusOf({ status, code, type }) {
  const given = Number(status ?? code);
  return given || { authentication_error: 401, rate_limit_error: 429 }[type] || 500;
}
