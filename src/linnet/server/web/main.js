// The page: what the user does, and what comes of it.
import { Failure, chat, metrics, modelInfo, models, setKey } from "./api.js";
import { byId, h, say } from "./dom.js";
import { plot } from "./plot.js";
import { sampling, showSampling } from "./settings.js";
import { add, goTo, load, newConversation, parse, path, save, serialize } from "./store.js";
import { fill, messageElement } from "./thread.js";

const CANDIDATES = 6;
const PLOTTED = 60;

const stored = load();
const state = { conversations: stored.conversations, current: null, running: null, tokens: false, speeds: [], memory: [] };

// ---- what is seen
function showList() {
  const items = [...state.conversations].sort((a, b) => b.created - a.created).map((conversation) => {
    const open = h("button", { type: "button", class: "open", "aria-current": conversation === state.current ? "true" : null }, conversation.title || "New conversation");
    open.addEventListener("click", () => select(conversation));
    const remove = h("button", { type: "button", class: "icon", "aria-label": `Delete ${conversation.title || "conversation"}` }, "\u00d7");
    remove.addEventListener("click", () => removeConversation(conversation));
    return h("li", {}, open, remove);
  });
  byId("conversations").replaceChildren(...items);
}

function showThread() {
  const messages = path(state.current);
  const elements = messages.map((node) => messageElement(state.current, node, { busy: state.running?.node === node, tokens: state.tokens }, acts));
  byId("thread").replaceChildren(...(elements.length ? elements : [welcome()]));
  byId("system").value = state.current.system;
  document.title = state.current.title ? `${state.current.title} - Linnet` : "Linnet";
}

function welcome() {
  const suggestions = ["What is 17 + 25?", "Tell me about yourself.", "What is the capital of Canada?"].map((text) => {
    const button = h("button", { type: "button" }, text);
    button.addEventListener("click", () => send(text));
    return button;
  });
  return h("div", { class: "welcome" }, h("img", { src: "/web/linnet.svg", alt: "", width: 56, height: 56 }), h("p", {}, "This model runs on your own machine. Ask it something, and look at how it decides."), h("div", { class: "suggestions" }, ...suggestions));
}

function notice(text, ...actions) {
  byId("notice").replaceChildren(...(text ? [h("p", {}, text), ...actions] : []));
}

function busy(running) {
  state.running = running;
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
}

function persist() {
  const kept = save(state.conversations);
  if (kept === "not") notice("This browser has no room left for your conversations: export them, and delete some.");
  else if (kept === "without tokens") notice("This browser's room is nearly full: the candidates of tokens are no longer kept.");
}

// ---- conversations
function select(conversation) {
  stop();
  state.current = conversation;
  byId("sidebar").classList.remove("open");
  byId("menu").setAttribute("aria-expanded", "false");
  showList();
  showThread();
}

function begin() {
  const empty = state.conversations.find((conversation) => conversation.leaf === null);
  const conversation = empty ?? newConversation();
  if (!empty) state.conversations.push(conversation);
  select(conversation);
  byId("message").focus();
}

function removeConversation(conversation) {
  const at = state.conversations.indexOf(conversation);
  if (state.current === conversation) stop();
  state.conversations.splice(at, 1);
  const undo = h("button", { type: "button" }, "Undo");
  undo.addEventListener("click", () => {
    state.conversations.splice(at, 0, conversation);
    notice("");
    persist();
    select(conversation);
  });
  if (state.current === conversation) begin();
  persist();
  showList();
  notice(`Deleted "${conversation.title || "New conversation"}".`, undo);
}

