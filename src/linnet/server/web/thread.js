// The messages of a conversation, as they are seen.
import { h } from "./dom.js";
import { render } from "./markdown.js";
import { siblings } from "./store.js";
import { tokenView } from "./tokens.js";

const LONGEST_RENDERED = 200_000;
/** Characters past which an answer is shown as plain text: markdown would hold the page up. */

/** acts: edit(node, text), regenerate(node), retry(node), branch(node, index, candidate), go(node). */
export function messageElement(conversation, node, { busy, tokens }, acts) {
  const mine = node.role === "user";
  const article = h("article", { class: `message ${node.role}`, "data-id": node.id, "aria-label": mine ? "You" : "Model" });
  const body = h("div", { class: busy ? "body waiting" : "body" });
  fill(body, node, tokens && !busy, acts);
  article.append(h("h2", { class: "who" }, mine ? "You" : "Model"), body);
  if (node.error) article.append(failed(node, acts));
  if (!busy) article.append(footer(conversation, node, article, body, acts));
  return article;
}

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
  const retry = h("button", { type: "button" }, "Try again");
  retry.addEventListener("click", () => acts.retry(node));
  return h("div", { class: "failed", role: "alert" }, h("p", {}, node.error), retry);
}

function footer(conversation, node, article, body, acts) {
  const all = siblings(conversation, node);
  const at = all.indexOf(node);
  const bar = h("footer", {});
  if (all.length > 1) {
    const step = (to, label, sign) => {
      const button = h("button", { type: "button", "aria-label": label, disabled: !all[to] }, sign);
      button.addEventListener("click", () => acts.go(all[to]));
      return button;
    };
    bar.append(h("span", { class: "branches" }, step(at - 1, "Previous version", "\u2039"), `${at + 1} / ${all.length}`, step(at + 1, "Next version", "\u203a")));
  }
  bar.append(action("Copy", () => navigator.clipboard.writeText(node.content)));
  if (node.role === "user") bar.append(action("Edit", () => edit(node, article, body, acts)));
  else bar.append(action("Regenerate", () => acts.regenerate(node)));
  if (node.speed) bar.append(h("span", { class: "speed" }, `${node.count} tokens, ${node.speed.toFixed(1)} a second${node.reason === "length" ? ", cut at the longest answer" : ""}`));
  return bar;
}

function action(label, act) {
  const button = h("button", { type: "button" }, label);
  button.addEventListener("click", act);
  return button;
}

function edit(node, article, body, acts) {
  const area = h("textarea", { rows: Math.min(12, node.content.split("\n").length + 1), "aria-label": "Edit the message" });
  area.value = node.content;
  const cancel = action("Cancel", () => acts.go(node));
  const send = h("button", { type: "submit", class: "primary" }, "Send");
  const form = h("form", { class: "edit" }, area, h("div", { class: "row" }, send, cancel));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim()) acts.edit(node, area.value);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel.click();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  body.replaceChildren(form);
  article.querySelector("footer").remove();
  area.focus();
}
