// Conversations, kept in this browser.

const chat = {
  list: store.get("conversations", []),
  current: null,
  parameters: store.get("parameters", {}),
  abort: null,

  save() { store.set("conversations", this.list.map((c) => ({...c, messages: c.messages.map((m) => ({...m, working: undefined}))}))); },
  open(conversation) {
    this.stop();
    this.current = conversation;
    store.set("current", conversation?.id ?? null);
    this.drawList();
    this.draw();
    $("input").focus();
  },
  fresh() { this.open(null); },
  stop() { this.abort?.abort(); },

  drawList() {
    $("conversations").replaceChildren(...this.list.map((conversation) => {
      const title = element("button", {className: "title", title: conversation.title, onclick: () => this.open(conversation)}, conversation.title);
      if (conversation === this.current) title.setAttribute("aria-current", "true");
      const remove = element("button", {"aria-label": "Delete " + conversation.title, title: "Delete", onclick: () => {
        if (conversation === this.current) this.stop();
        this.list = this.list.filter((other) => other !== conversation);
        this.save();
        conversation === this.current ? this.fresh() : this.drawList();
      }}, "×");
      return element("li", {className: conversation === this.current ? "current" : ""}, title, remove);
    }));
  },

  tools(message, index) {
    if (message.working) return [];
    const button = (label, action) => element("button", {type: "button", onclick: action}, label);
    const copy = button("Copy", () => copyText(message.content, copy));
    if (message.role === "user") return [button("Edit", () => this.edit(index)), copy];
    const last = index === this.current.messages.length - 1;
    return last ? [button("Retry", () => this.answer(index)), copy] : [copy];
  },

  draw() {
    const box = $("messages");
    const messages = this.current?.messages ?? [];
    following(box, () => {
      box.replaceChildren(...(messages.length ? messages.map((m, i) => messageElement(m, this.tools(m, i)))
        : [element("div", {className: "empty"}, element("b", {}, "What would you like to ask?"), element("br"), "Conversations stay in this browser; the server keeps none.")]));
    });
    const busy = this.abort !== null;
    box.setAttribute("aria-busy", String(busy));
    $("stop").hidden = !busy;
    $("send").hidden = busy;
  },

  // While an answer grows only its own element changes.
  drawLast() {
    const box = $("messages"), index = this.current.messages.length - 1;
    following(box, () => box.lastElementChild?.replaceWith(messageElement(this.current.messages[index], this.tools(this.current.messages[index], index))));
  },

  edit(index) {
    const message = this.current.messages[index];
    const area = element("textarea", {value: message.content, "aria-label": "Edit the message"});
    const apply = () => {
      this.current.messages.length = index;
      this.say(area.value);
    };
    area.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); this.draw(); } });
    $("messages").children[index].querySelector(".body").replaceWith(area);
    $("messages").children[index].querySelector(".tools").replaceChildren(
      element("button", {type: "button", className: "primary", onclick: apply}, "Send again"),
      element("button", {type: "button", onclick: () => this.draw()}, "Cancel"));
    area.focus();
  },

  say(text) {
    if (!text.trim() || this.abort) return;
    if (!this.current) {
      this.current = {id: Date.now().toString(36) + Math.random().toString(36).slice(2, 6), title: text.trim().slice(0, 60), messages: []};
      this.list.unshift(this.current);
      store.set("current", this.current.id);
      this.drawList();
    }
    this.current.messages.push({role: "user", content: text});
    this.answer(this.current.messages.length);
  },

  async answer(index) {
    const conversation = this.current;
    const message = {role: "assistant", content: "", working: true};
    conversation.messages.length = index;
    const before = conversation.messages.filter((m) => m.content !== "" || m.role === "user");
    conversation.messages.push(message);
    this.abort = new AbortController();
    this.draw();
    $("messages").scrollTop = $("messages").scrollHeight;
    await generate(before, this.parameters, message, () => { if (this.current === conversation) this.drawLast(); }, this.abort.signal);
    this.abort = null;
    this.save();
    if (this.current === conversation || this.current === null) this.draw();
  },

  begin() {
    const fit = growing($("input"), $("composer"));
    $("composer").onsubmit = (event) => {
      event.preventDefault();
      if (this.abort) return;
      const text = $("input").value;
      $("input").value = "";
      fit();
      this.say(text);
    };
    $("stop").onclick = () => this.stop();
    $("new").onclick = () => this.fresh();
    $("export").onclick = () => {
      const address = URL.createObjectURL(new Blob([JSON.stringify(this.list, null, 1)], {type: "application/json"}));
      element("a", {href: address, download: "sluice-conversations.json"}).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    };
    $("import").onclick = () => $("import-file").click();
    $("import-file").onchange = async () => {
      try {
        const read = JSON.parse(await $("import-file").files[0].text());
        const good = Array.isArray(read) && read.every((c) => typeof c.id === "string" && typeof c.title === "string" && Array.isArray(c.messages) &&
          c.messages.every((m) => ["user", "assistant"].includes(m.role) && typeof m.content === "string"));
        if (!good) throw new Error("it holds something else");
        this.list = [...read.filter((c) => !this.list.some((own) => own.id === c.id)), ...this.list];
        this.save();
        this.drawList();
      } catch (error) { setStatus("that file holds no conversations: " + error.message, "bad"); }
      $("import-file").value = "";
    };
    drawFields($("parameters"), this.parameters, () => store.set("parameters", this.parameters), "p-");
    const last = store.get("current", null);
    this.current = this.list.find((c) => c.id === last) ?? null;
    this.drawList();
    this.draw();
    $("messages").scrollTop = $("messages").scrollHeight;
  },
};
