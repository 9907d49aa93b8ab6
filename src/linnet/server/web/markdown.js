// The markdown that models write, as elements. Nothing in it is ever read as HTML, and links go only to http and https.
import { copyButton, h } from "./dom.js";

/** A fragment of block elements. */
export function render(text) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const out = document.createDocumentFragment();
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const fence = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
    if (fence) {
      const code = [];
      for (i++; i < lines.length && !lines[i].trim().startsWith(fence[1]); i++) code.push(lines[i]);
      i++;
      out.append(codeBlock(code.join("\n"), fence[2]));
    } else if (/^ {0,3}#{1,6}\s/.test(line)) {
      const level = Math.min(6, line.trim().indexOf(" ") + 2);
      out.append(h(`h${level}`, {}, ...inline(line.trim().replace(/^#+\s+/, "").replace(/(?<!\s)\s+#+$/, ""))));
      i++;
    } else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) {
      out.append(h("hr"));
      i++;
    } else if (/^ {0,3}>/.test(line)) {
      const quoted = [];
      for (; i < lines.length && /^ {0,3}>/.test(lines[i]); i++) quoted.push(lines[i].replace(/^ {0,3}> ?/, ""));
      out.append(h("blockquote", {}, render(quoted.join("\n"))));
    } else if (ITEM.test(line)) {
      i = list(lines, i, out);
    } else if (line.includes("|") && isRule(lines[i + 1] ?? "")) {
      i = table(lines, i, out);
    } else if (line.trim()) {
      const paragraph = [];
      for (; i < lines.length && lines[i].trim() && (!paragraph.length || !STARTS.test(lines[i])); i++) paragraph.push(lines[i]);
      out.append(h("p", {}, ...inline(paragraph.join("\n"))));
    } else {
      i++;
    }
  }
  return out;
}

const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+/;
const STARTS = /^ {0,3}(```|~~~|#{1,6}\s|>)|^ *([-*+]|\d{1,9}[.)])\s+/;

function list(lines, start, out) {
  const [, indent, marker] = ITEM.exec(lines[start]);
  const ordered = /\d/.test(marker);
  const element = h(ordered ? "ol" : "ul", ordered ? { start: parseInt(marker, 10) } : {});
  let i = start;
  while (i < lines.length) {
    const item = ITEM.exec(lines[i]);
    if (!item || item[1].length !== indent.length || /\d/.test(item[2]) !== ordered) break;
    const content = [lines[i].slice(item[0].length)];
    const depth = indent.length + 2;
    for (i++; i < lines.length && (lines[i].search(/\S/) >= depth || (!lines[i].trim() && (lines[i + 1] ?? "").search(/\S/) >= depth)); i++)
      content.push(lines[i].slice(depth));
    const body = render(content.join("\n"));
    const only = body.childNodes.length && body.firstChild.nodeName === "P" ? body.firstChild : null;
    if (only) only.replaceWith(...only.childNodes); // items are not paragraphs of their own
    element.append(h("li", {}, body));
  }
  out.append(element);
  return i;
}

/** What stands between the head and the body of a table: dashes, and a bar after one. */
const isRule = (line) => /^[ :|-]+$/.test(line) && line.includes("-") && line.lastIndexOf("|") > line.indexOf("-");

function table(lines, start, out) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, tag) => h("tr", {}, ...cells(line).map((cell) => h(tag, {}, ...inline(cell))));
  const body = h("tbody");
  let i = start + 2;
  for (; i < lines.length && lines[i].includes("|"); i++) body.append(row(lines[i], "td"));
  out.append(h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("thead", {}, row(lines[start], "th")), body)));
  return i;
}

function codeBlock(code, language) {
  const copy = copyButton(() => code, { class: "copy", "aria-label": "Copy the code" });
  return h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language || "text"), copy), h("pre", { tabindex: "0" }, h("code", {}, code)));
}

// Longest first: code wins over everything, ** over *. No pattern can backtrack far: each stops at its own end or at the line's.
const INLINE = /(?<!`)(`+)(?!`)([^`]+)\1(?!`)|\*\*([^*\n]+)\*\*|__([^_\n]+)__|\*([^*\s][^*\n]*)\*|\b_([^_\s][^_\n]*)_\b|~~([^~\n]+)~~|\[([^\]\n]{1,500})\]\((https?:\/\/[^\s)]{1,2000})\)|(https?:\/\/[^\s<>()"']{1,2000})/g;

function inline(text) {
  const out = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    out.push(text.slice(last, match.index));
    last = match.index + match[0].length;
    const [, , code, strong, strongToo, em, emToo, struck, label, url, bare] = match;
    if (code !== undefined) out.push(h("code", {}, code));
    else if (strong ?? strongToo) out.push(h("strong", {}, ...inline(strong ?? strongToo)));
    else if (em ?? emToo) out.push(h("em", {}, ...inline(em ?? emToo)));
    else if (struck) out.push(h("s", {}, struck));
    else out.push(h("a", { href: url ?? bare, rel: "noopener noreferrer", target: "_blank" }, label ?? bare));
  }
  out.push(text.slice(last));
  return out.filter((part) => part !== "");
}
