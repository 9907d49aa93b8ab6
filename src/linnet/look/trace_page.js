"use strict";
// The page works without this: a token is a link to itself, and its card shows while it is what the address points at. With it,
// nothing scrolls on a click, a card shows for whatever has the focus, and arrow keys go from token to token.
const tokens = [...document.querySelectorAll("a.token")];
let open = null;

function show(token) {
  open?.classList.remove("open");
  open?.removeAttribute("aria-current");
  open = token;
  open?.classList.add("open");
  open?.setAttribute("aria-current", "true");
}

addEventListener("click", (event) => {
  const token = event.target.closest("a.token");
  if (!token) return;
  event.preventDefault();
  token.focus({ preventScroll: true });
  show(token);
});

addEventListener("focusin", (event) => {
  if (event.target.matches("a.token")) show(event.target);
});

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.key === "Escape") {
    document.activeElement.blur();
    show(null);
  }
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const next = open ? tokens[tokens.indexOf(open) + step] : tokens.at(step > 0 ? 0 : -1);
  if (!step || !next) return;
  event.preventDefault();
  next.focus();
});

document.documentElement.classList.add("scripted");
show(tokens.find((token) => token.hash === location.hash) ?? null);
