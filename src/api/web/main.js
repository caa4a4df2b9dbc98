// Tabs, theme, keys, start.

function chooseTab(name) {
  for (const tab of ["chat", "compare"]) {
    const on = tab === name;
    $("tab-" + tab).setAttribute("aria-selected", String(on));
    $("tab-" + tab).tabIndex = on ? 0 : -1;
    $("view-" + tab).hidden = !on;
  }
  $("own-parameters").hidden = name !== "chat"; // a side has its own
  store.set("tab", name);
  $(name === "chat" ? "input" : "compare-input").focus();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

function fold(button, target, wide, opened = () => {}) {
  const narrow = matchMedia(`(max-width: ${wide})`);
  const set = (open) => {
    $(target).hidden = !open;
    $(button).setAttribute("aria-expanded", String(open));
    if (open) opened();
  };
  $(button).onclick = () => set($(target).hidden);
  narrow.addEventListener("change", () => set(!narrow.matches));
  set(!narrow.matches);
}

async function showModel() {
  try {
    const models = await (await request("/v1/models")).json();
    $("model").textContent = models.data[0].id;
    document.title = models.data[0].id + " on Sluice";
  } catch { setTimeout(showModel, 3000); }
}

key.take();
const dark = matchMedia("(prefers-color-scheme: dark)");
setTheme(store.get("theme", dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (store.get("theme", null) === null) setTheme(dark.matches ? "dark" : "light"); });
$("theme").onclick = () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  store.set("theme", next);
  setTheme(next);
};
$("key").onclick = () => key.ask();
key.changed = () => panel.poll();
$("key-cancel").onclick = () => $("key-dialog").close("cancel"); // no submit button: Enter means Use
$("tab-chat").onclick = () => chooseTab("chat");
$("tab-compare").onclick = () => chooseTab("compare");
for (const tab of ["tab-chat", "tab-compare"]) {
  $(tab).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tab === "tab-chat" ? "compare" : "chat";
    chooseTab(other);
    $("tab-" + other).focus();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("key-dialog").open) { chat.stop(); compare.abort?.abort(); }
  if (event.altKey && event.key.toLowerCase() === "n") { event.preventDefault(); chooseTab("chat"); chat.fresh(); }
});
// A phone has no room for the keys, and no keys.
const phone = matchMedia("(max-width: 46em)");
const keys = $("input").placeholder;
const hint = () => { $("input").placeholder = phone.matches ? "Message" : keys; };
phone.addEventListener("change", hint);
hint();
fold("menu", "sidebar", "46em");
fold("aside", "panel", "60em", () => panel.poll());
document.addEventListener("visibilitychange", () => { if (!document.hidden) panel.poll(); });
chat.begin();
compare.begin();
chooseTab(store.get("tab", "chat"));
showModel();
panel.poll();
