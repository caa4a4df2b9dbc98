// Live figures from /metrics, with the last few minutes as small plots.

const kPoints = 90, kSeconds = 2;

const panel = {
  series: {},
  last: null,
  timer: 0,
  asking: false,

  plot(name, label, value, text, ceiling) {
    const points = (this.series[name] ??= []);
    points.push(value);
    if (points.length > kPoints) points.shift();
    let plot = $("plot-" + name);
    if (!plot) {
      plot = element("div", {className: "plot", id: "plot-" + name}, element("div", {className: "name"}, label), element("div", {className: "value"}));
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("viewBox", "0 0 100 30");
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("aria-hidden", "true");
      for (const kind of ["area", "line"]) {
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("class", kind);
        svg.append(path);
      }
      plot.append(svg);
      $("plots").append(plot);
    }
    plot.querySelector(".value").textContent = text;
    const top = ceiling ?? Math.max(...points, 1e-9);
    const line = points.map((v, i) => `${((i + kPoints - points.length) / (kPoints - 1) * 100).toFixed(1)} ${(28 - Math.min(1, v / top) * 26).toFixed(1)}`);
    const begin = line[0].split(" ")[0];
    plot.querySelector(".line").setAttribute("d", "M" + line.join("L"));
    plot.querySelector(".area").setAttribute("d", `M${begin} 30L` + line.join("L") + "L100 30Z");
  },

  span(seconds) {
    if (seconds < 0) return "over";
    const h = Math.floor(seconds / 3600), m = Math.floor(seconds / 60) % 60;
    return h > 0 ? `${h} h ${String(m).padStart(2, "0")}` : m > 0 ? `${m} min` : `${Math.floor(seconds)} s`;
  },

  show(text) {
    const values = {};
    for (const line of text.split("\n")) {
      const found = /^([a-z_:]+) ([-+.\deE]+|NaN)$/.exec(line);
      if (found) values[found[1]] = Number(found[2]);
    }
    const now = performance.now() / 1000;
    const rate = (name) => (this.last ? Math.max(0, (values[name] - this.last.values[name]) / (now - this.last.now)) : 0);
    const tokens = rate("vllm:generation_tokens_total"), prompt = rate("vllm:prompt_tokens_total");
    const number = (v) => (v >= 100 ? v.toFixed(0) : v.toFixed(1));
    this.plot("tokens", "Tokens/s", tokens, number(tokens));
    this.plot("prompt", "Prompt/s", prompt, number(prompt));
    const running = values["vllm:num_requests_running"] ?? 0, waiting = values["vllm:num_requests_waiting"] ?? 0;
    this.plot("queue", "Run, wait", running + waiting, `${running}, ${waiting}`);
    const cache = values["vllm:kv_cache_usage_perc"] ?? 0;
    this.plot("cache", "Cache in use", cache, (100 * cache).toFixed(cache < 0.1 ? 1 : 0) + " %", 1);
    const end = values["sluice_job_end_time_seconds"];
    if (end > 0) {
      const left = end - Date.now() / 1000;
      this.plot("left", "Job time left", Math.max(0, left), this.span(left));
    }
    this.last = {values, now};
  },

  // Every kSeconds, and at once when there is something new to show or to ask with.
  async poll() {
    clearTimeout(this.timer);
    if (this.asking) return;
    this.asking = true;
    try {
      const health = await fetch("/health", {cache: "no-store"});
      if (health.ok) setStatus("ready", "good");
      else setStatus(health.status === 503 ? "loading or draining" : "unwell (" + health.status + ")", "bad");
      if (health.ok && !$("panel").hidden && !document.hidden) this.show(await (await request("/metrics", {quiet: true})).text());
    } catch (error) {
      if (error.status === 401) setStatus("key needed", "bad");
      else setStatus("no connection", "bad");
    }
    this.asking = false;
    this.timer = setTimeout(() => this.poll(), 1000 * kSeconds);
  },
};
