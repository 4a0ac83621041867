// Runs the page's own script against a real server: a document of plain objects, Node's fetch.
// usage: node page_driver.js PAGE_JS BASE_URL MESSAGE [forget|keys]; prints what the page shows, as JSON.
// forget: a new conversation is begun during the first answer, and the message sent again.
// keys: Shift and Enter send nothing, Enter does, Escape ends the answer.
"use strict";
const fs = require("node:fs");
const vm = require("node:vm");

const [script, base, message, mode] = process.argv.slice(2);
const asked = []; // the roles of each request's messages

class Element {
  constructor() {
    Object.assign(this, { textContent: "", value: "", disabled: false, className: "", children: [], listeners: {} });
  }
  append(child) { this.children.push(child); child.parent = this; }
  remove() { this.parent.children = this.parent.children.filter((each) => each !== this); }
  replaceChildren() { this.children = []; }
  addEventListener(kind, listener) { this.listeners[kind] = listener; }
  scrollIntoView() {}
  focus() {}
}

const elements = {};
const document = {
  title: "",
  listeners: {},
  getElementById: (id) => (elements[id] ??= new Element()),
  createElement: () => new Element(),
  addEventListener(kind, listener) { this.listeners[kind] = listener; },
};
const context = {
  document, performance, TextDecoderStream, AbortController, JSON, Number, Math, Error,
  fetch: (path, options) => {
    if (options) asked.push(JSON.parse(options.body).messages.map((each) => each.role));
    return fetch(`${base}/${path}`, options);
  },
};
vm.runInNewContext(fs.readFileSync(script, "utf8"), context);

async function main() {
  const field = document.getElementById;
  field("text").value = message;
  field("temperature").value = "0";
  field("limit").value = mode ? "1500" : "24";
  if (mode === "keys") press({ key: "Enter", shiftKey: true }), press({ key: "Enter", isComposing: true });
  const unsent = field("text").value;
  press({ key: "Enter" });
  if (mode === "keys") {
    await until(() => elements.turns.children[1].textContent !== "");
    document.listeners.keydown({ key: "Escape" });
    await until(() => !field("send").disabled);
    return tell({ unsent });
  }
  if (mode === "forget") {
    await until(() => elements.turns.children[1].textContent !== "");
    field("forget").listeners.click();
    await until(() => !field("send").disabled);
    field("text").value = message;
    field("limit").value = "24";
    press({ key: "Enter" });
  }
  await until(() => field("hits").textContent !== "");
  tell({});
}

function tell(more) {
  const shown = Object.fromEntries(Object.entries(elements).map(([id, each]) => [id, each.textContent]));
  const turns = elements.turns.children.map((each) => [each.className, each.textContent]);
  process.stdout.write(JSON.stringify({ shown, turns, asked, title: document.title, ...more }));
}

function press(key) {
  document.getElementById("text").listeners.keydown({ ...key, preventDefault() {} });
}

async function until(reached) {
  const deadline = Date.now() + 30_000;
  while (!reached() && Date.now() < deadline && !trouble()) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

function trouble() {
  return document.getElementById("turns").children.some((each) => each.className === "trouble");
}

main();
