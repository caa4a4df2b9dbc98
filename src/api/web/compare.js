// Two answers side by side: two sets of parameters, or a second server.

const compare = {
  sides: [],
  abort: null,

  begin() {
    const kept = store.get("compare", [{}, {temperature: 0}]);
    this.sides = [0, 1].map((i) => {
      const side = {values: kept[i] ?? {}, messages: [], box: element("div", {className: "messages", role: "log", tabIndex: 0, "aria-label": "Side " + "AB"[i]})};
      const fields = element("div", {className: "fields"});
      const title = element("summary");
      const changed = () => {
        title.textContent = "Side " + "AB"[i] + ": " + (side.values.url ? side.values.url : "this server") + ", temperature " + (side.values.temperature ?? 0.7);
        // A second server's key is not kept.
        store.set("compare", this.sides.map((s) => ({...s.values, token: undefined})));
      };
      drawFields(fields, side.values, changed, "c" + i + "-", [
        {name: "url", label: "Server (empty: this one)", kind: "line", tall: true, fallback: "", placeholder: "http://localhost:10149"},
        {name: "token", label: "Its key", kind: "secret", fallback: ""},
      ]);
      this.sides[i] = side;
      $("sides").append(element("div", {className: "side"}, element("details", {}, title, fields), side.box));
      side.changed = changed;
      return side;
    });
    this.sides.forEach((side) => side.changed());
    const fit = growing($("compare-input"), $("compare-composer"));
    $("compare-composer").onsubmit = (event) => {
      event.preventDefault();
      const text = $("compare-input").value;
      if (!text.trim() || this.abort) return;
      $("compare-input").value = "";
      fit();
      this.say(text);
    };
    $("compare-stop").onclick = () => this.abort?.abort();
    $("compare-clear").onclick = () => {
      this.abort?.abort();
      for (const side of this.sides) side.messages = [];
      this.draw();
    };
    this.draw();
  },

  draw() {
    for (const side of this.sides) {
      following(side.box, () => side.box.replaceChildren(...(side.messages.length ? side.messages.map((m) => messageElement(m))
        : [element("div", {className: "empty"}, "Answers of this side appear here.")])));
    }
    $("compare-stop").hidden = this.abort === null;
    $("compare-send").hidden = this.abort !== null;
  },

  async say(text) {
    const abort = this.abort = new AbortController();
    await Promise.all(this.sides.map((side) => {
      side.messages.push({role: "user", content: text});
      const before = [...side.messages];
      const message = {role: "assistant", content: "", working: true};
      side.messages.push(message);
      this.draw();
      const where = side.values.url ? {base: side.values.url.replace(/\/+$/, ""), token: side.values.token ?? ""} : {};
      return generate(before, side.values, message, () => {
        following(side.box, () => side.box.lastElementChild?.replaceWith(messageElement(message)));
      }, abort.signal, where);
    }));
    this.abort = null;
    this.draw();
  },
};
