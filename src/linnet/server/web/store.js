// Conversations, kept in this browser. Each is a tree of messages: to edit or to regenerate begins a branch.
import { erase, names, read, write } from "./storage.js";

const PREFIX = "linnet.conversation.";
const VERSION = 1;
const ROLES = ["user", "assistant"];

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export const newConversation = () => ({ id: newId(), title: "", created: Date.now(), system: "", nodes: {}, leaf: null });

/** What is stored; `broken`: how many could not be read, and were put aside, not thrown away. */
export function load() {
  const found = { conversations: [], broken: 0 };
  for (const key of names().filter((key) => key.startsWith(PREFIX))) {
    const text = read(key);
    try {
      found.conversations.push(stored(text));
    } catch {
      if (write(`linnet.unreadable.${Date.now()}.${key.slice(PREFIX.length)}`, text)) erase(key);
      found.broken++;
    }
  }
  return found;
}

function stored(text) {
  const [conversation] = parse(text);
  for (const node of Object.values(conversation.nodes)) {
    if (node.role === "assistant" && !node.reason && !node.error) node.error = "The page was closed before the answer was complete.";
  }
  return conversation;
}

/** Whether it could be stored, and with each token's candidates or without. */
export function save(conversation) {
  const name = PREFIX + conversation.id;
  if (write(name, serialize([conversation]))) return "whole";
  return write(name, serialize([withoutTokens(conversation)])) ? "without tokens" : "not";
}

export const forget = (conversation) => erase(PREFIX + conversation.id);

/** Calls changed(id, conversation or null) when another window stores a conversation or deletes it. */
export function watch(changed) {
  addEventListener("storage", ({ key, newValue }) => {
    if (!key?.startsWith(PREFIX)) return;
    try {
      changed(key.slice(PREFIX.length), newValue === null ? null : parse(newValue)[0]);
    } catch {
      // not readable: said when the page is opened again
    }
  });
}

export const serialize = (conversations) => JSON.stringify({ format: "linnet conversations", version: VERSION, conversations });

/** Conversations out of a text. Throws an Error that says what is wrong with it. */
export function parse(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Error("it is not JSON");
  }
  if (data?.format !== "linnet conversations") throw new Error("it was not exported by this page");
  if (data.version !== VERSION) throw new Error(`it is of version ${data.version}, and this page reads ${VERSION}`);
  if (!Array.isArray(data.conversations)) throw new Error("it holds no list of conversations");
  return data.conversations.map(checked);
}

function checked(conversation) {
  const wrong = () => new Error("one of its conversations is damaged");
  const { id, title, created, system, nodes, leaf } = conversation ?? {};
  if (![id, title, system].every((value) => typeof value === "string") || typeof created !== "number" || typeof nodes !== "object") throw wrong();
  const clean = Object.create(null);
  for (const [name, node] of Object.entries(nodes)) {
    if (typeof node?.content !== "string" || !ROLES.includes(node.role) || node.id !== name) throw wrong();
    if (node.parent !== null && !Object.hasOwn(nodes, node.parent)) throw wrong();
    clean[name] = { ...node, tokens: node.tokens ?? [] };
    if (!["speed", "count", "at", "begun", "status"].every((key) => ["number", "undefined"].includes(typeof (node[key] ?? undefined)))) throw wrong();
    if (!["model", "error", "reason"].every((key) => ["string", "undefined"].includes(typeof (node[key] ?? undefined)))) throw wrong();
    if (!Array.isArray(clean[name].tokens) || !clean[name].tokens.every((token) => isToken(token) && Array.isArray(token.top) && token.top.every(isToken))) throw wrong();
  }
  if (leaf !== null && !Object.hasOwn(nodes, leaf)) throw wrong();
  for (const name of Object.keys(clean)) path({ nodes: clean, leaf: name }); // throws where parents go round
  return { id, title, created, system, nodes: { ...clean }, leaf };
}

const isToken = (token) => Number.isInteger(token?.id) && typeof token.text === "string" && typeof token.logprob === "number";

const withoutTokens = (conversation) => ({
  ...conversation,
  nodes: Object.fromEntries(Object.entries(conversation.nodes).map(([id, node]) => [id, { ...node, tokens: [] }])),
});

/** The messages from the first to the leaf. */
export function path({ nodes, leaf }) {
  const found = [];
  for (let id = leaf; id !== null; id = nodes[id].parent) {
    found.unshift(nodes[id]);
    if (found.length > Object.keys(nodes).length) throw new Error("one of its conversations is damaged");
  }
  return found;
}

export function add(conversation, parent, role, content) {
  const node = { id: newId(), parent, role, content, tokens: [], at: Date.now() };
  conversation.nodes[node.id] = node;
  conversation.leaf = node.id;
  if (!conversation.title && role === "user") conversation.title = content.trim().slice(0, 60);
  return node;
}

/** Takes a message out, unless others follow it. */
export function remove(conversation, node) {
  if (Object.values(conversation.nodes).some((other) => other.parent === node.id)) return;
  delete conversation.nodes[node.id];
  if (conversation.leaf === node.id) conversation.leaf = node.parent;
}

/** The messages that stand at the same place, oldest first. */
export const siblings = (conversation, node) =>
  Object.values(conversation.nodes)
    .filter((other) => other.parent === node.parent && other.role === node.role)
    .sort((a, b) => a.at - b.at);

/** Goes to a branch: to its latest message. */
export function goTo(conversation, node) {
  let id = node.id;
  for (;;) {
    const children = Object.values(conversation.nodes).filter((other) => other.parent === id);
    if (!children.length) break;
    id = children.sort((a, b) => b.at - a.at)[0].id;
  }
  conversation.leaf = id;
}
