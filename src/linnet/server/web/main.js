// The page: what the user does, and what comes of it.
import { follow, showActivity, showMemory } from "./activity.js";
import { allRunning, answer, runningIn, stop } from "./answers.js";
import { setKey } from "./api.js";
import { action, byId, h, say } from "./dom.js";
import { asked, chosen, connect, learn, learnMore } from "./model.js";
import { notice, openAccess, trouble } from "./notice.js";
import { showSampling } from "./settings.js";
import { isThere, read, write } from "./storage.js";
import { add, forget, goTo, load, newConversation, parse, path, remove, save, serialize, watch } from "./store.js";
import { fill, messageElement, nameOf } from "./thread.js";

const stored = load();
const state = { conversations: stored.conversations, current: null, tokens: false };

// ---- what is seen
function showList() {
  const begun = state.conversations.filter((conversation) => conversation.leaf !== null);
  const items = begun.sort((a, b) => b.created - a.created).map((conversation) => {
    const { title } = conversation;
    const open = action(title, () => select(conversation), { class: "open", title, "aria-current": conversation === state.current ? "true" : null });
    const mark = runningIn(conversation) ? h("span", { class: "runs", title: "An answer runs" }) : null;
    return h("li", {}, open, mark, action("\u00d7", () => removeConversation(conversation), { class: "icon", "aria-label": `Delete ${title}` }));
  });
  const list = byId("conversations");
  const focused = list.contains(document.activeElement);
  list.replaceChildren(...items);
  if (focused) (list.querySelector("[aria-current]") ?? byId("new")).focus();
}

function showThread() {
  const running = runningIn(state.current);
  const thread = byId("thread");
  const edited = (node) => thread.querySelector(`[data-id="${node.id}"]:has(.edit)`); // with what was written there
  const shown = (node) => messageElement(state.current, node, { busy: running?.node === node, tokens: state.tokens }, acts);
  const elements = path(state.current).map((node) => edited(node) ?? shown(node));
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  const focused = document.activeElement;
  thread.replaceChildren(...(elements.length ? elements : [welcome()]));
  if (focused !== document.body) (focused.isConnected ? focused : thread).focus(); // whoever goes by keyboard stays near
  if (focused === byId("send") && running) byId("stop").focus();
  if (focused === byId("stop") && !running) byId("send").focus();
  byId("system").value = state.current.system;
  byId("title").textContent = state.current.title || "New conversation";
  document.title = state.current.title ? `${state.current.title} - Linnet` : "Linnet";
}

function welcome() {
  const suggestions = ["What is 17 + 25?", "Tell me about yourself.", "What is the capital of Canada?"].map((text) =>
    action(text, () => {
      send(text);
      byId("message").focus();
    }));
  return h("div", { class: "welcome" }, h("img", { src: "/web/linnet.svg", alt: "", width: 56, height: 56 }), h("p", {}, "This model runs on your own machine. Ask it something, and look at how it decides."), h("div", { class: "suggestions" }, ...suggestions));
}

function persist(conversation = state.current) {
  if (!isThere) return; // which was said when the page was opened
  const kept = save(conversation);
  if (kept === "not") trouble("This browser has no room left for your conversations: export them, and delete some.");
  else if (kept === "without tokens") trouble("This browser's room is nearly full: the candidates of tokens are no longer kept.");
}

// ---- conversations
function select(conversation) {
  state.current = conversation;
  closeMenu();
  showList();
  showThread();
  showActivity(sight);
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
  stop(conversation);
  state.conversations.splice(at, 1);
  const undo = action("Undo", () => {
    state.conversations.splice(at, 0, conversation);
    notice("");
    persist(conversation);
    select(conversation);
  });
  forget(conversation);
  if (state.current === conversation) begin();
  showList();
  notice(`Deleted "${conversation.title}".`, undo);
}

/** Another window has changed a conversation, or deleted it (null). */
function changedElsewhere(id, conversation) {
  const at = state.conversations.findIndex((mine) => mine.id === id);
  const mine = state.conversations[at];
  if (mine && runningIn(mine)) {
    mine.nodes = { ...conversation?.nodes, ...mine.nodes };
    return; // it is stored again when the answer ends
  }
  if (mine) state.conversations.splice(at, 1);
  if (conversation) state.conversations.push(conversation);
  if (mine && mine === state.current) {
    if (conversation) select(conversation);
    else begin();
  }
  showList();
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
    fresh.forEach(persist);
    notice(`Imported ${fresh.length} of ${imported.length} conversations${fresh.length < imported.length ? "; the others are here already" : ""}.`);
    if (fresh.length) select(fresh.at(-1));
  } catch (error) {
    trouble(`${file.name} was not imported: ${error.message}.`);
  }
}

// ---- answers
function send(text) {
  if (!text.trim() || runningIn(state.current)) return;
  ask(add(state.current, state.current.leaf, "user", text));
}

/** A new answer to a message of the user; begun: tokens of an earlier one that it goes on from. */
function ask(question, begun = []) {
  notice("");
  return answer(state.current, question, begun, asked(), seen);
}

