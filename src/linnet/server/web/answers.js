// Answers that run: at most one in a conversation, each to its end whatever the page shows meanwhile.
import { Failure, chat } from "./api.js";
import { Meter } from "./monitor.js";
import { add, path } from "./store.js";

const CANDIDATES = 6;

const running = new Map();

/** {conversation, node, controller, meter} of the answer that runs in a conversation, or nothing. */
export const runningIn = (conversation) => running.get(conversation);
export const allRunning = () => [...running.values()];

/** Ends the answer that runs, if one does; what has come of it stays. */
export function stop(conversation) {
  running.get(conversation)?.controller.abort();
  running.delete(conversation);
}

/**
 * A new answer to a message of the user. begun: tokens of an earlier one that it goes on from; asked: a promise of the model and the options
 * of sampling. seen: began(conversation), grew(conversation, node), ended(conversation, node), as it happens. Never throws: what fails is
 * said in the node.
 */
export async function answer(conversation, question, begun, asked, seen) {
  stop(conversation);
  const node = add(conversation, question.id, "assistant", begun.map((token) => token.text).join(""));
  Object.assign(node, { tokens: [...begun], begun: begun.length });
  const run = { conversation, node, controller: new AbortController(), meter: new Meter() };
  running.set(conversation, run);
  seen.began(conversation);
  try {
    const options = await Promise.race([asked, aborted(run.controller.signal)]);
    node.model = options.model;
    await receive(run, request(conversation, question, begun, options), () => seen.grew(conversation, node));
  } catch (error) {
    if (error.name === "AbortError") node.reason = "stopped";
    else node.error = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
    if (error instanceof Failure) node.status = error.status;
  }
  run.meter.end(node.speed);
  if (running.get(conversation) === run) running.delete(conversation);
  seen.ended(conversation, node);
}

const aborted = (signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

function request(conversation, question, begun, options) {
  const system = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  const said = path({ nodes: conversation.nodes, leaf: question.id }).map(({ role, content }) => ({ role, content }));
  const begin = begun.length ? { begin: begun.map((token) => token.id) } : {};
  return { ...options, messages: [...system, ...said], top: CANDIDATES, ...begin };
}

async function receive({ node, controller, meter }, body, grew) {
  let first = true;
  for await (const event of chat(body, controller.signal)) {
    if (first) node.content = ""; // the server says what the answer begins with, too
    first = false;
    if (event.done) {
      Object.assign(node, { content: event.response, count: event.tokens_generated, speed: event.tokens_per_second, reason: event.finish_reason });
    } else {
      node.content += event.text;
      node.tokens.push(...(event.tokens ?? []));
      meter.arrived(event.tokens?.length ?? 0);
    }
    grew();
  }
}
