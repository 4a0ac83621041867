// The page's conversation with the server that it came from. Nothing is stored, nothing else is fetched.
"use strict";

const element = (id) => document.getElementById(id);
let conversation = []; // messages as the API takes them; a new one for each conversation
const sums = { prompt: 0, cached: 0 };
let model = "";
let running = null; // aborts the answer that is being written

async function card() {
  const reply = await fetch("v1/models");
  const body = await reply.json();
  if (!reply.ok) throw new Error(body.error.message);
  return body.data[0];
}

function guess({ speculation }) {
  if (!speculation) return;
  const percent = speculation.acceptance_percent;
  const state = speculation.state === "active" ? "" : ` (${speculation.state})`;
  element("drafts").hidden = false;
  element("accepted").textContent = `${percent === null ? "–" : `${percent} %`}${state}`;
}

async function begin() {
  const served = await card();
  guess(served);
  model = served.id;
  element("model").textContent = model;
  document.title = `${model} – Aweigh`;
}

function add(role, text) {
  const turn = document.createElement("p");
  turn.className = role;
  turn.textContent = text;
  element("turns").append(turn);
  turn.scrollIntoView({ block: "end" });
  return turn;
}

function question(messages) {
  const body = {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  if (element("temperature").value !== "") body.temperature = Number(element("temperature").value);
  if (element("limit").value !== "") body.max_tokens = Number(element("limit").value);
  return body;
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function show(usage, started, first) {
  const seconds = (performance.now() - first) / 1000;
  const tokens = usage.completion_tokens;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  element("first").textContent = `${(first - started).toFixed(0)} ms`;
  if (tokens > 1 && seconds > 0) element("rate").textContent = ((tokens - 1) / seconds).toFixed(1);
  element("hit").textContent = `${Math.round((100 * cached) / usage.prompt_tokens)} %`;
}

function count(usage) {
  sums.prompt += usage.prompt_tokens;
  sums.cached += usage.prompt_tokens_details?.cached_tokens ?? 0;
  element("hits").textContent = `${Math.round((100 * sums.cached) / sums.prompt)} %`;
}

async function answer(messages, turn, signal) {
  const started = performance.now();
  let first = null;
  let usage = null;
  const reply = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question(messages)),
    signal,
  });
  if (!reply.ok) throw new Error((await reply.json()).error.message);
  for await (const event of events(reply)) {
    if (event.error) throw new Error(event.error.message);
    const piece = event.choices[0]?.delta.content ?? "";
    if (piece) {
      first ??= performance.now();
      turn.textContent += piece;
      turn.scrollIntoView({ block: "end" });
    }
    if (event.usage) {
      usage = event.usage;
      if (first !== null && event.choices.length) show(usage, started, first);
    }
  }
  if (usage) count(usage);
}

async function send() {
  const text = element("text").value.trim();
  if (!text || running) return;
  element("text").value = "";
  const messages = conversation; // it stays this one's, also if another conversation begins
  messages.push({ role: "user", content: text });
  add("user", text);
  const turn = add("assistant", "");
  running = new AbortController();
  element("send").disabled = true;
  element("stop").disabled = false;
  try {
    if (!model) await begin();
    await answer(messages, turn, running.signal);
    card().then(guess, () => {}); // the answer stands, whatever becomes of a figure
  } catch (error) {
    if (error.name !== "AbortError") add("trouble", error.message);
  }
  if (turn.textContent) messages.push({ role: "assistant", content: turn.textContent });
  else messages.pop(), turn.remove();
  running = null;
  element("send").disabled = false;
  element("stop").disabled = true;
  element("text").focus();
}

function forget() {
  running?.abort();
  conversation = [];
  element("turns").replaceChildren();
  sums.prompt = sums.cached = 0;
  for (const id of ["rate", "first", "hit", "hits"]) element(id).textContent = "–";
}

element("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
element("stop").addEventListener("click", () => running?.abort());
element("forget").addEventListener("click", forget);
begin().catch((error) => add("trouble", error.message));
