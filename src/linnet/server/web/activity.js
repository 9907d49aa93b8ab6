// What is seen of speed and memory: a line under the answer that comes, and two plots.
import { allRunning, runningIn } from "./answers.js";
import { action, amount, byId, h } from "./dom.js";
import { Memory } from "./monitor.js";
import { plot } from "./plot.js";

const EVERY_MS = 500;
const SILENCE_S = 3;

const memory = new Memory();
let plotted = null; // the meter of the answer that comes in sight, or of the last one that did
let timer = null;
let ticks = 0;

/** Follows the answers that run to their end. sight(): {conversation, model}, those that are looked at. */
export function follow(sight) {
  timer ??= setInterval(() => tick(sight), EVERY_MS);
  showActivity(sight);
}

function tick(sight) {
  allRunning().forEach(({ meter }) => meter.sample());
  const over = !allRunning().length;
  if (ticks++ % 2 === 0 || over) showMemory(sight);
  showActivity(sight);
  if (!over) return;
  clearInterval(timer);
  timer = null;
}

export function showActivity(sight) {
  const meter = runningIn(sight().conversation)?.meter;
  plotted = meter ?? plotted;
  const line = document.querySelector(".live");
  if (line && meter) line.textContent = told(meter);
  if (!plotted?.speeds.length) {
    plot(byId("speed"), [], "");
    return;
  }
  const { speeds, whole } = plotted;
  const now = whole ?? speeds.at(-1);
  plot(byId("speed"), speeds, `${figure(now)} tokens/s${whole === null ? "" : " on average"}`);
}

function told(meter) {
  if (!meter.count) return meter.silence < 1 ? "" : `Reading the question, ${meter.silence.toFixed(0)} s`;
  const tokens = `${meter.count} ${meter.count === 1 ? "token" : "tokens"}`;
  if (meter.silence > SILENCE_S) return `${tokens}, nothing for ${meter.silence.toFixed(0)} s`;
  return meter.speeds.length ? `${tokens}, ${figure(meter.speeds.at(-1))} a second` : tokens;
}

/** Asks for the memory, and shows it; or says why it is not known, and offers to ask again. */
export async function showMemory(sight) {
  await memory.ask(sight().model);
  const { shares, bytes, error } = memory;
  const parts = [bytes && `${amount(bytes)}B`, shares.length && `KV cache ${figure(shares.at(-1))} %`].filter(Boolean);
  plot(byId("memory"), shares, parts.join(", "), 100);
  if (error) byId("memory").append(h("div", { class: "failed" }, h("p", {}, error), action("Try again", () => showMemory(sight))));
}

const figure = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1));
