// Markdown as models write it, into elements. Text only ever becomes text nodes, so nothing in an answer can act.

function inlineMarkdown(text) {
  const out = [];
  const pattern = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([^\s*](?:[\s\S]*?[^\s*])?)\*\*|\*([^\s*](?:[^*]*[^\s*])?)\*|~~([^~]+)~~|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>"')\]]+)/g;
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index > at) out.push(text.slice(at, found.index));
    at = found.index + found[0].length;
    if (found[2] !== undefined) out.push(element("code", {}, found[2].trim() || found[2]));
    else if (found[3] !== undefined) out.push(element("strong", {}, ...inlineMarkdown(found[3])));
    else if (found[4] !== undefined) out.push(element("em", {}, ...inlineMarkdown(found[4])));
    else if (found[5] !== undefined) out.push(element("del", {}, ...inlineMarkdown(found[5])));
    else {
      const address = found[7] ?? found[8];
      out.push(element("a", {href: address, target: "_blank", rel: "noopener noreferrer"}, found[6] ?? address));
    }
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}

function codeBlock(language, text) {
  const copy = element("button", {type: "button"}, "Copy");
  copy.onclick = () => copyText(text, copy);
  return element("div", {className: "code"},
    element("div", {className: "bar"}, element("span", {}, language || "text"), copy),
    element("pre", {tabIndex: 0}, element("code", {}, text)));
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // plain http: no clipboard interface
    const area = element("textarea", {value: text});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1200);
}

const kListItem = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

// Lines of one list, nested by indentation; returns the element and the next line.
function listMarkdown(lines, at) {
  const [, indent, mark] = kListItem.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const list = element(ordered ? "ol" : "ul");
  if (ordered && parseInt(mark) !== 1) list.start = parseInt(mark);
  while (at < lines.length) {
    const found = kListItem.exec(lines[at]);
    if (!found || found[1].length < indent.length || (found[1].length === indent.length && /\d/.test(found[2]) !== ordered)) break;
    if (found[1].length > indent.length + 1 && list.lastChild) {
      const [inner, next] = listMarkdown(lines, at);
      list.lastChild.append(inner);
      at = next;
      continue;
    }
    const text = [found[3]];
    for (++at; at < lines.length && lines[at].trim() && !kListItem.test(lines[at]) && /^\s/.test(lines[at]); ++at) text.push(lines[at].trim());
    list.append(element("li", {}, ...inlineMarkdown(text.join(" "))));
    if (at + 1 < lines.length && !lines[at]?.trim() && kListItem.test(lines[at + 1])) ++at;
  }
  return [list, at];
}

function tableMarkdown(lines, at) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
  const row = (line, tag) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, ...inlineMarkdown(cell))));
  const body = element("tbody");
  const table = element("table", {}, element("thead", {}, row(lines[at], "th")), body);
  for (at += 2; at < lines.length && lines[at].includes("|") && lines[at].trim(); ++at) body.append(row(lines[at], "td"));
  return [table, at];
}

function markdown(text) {
  const lines = text.split("\n");
  const out = document.createDocumentFragment();
  let at = 0;
  const special = (line, next) => /^\s{0,3}(```|~~~|#{1,6}\s|>|([-*_])(\s*\2){2,}\s*$)/.test(line) || kListItem.test(line) ||
    (line.includes("|") && next !== undefined && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(next) && next.includes("-"));
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) { ++at; continue; }
    const fence = /^\s{0,3}(```+|~~~+)\s*([^\s`]*)/.exec(line);
    if (fence) {
      const body = [];
      for (++at; at < lines.length && !lines[at].trim().startsWith(fence[1]); ++at) body.push(lines[at]);
      ++at;
      out.append(codeBlock(fence[2], body.join("\n")));
      continue;
    }
    const heading = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    if (heading) {
      out.append(element("h" + Math.min(6, heading[1].length + 2), {}, ...inlineMarkdown(heading[2])));
      ++at;
      continue;
    }
    if (/^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) { out.append(element("hr")); ++at; continue; }
    if (/^\s{0,3}>/.test(line)) {
      const body = [];
      for (; at < lines.length && /^\s{0,3}>/.test(lines[at]); ++at) body.push(lines[at].replace(/^\s{0,3}>\s?/, ""));
      const quote = element("blockquote");
      quote.append(markdown(body.join("\n")));
      out.append(quote);
      continue;
    }
    if (kListItem.test(line)) {
      const [list, next] = listMarkdown(lines, at);
      out.append(list);
      at = next;
      continue;
    }
    if (special(line, lines[at + 1])) {
      const [table, next] = tableMarkdown(lines, at);
      out.append(table);
      at = next;
      continue;
    }
    const paragraph = [line];
    for (++at; at < lines.length && lines[at].trim() && !special(lines[at], lines[at + 1]); ++at) paragraph.push(lines[at]);
    const node = element("p");
    paragraph.forEach((part, i) => node.append(...inlineMarkdown(part.trim()), ...(i + 1 < paragraph.length ? [element("br")] : [])));
    out.append(node);
  }
  return out;
}
