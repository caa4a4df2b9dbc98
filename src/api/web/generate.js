// One answer: parameters as fields, the request they make, and the stream that comes back.

const kFields = [
  {name: "system", label: "System prompt", kind: "text", fallback: ""},
  {name: "mode", label: "Mode", kind: "choice", options: ["chat", "completion"], fallback: "chat"},
  {name: "max_tokens", label: "Max tokens", kind: "number", min: 1, step: 1, fallback: "", placeholder: "automatic"},
  {name: "temperature", label: "Temperature", kind: "number", min: 0, max: 2, step: 0.05, fallback: 0.7},
  {name: "top_p", label: "Top p", kind: "number", min: 0.01, max: 1, step: 0.01, fallback: 1},
  {name: "top_k", label: "Top k (0: off)", kind: "number", min: 0, step: 1, fallback: 0},
  {name: "repetition_penalty", label: "Repetition", kind: "number", min: 0.1, step: 0.05, fallback: 1},
  {name: "seed", label: "Seed (empty: drawn)", kind: "number", min: 0, step: 1, fallback: ""},
  {name: "stop", label: "Stop at (comma)", kind: "line", fallback: ""},
];

// Draws the fields into `into`; `values` is kept up to date and `changed` told.
function drawFields(into, values, changed, prefix, more = []) {
  into.replaceChildren();
  for (const field of [...more, ...kFields]) {
    const id = prefix + field.name;
    const value = values[field.name] ?? field.fallback;
    let input;
    if (field.kind === "text") input = element("textarea", {id, value});
    else if (field.kind === "choice") {
      input = element("select", {id}, ...field.options.map((name) => element("option", {value: name}, name)));
      input.value = value;
    } else {
      input = element("input", {id, value, type: field.kind === "number" ? "number" : field.kind === "secret" ? "password" : "text"});
      for (const name of ["min", "max", "step", "placeholder"]) if (field[name] !== undefined) input[name] = field[name];
    }
    input.oninput = () => { values[field.name] = input.value; changed(); };
    into.append(element("div", {className: "field" + (field.kind === "text" || field.tall ? " tall" : "")}, element("label", {for: id}, field.label), input));
  }
}

function requestBody(messages, values) {
  const number = (name) => (values[name] === "" || values[name] === undefined ? kFields.find((f) => f.name === name).fallback : Number(values[name]));
  const body = {model: "", stream: true, stream_options: {include_usage: true}, temperature: number("temperature"), top_p: number("top_p"),
    repetition_penalty: number("repetition_penalty")};
  // A conversation may take what is left of the context; text that nothing ends may not.
  if (number("max_tokens") !== "" || values.mode === "completion") body.max_tokens = number("max_tokens") || 512;
  if (number("top_k") > 0) body.top_k = number("top_k");
  if (number("seed") !== "") body.seed = number("seed");
  const stop = (values.stop ?? "").split(",").map((text) => text.replace(/\\n/g, "\n")).filter(Boolean);
  if (stop.length) body.stop = stop;
  if (values.mode === "completion") {
    body.prompt = (values.system ? values.system + "\n\n" : "") + messages.map((m) => m.content).join("\n");
  } else {
    body.messages = messages.map(({role, content}) => ({role, content}));
    if (values.system) body.messages.unshift({role: "system", content: values.system});
  }
  return body;
}

// Streams an answer into `message` (content, error, figures); `draw` is called as it grows, at most once per frame.
async function generate(messages, values, message, draw, signal, where = {}) {
  const begun = performance.now();
  let first = 0, waiting = false, usage = null;
  const show = () => {
    if (waiting) return;
    waiting = true;
    const run = () => { waiting = false; draw(); };
    document.hidden ? setTimeout(run, 50) : requestAnimationFrame(run);
  };
  message.working = true;
  try {
    const path = values.mode === "completion" ? "/v1/completions" : "/v1/chat/completions";
    const answer = await request(path, {body: requestBody(messages, values), signal, ...where});
    for await (const event of events(answer)) {
      if (event.error) throw new ServerError(event.error.message ?? String(event.error));
      if (event.usage) usage = event.usage;
      const choice = event.choices?.[0];
      const piece = choice?.delta?.content ?? choice?.text ?? "";
      if (piece && !first) first = performance.now();
      message.content += piece;
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      if (piece) show();
    }
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else message.error = error instanceof ServerError ? error.message : "The connection was lost: " + error.message;
  }
  const seconds = (performance.now() - (first || begun)) / 1000;
  const parts = [];
  if (usage) parts.push(usage.completion_tokens + " tokens");
  if (usage && usage.completion_tokens > 1 && seconds > 0.02) parts.push(((usage.completion_tokens - 1) / seconds).toFixed(1) + "/s");
  if (first) parts.push("first after " + ((first - begun) / 1000).toFixed(2) + " s");
  if (message.finish === "length") parts.push("cut at max tokens");
  if (message.finish === "stopped") parts.push("stopped");
  message.figures = parts.join(", ");
  message.working = false;
  draw();
}

// A message as an element; `tools` are buttons below it.
function messageElement(message, tools = []) {
  const body = element("div", {className: "body" + (message.working ? " working" : "")});
  if (message.role === "user") body.textContent = message.content;
  else body.append(markdown(message.content));
  return element("article", {className: "message " + message.role, "aria-label": message.role === "user" ? "You" : "Answer"},
    element("div", {className: "who"}, message.role === "user" ? "You" : "Answer"), body,
    message.error ? element("div", {className: "error", role: "alert"}, message.error) : null,
    element("div", {className: "tools"}, ...tools, message.figures ? element("span", {className: "figures"}, message.figures) : null));
}

function growing(area, form) {
  const fit = () => { area.style.height = "auto"; area.style.height = area.scrollHeight + 2 + "px"; };
  area.addEventListener("input", fit);
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  return fit;
}

// Follows the end of a scrolling box unless the reader has scrolled up.
function following(box, change) {
  const follow = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  change();
  if (follow) box.scrollTop = box.scrollHeight;
}
