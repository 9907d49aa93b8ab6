// The tokens of an answer: coloured by how likely each was; one that is chosen shows what else might have come there.
import { h } from "./dom.js";

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share >= 10 ? `${share.toFixed(0)} %` : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};

/** A token's text, with what cannot be seen made visible. */
export const visible = (text) => (text === "" ? "(end)" : text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5").replace(/^ +| +$/g, (s) => "\u00b7".repeat(s.length)));

/** The same among others, where a space is seen as one. */
const inText = (text) => (text === "" ? "(end)" : text.replaceAll("\n", "\u21b5"));

/** Ten shades: p9 of what was certain, p0 of what was all but impossible. */
const shade = (logprob) => `p${Math.max(0, Math.min(9, Math.floor(10 * Math.exp(logprob))))}`;

/** tokens: as the server reports them. onBranch(index, candidate): the answer is to go on from another token there. */
export function tokenView(tokens, onBranch) {
  const card = h("div", { class: "card", role: "group", "aria-label": "What else might have come" });
  const text = h("div", { class: "tokens" });
  const buttons = tokens.map((token, index) => {
    const button = h("button", { type: "button", class: `token ${shade(token.logprob)}`, "aria-expanded": "false", title: percent(token.logprob) }, inText(token.text));
    button.addEventListener("click", () => choose(index));
    return button;
  });
  buttons.forEach((button, index) => {
    text.append(button);
    if (tokens[index].text.includes("\n")) text.append(h("br"));
  });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(buttons.length - 1, at + step));
    buttons[next].focus();
    if (card.isConnected && next !== at) choose(next); // the card follows
  });
  text.addEventListener("focusin", (event) => stopAt(buttons.indexOf(event.target)));
  stopAt(0);

  /** Tab stops at one of them; arrows go to the others. */
  function stopAt(index) {
    buttons.forEach((button, i) => (button.tabIndex = i === index ? 0 : -1));
  }

  function choose(index) {
    const open = buttons[index].getAttribute("aria-expanded") === "true";
    buttons.forEach((button) => button.setAttribute("aria-expanded", "false"));
    card.remove();
    if (open) return;
    let last = index; // of the line, under which the card belongs
    while (buttons[last + 1]?.offsetTop === buttons[index].offsetTop) last++;
    buttons[last].after(card);
    buttons[index].setAttribute("aria-expanded", "true");
    card.replaceChildren(h("p", {}, `Token ${index + 1} of ${tokens.length}, ${percent(tokens[index].logprob)}:`), candidates(tokens[index], index));
    card.scrollIntoView({ block: "nearest" });
  }

  function candidates(token, index) {
    const others = token.top.some((candidate) => candidate.id === token.id) ? token.top : [...token.top, token];
    return h("ul", { class: "candidates" }, ...others.map((candidate) => {
      const came = candidate.id === token.id;
      const bar = h("meter", { min: 0, max: 1, value: Math.exp(candidate.logprob), "aria-hidden": "true" });
      const label = [h("span", { class: "piece" }, visible(candidate.text)), bar, h("span", { class: "share" }, percent(candidate.logprob))];
      if (came) return h("li", { class: "came", "aria-current": "true" }, ...label);
      const go = h("button", { type: "button", class: "branch", title: "Go on from this token" }, ...label);
      go.addEventListener("click", () => onBranch(index, candidate));
      return h("li", {}, go);
    }));
  }

  return text;
}
