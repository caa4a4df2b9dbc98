// Small helpers: elements, storage, the job's key, requests.
"use strict";

const $ = (id) => document.getElementById(id);

// element("button", {className: "x", onclick: f}, child, "text")
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const store = {
  get(name, fallback) {
    try {
      const text = localStorage.getItem("sluice." + name);
      return text === null ? fallback : JSON.parse(text);
    } catch { return fallback; }
  },
  set(name, value) {
    try { localStorage.setItem("sluice." + name, JSON.stringify(value)); }
    catch { setStatus("this browser's storage is full; export and delete conversations", "bad"); }
  },
};

function setStatus(text, kind = "") {
  const status = $("status");
  if (status.textContent !== text) status.textContent = text;
  status.className = "status " + kind;
}

// The key comes in the fragment (#key=...), which no browser sends anywhere, or is asked for once per tab.
const key = {
  value: sessionStorage.getItem("sluice.key") || "",
  take() {
    const found = /[#&]key=([0-9A-Za-z_-]+)/.exec(location.hash);
    if (!found) return;
    this.use(found[1]);
    history.replaceState(null, "", location.pathname + location.search);
  },
  use(value) {
    this.value = value.trim();
    sessionStorage.setItem("sluice.key", this.value);
    this.changed();
  },
  changed: () => {},
  asking: null,
  ask() {
    if (this.asking) return this.asking;
    const dialog = $("key-dialog");
    $("key-input").value = this.value;
    dialog.returnValue = "cancel";
    dialog.showModal();
    this.asking = new Promise((resolve) => {
      dialog.onclose = () => {
        this.asking = null;
        const given = dialog.returnValue === "ok" && $("key-input").value.trim() !== "";
        if (given) this.use($("key-input").value);
        resolve(given);
      };
    });
    return this.asking;
  },
};

class ServerError extends Error {}

// An answer of this server, or of the one at `base`; a missing key is asked for, other refusals are thrown in words.
async function request(path, {body, signal, base = "", token = null, quiet = false} = {}) {
  for (let attempt = 0; ; ++attempt) {
    const headers = {};
    const bearer = token === null ? key.value : token;
    if (bearer) headers.Authorization = "Bearer " + bearer;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const options = {method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store"};
    if (body !== undefined) options.body = JSON.stringify(body);
    const answer = await fetch(base + path, options);
    if (answer.ok) return answer;
    if (answer.status === 401 && token === null && !quiet && attempt < 3 && await key.ask()) continue;
    let words = await answer.text();
    try {
      const json = JSON.parse(words);
      words = json.error?.message ?? json.error ?? json.message ?? words;
    } catch { /* plain text */ }
    const error = new ServerError(typeof words === "string" && words ? words : "the server answers " + answer.status);
    error.status = answer.status;
    throw error;
  }
}

// Events of a text/event-stream body, as parsed JSON, until [DONE].
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.search(/\r?\n\r?\n/)) >= 0) {
      const block = buffer.slice(0, end);
      buffer = buffer.slice(end).replace(/^\r?\n\r?\n/, "");
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length === 0) continue;
      if (data[0] === "[DONE]") return;
      yield JSON.parse(data.join("\n"));
    }
  }
}
