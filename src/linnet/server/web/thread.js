// The messages of a conversation, as they are seen.
import { action, copyButton, h } from "./dom.js";
import { render } from "./markdown.js";
import { siblings } from "./store.js";
import { tokenView } from "./tokens.js";

const LONGEST_RENDERED = 200_000;
/** Characters past which an answer is shown as plain text: markdown would hold the page up. */

const LONGEST_UNSCROLLED = 1000;
/** Characters past which a message of the user may scroll, which the keyboard must reach. */

/** acts: edit(node, text), regenerate(node), retry(node), goOn(node), branch(node, index, candidate), go(node), redraw(), openAccess(). */
export function messageElement(conversation, node, { busy, tokens }, acts) {
  const mine = node.role === "user";
  const article = h("article", { class: `message ${node.role}`, "data-id": node.id, "aria-label": mine ? "You" : "Model" });
  const body = h("div", { class: busy ? "body waiting" : "body", dir: "auto", tabindex: mine && node.content.length > LONGEST_UNSCROLLED ? "0" : null });
  fill(body, node, tokens && !busy, acts);
  article.append(h("h2", { class: "who" }, nameOf(node)), body);
  if (node.error) article.append(failed(node, acts));
  article.append(busy ? h("p", { class: "live" }) : footer(conversation, node, article, body, acts));
  return article;
}

export const nameOf = (node) => (node.role === "user" ? "You" : node.model ?? "Model");

export function fill(body, node, asTokens, acts) {
  if (node.role === "user" || node.content.length > LONGEST_RENDERED) {
    body.replaceChildren(h("p", { class: "plain" }, node.content));
  } else if (asTokens && node.tokens.length) {
    body.replaceChildren(tokenView(node.tokens, (index, candidate) => acts.branch(node, index, candidate)));
  } else {
    body.replaceChildren(render(node.content));
  }
}

function failed(node, acts) {
  const some = node.tokens.length > (node.begun ?? 0);
  const actions = [action("Try again", () => acts.retry(node))];
  if (some) actions.push(action("Go on from here", () => acts.goOn(node)));
  if (node.status === 401) actions.push(action("Give the key", acts.openAccess));
  const said = /[.!?]$/.test(node.error) ? node.error : `${node.error}.`;
  return h("div", { class: "failed", role: "alert" }, h("p", {}, some ? `${said} What had come is kept.` : said), ...actions);
}

function footer(conversation, node, article, body, acts) {
  const all = siblings(conversation, node);
  const at = all.indexOf(node);
  const bar = h("footer", {});
  if (all.length > 1) {
    const step = (to, label, sign) => action(sign, () => acts.go(all[to]), { "aria-label": label, disabled: !all[to] });
    bar.append(h("span", { class: "branches" }, step(at - 1, "Previous version", "\u2039"), `${at + 1} / ${all.length}`, step(at + 1, "Next version", "\u203a")));
  }
  bar.append(copyButton(() => node.content));
  if (node.role === "user") bar.append(action("Edit", () => edit(node, article, body, acts)));
  else bar.append(action("Regenerate", () => acts.regenerate(node)));
  const cut = { length: "cut at its longest", stopped: "stopped" }[node.reason];
  if (cut && node.tokens.length) bar.append(action("Go on", () => acts.goOn(node)));
  const told = [node.speed && `${node.count} tokens, ${node.speed.toFixed(1)} a second`, cut].filter(Boolean);
  if (told.length) bar.append(h("span", { class: "speed" }, told.join(", ")));
  return bar;
}

function edit(node, article, body, acts) {
  const area = h("textarea", { rows: Math.min(12, node.content.split("\n").length + 1), "aria-label": "Edit the message" });
  area.value = node.content;
  const cancel = action("Cancel", () => {
    form.remove();
    acts.redraw();
  });
  const send = h("button", { type: "submit", class: "primary" }, "Send");
  const form = h("form", { class: "edit" }, area, h("div", { class: "row" }, send, cancel));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim()) acts.edit(node, area.value);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation(); // it ends no answer
      cancel.click();
    }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  body.replaceChildren(form);
  article.querySelector("footer").remove();
  area.focus();
}