const sight = () => ({ conversation: state.current, model: chosen() });

let drawing = null;

const seen = {
  began: (conversation) => {
    persist(conversation);
    showList();
    showThread();
    scrollToEnd();
    follow(sight);
  },
  grew: (conversation, node) => {
    if (conversation !== state.current) return;
    drawing ??= setTimeout(() => draw(node), Math.min(400, 30 + node.content.length / 100));
  },
  ended: (conversation, node) => {
    if (state.conversations.includes(conversation)) persist(conversation);
    showList();
    if (conversation === state.current) showThread();
    if (!node.error) say(node.reason === "stopped" ? "The answer was stopped." : "The answer is complete.");
    follow(sight);
    if (!node.error) learnMore();
  },
};

/** What has come of an answer that runs, where it is looked at. */
function draw(node) {
  drawing = null;
  const article = byId("thread").querySelector(`[data-id="${node.id}"]`);
  const body = article?.querySelector(".waiting");
  if (!body) return;
  article.querySelector(".who").textContent = nameOf(node);
  const { scrollHeight, scrollTop, clientHeight } = byId("thread");
  fill(body, node, false, acts);
  if (scrollHeight - scrollTop - clientHeight < 120) scrollToEnd(); // whoever reads further up stays there
}

function scrollToEnd() {
  byId("thread").scrollTop = byId("thread").scrollHeight;
}

const questionOf = (node) => state.current.nodes[node.parent];

const acts = {
  edit: (node, text) => ask(add(state.current, node.parent, "user", text)),
  regenerate: (node) => ask(questionOf(node)),
  retry: (node) => {
    const [question, begun] = [questionOf(node), node.tokens.slice(0, node.begun)];
    if (node.tokens.length === begun.length) remove(state.current, node); // nothing is lost with it
    ask(question, begun);
  },
  goOn: (node) => ask(questionOf(node), node.tokens),
  branch: (node, index, candidate) => ask(questionOf(node), [...node.tokens.slice(0, index), { ...candidate, top: node.tokens[index].top }]),
  go: (node) => {
    goTo(state.current, node);
    persist();
    showThread();
  },
  redraw: showThread,
  openAccess,
};

// ---- what the user does
function closeMenu() {
  byId("sidebar").classList.remove("open");
  byId("menu").setAttribute("aria-expanded", "false");
}

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
  write("linnet.theme", theme);
  const name = { light: "Light", dark: "Dark" }[theme] ?? "Auto";
  byId("theme").textContent = name;
  byId("theme").setAttribute("aria-label", `Theme: ${name}`);
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, 240)}px`;
}

/** Ends the answer that runs; where none does, closes what lies over the conversation. */
function escape() {
  if (runningIn(state.current)) stop(state.current);
  else if (byId("sidebar").classList.contains("open")) closeMenu();
  else if (!byId("panel").hidden) byId("settings").click();
}

function wire() {
  const message = byId("message");
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (runningIn(state.current) || !message.value.trim()) return;
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
    } else if (event.key === "Escape") escape();
  });
  byId("stop").addEventListener("click", () => stop(state.current));
  byId("new").addEventListener("click", begin);
  byId("export").addEventListener("click", exportAll);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", (event) => {
    if (event.target.files.length) importFile(event.target.files[0]);
    event.target.value = "";
  });
  byId("theme").addEventListener("click", nextTheme);
  byId("view").addEventListener("click", toggleTokens);
  byId("settings").addEventListener("click", () => {
    byId("panel").hidden = !byId("panel").hidden;
    byId("settings").setAttribute("aria-expanded", String(!byId("panel").hidden));
  });
  byId("thread").addEventListener("click", closeMenu);
  byId("menu").addEventListener("click", () => byId("menu").setAttribute("aria-expanded", String(byId("sidebar").classList.toggle("open"))));
  byId("model").addEventListener("change", () => {
    notice("");
    learn();
  });
  byId("system").addEventListener("change", (event) => {
    state.current.system = event.target.value;
    persist();
  });
  byId("access").addEventListener("submit", (event) => event.preventDefault());
  byId("key").addEventListener("change", (event) => {
    const key = event.target.value.trim();
    if (/[^\x21-\x7e]/.test(key)) {
      trouble("This is no key: keys have printable ASCII characters and no spaces.");
      return;
    }
    setKey(key);
    notice("");
    connect();
  });
}

addEventListener("pagehide", () => allRunning().forEach(({ conversation }) => persist(conversation))); // with what has come
watch(changedElsewhere);
setTheme(read("linnet.theme") ?? "");
wire();
showSampling(null);
if (state.conversations.length) select([...state.conversations].sort((a, b) => b.created - a.created)[0]);
else begin();
connect();
if (!isThere) trouble("This browser keeps nothing for this page: export what you want to have after it is closed.");
if (stored.broken) trouble("Some of what this browser has stored could not be read. It was put aside, not thrown away.");
asked().then(() => showMemory(sight));