function exportAll() {
  const url = URL.createObjectURL(new Blob([serialize(state.conversations)], { type: "application/json" }));
  h("a", { href: url, download: "linnet-conversations.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function importFile(file) {
  try {
    const imported = parse(await file.text());
    const known = new Set(state.conversations.map((conversation) => conversation.id));
    const fresh = imported.filter((conversation) => !known.has(conversation.id));
    state.conversations.push(...fresh);
    persist();
    notice(`Imported ${fresh.length} of ${imported.length} conversations; the others are here already.`);
    if (fresh.length) select(fresh.at(-1));
  } catch (error) {
    notice(`${file.name} was not imported: ${error.message}.`);
  }
}

// ---- answers
function send(text) {
  if (!text.trim() || state.running) return;
  answer(add(state.current, state.current.leaf, "user", text));
}

/** A new answer to a message of the user; begun: tokens of an earlier one that it goes on from. */
async function answer(question, begun = []) {
  stop();
  notice("");
  const conversation = state.current;
  const node = add(conversation, question.id, "assistant", "");
  const controller = new AbortController();
  busy({ node, controller });
  showList();
  showThread();
  node.tokens = [...begun];
  scrollToEnd();
  const system = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  const messages = [...system, ...path({ nodes: conversation.nodes, leaf: question.id }).map(({ role, content }) => ({ role, content }))];
  const request = { messages, top: CANDIDATES, ...sampling() };
  if (begun.length) request.begin = begun.map((token) => token.id);
  let drawing = null;
  try {
    await connecting.catch(() => {}); // where the models are not known, the server takes its first
    request.model = byId("model").value || undefined;
    for await (const event of chat(request, controller.signal)) {
      if (event.done) finish(node, event);
      else {
        node.content += event.text;
        node.tokens.push(...(event.tokens ?? []));
      }
      drawing ??= setTimeout(() => {
        drawing = null;
        draw(node);
      }, Math.min(400, 30 + node.content.length / 100));
    }
    say("The answer is complete.");
  } catch (error) {
    if (error.name !== "AbortError") node.error = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
    else node.reason = "stopped";
  }
  clearTimeout(drawing);
  if (state.running?.node === node) busy(null);
  persist();
  if (state.current === conversation) {
    showThread();
    showList();
  }
  showMemory();
}

/** What has come of an answer that runs, where it is looked at. */
function draw(node) {
  const body = byId("thread").querySelector(`[data-id="${node.id}"] .body`);
  if (!body) return;
  const near = nearEnd();
  fill(body, node, false, acts);
  if (near) scrollToEnd();
}

function finish(node, event) {
  node.content = event.response;
  node.count = event.tokens_generated;
  node.speed = event.tokens_per_second;
  node.reason = event.finish_reason;
  if (node.speed) {
    state.speeds = [...state.speeds, node.speed].slice(-PLOTTED);
    plot(byId("speed"), state.speeds, "tokens/s");
  }
}

function stop() {
  state.running?.controller.abort();
  busy(null);
}

const nearEnd = () => {
  const { scrollHeight, scrollTop, clientHeight } = byId("thread");
  return scrollHeight - scrollTop - clientHeight < 120;
};

function scrollToEnd() {
  byId("thread").scrollTop = byId("thread").scrollHeight;
}

const acts = {
  edit: (node, text) => answer(add(state.current, node.parent, "user", text)),
  regenerate: (node) => answer(state.current.nodes[node.parent]),
  retry: (node) => {
    const question = state.current.nodes[node.parent];
    if (!node.content) delete state.current.nodes[node.id]; // nothing is lost with it
    answer(question);
  },
  branch: (node, index, candidate) => answer(state.current.nodes[node.parent], [...node.tokens.slice(0, index), { ...candidate, top: node.tokens[index].top }]),
  go: (node) => {
    goTo(state.current, node);
    persist();
    showThread();
  },
};

// ---- the model
let connecting = null;

/** Asks for the models; what is sent meanwhile waits for them. */
function connect() {
  notice("");
  connecting = showModels();
  connecting.then(showModel).catch((error) => {
    const retry = h("button", { type: "button" }, "Try again");
    retry.addEventListener("click", connect);
    notice(error.message, retry);
  });
}

async function showModels() {
  const names = await models();
  byId("model").replaceChildren(...names.map((name) => h("option", { value: name }, name)));
}

async function showModel() {
  const info = await modelInfo(byId("model").value);
  const types = Object.keys(info.types).join(", ");
  byId("facts").textContent = `${amount(info.parameters)} parameters, ${types}, context ${info.context.toLocaleString()}`;
  const rows = [["Family", info.family], ["Parameters", info.parameters.toLocaleString()], ["Layers", info.layers], ["Hidden size", info.hidden], ["Vocabulary", info.vocab_size.toLocaleString()], ["Context", info.context.toLocaleString()], ["Files", `${amount(info.file_bytes)}B`], ["Types", types]];
  byId("details").replaceChildren(...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

const amount = (n) => {
  const [unit, size] = [["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, size]) => n >= size) ?? ["", 1];
  return `${(n / size).toFixed(n >= 100 * size ? 0 : 1)} ${unit}`;
};

async function showMemory() {
  try {
    const found = await metrics();
    const share = found.linnet_pages_used / found.linnet_pages;
    if (Number.isFinite(share)) state.memory = [...state.memory, 100 * share].slice(-PLOTTED);
    plot(byId("memory"), state.memory, "% in use", 100);
  } catch {
    // the conversation says when the server is gone
  }
}

// ---- what the user does
const toggle = (button, element) => {
  element.hidden = !element.hidden;
  button.setAttribute("aria-expanded", String(!element.hidden));
};

function toggleTokens() {
  state.tokens = !state.tokens;
  byId("view").setAttribute("aria-pressed", String(state.tokens));
  byId("legend").hidden = !state.tokens;
  showThread();
}

function nextTheme() {
  const order = ["", "light", "dark"];
  const theme = order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3];
  setTheme(theme);
  say(theme ? `${theme} theme` : "the system's theme");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("linnet.theme", theme);
  byId("theme").textContent = { light: "Light", dark: "Dark" }[theme] ?? "Theme";
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, 240)}px`;
}

function wire() {
  const message = byId("message");
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (state.running || !message.value.trim()) return;
    const text = message.value;
    message.value = "";
    grow(message);
    send(text);
  });
  message.addEventListener("input", () => grow(message));
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => {
    const act = event.altKey && !event.ctrlKey && !event.metaKey ? { KeyN: begin, KeyT: toggleTokens, KeyS: () => byId("settings").click() }[event.code] : null;
    if (act) {
      event.preventDefault();
      act();
    } else if (event.key === "Escape" && state.running) stop();
  });
  byId("stop").addEventListener("click", stop);
  byId("new").addEventListener("click", begin);
  byId("export").addEventListener("click", exportAll);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", (event) => {
    if (event.target.files.length) importFile(event.target.files[0]);
    event.target.value = "";
  });
  byId("theme").addEventListener("click", nextTheme);
  byId("view").addEventListener("click", toggleTokens);
  byId("settings").addEventListener("click", () => toggle(byId("settings"), byId("panel")));
  byId("menu").addEventListener("click", () => byId("menu").setAttribute("aria-expanded", String(byId("sidebar").classList.toggle("open"))));
  byId("model").addEventListener("change", () => showModel().catch((error) => notice(error.message)));
  byId("system").addEventListener("change", (event) => {
    state.current.system = event.target.value;
    persist();
  });
  byId("access").addEventListener("submit", (event) => event.preventDefault());
  byId("key").addEventListener("change", (event) => {
    setKey(event.target.value.trim());
    connect();
  });
}

setTheme(localStorage.getItem("linnet.theme") ?? "");
wire();
showSampling();
plot(byId("speed"), [], "");
plot(byId("memory"), [], "");
if (state.conversations.length) select([...state.conversations].sort((a, b) => b.created - a.created)[0]);
else begin();
connect();
if (stored.broken) notice("The conversations stored in this browser could not be read. They were put aside, not thrown away, and the page begins anew.");
showMemory();
