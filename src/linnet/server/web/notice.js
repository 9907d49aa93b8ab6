// What is said above the message box.
import { action, byId, h } from "./dom.js";

export function notice(text, ...actions) {
  byId("notice").className = "";
  byId("notice").replaceChildren(...(text ? [h("p", {}, text), ...actions] : []));
}

/** The same of what went wrong. */
export function trouble(text, ...actions) {
  notice(text, ...actions);
  byId("notice").className = "failed";
}

/** Says what failed, and offers to try it again. */
export function failed(error, again) {
  const retry = action("Try again", () => {
    notice("");
    again();
  });
  trouble(error.message, retry, ...(error.status === 401 ? [action("Give the key", openAccess)] : []));
}

/** Opens the settings where the key is given. */
export function openAccess() {
  if (byId("panel").hidden) byId("settings").click();
  byId("key").focus();
}
