// Runs the page's own script against a real server: a document of plain objects, Node's fetch.
// usage: node page_driver.js PAGE_JS BASE_URL MESSAGE; prints what the page shows, as JSON.
"use strict";
const fs = require("node:fs");
const vm = require("node:vm");

const [script, base, message] = process.argv.slice(2);

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
  getElementById: (id) => (elements[id] ??= new Element()),
  createElement: () => new Element(),
  addEventListener() {},
};
const context = {
  document, performance, TextDecoderStream, AbortController, JSON, Number, Math, Error,
  fetch: (path, options) => fetch(`${base}/${path}`, options),
};
vm.runInNewContext(fs.readFileSync(script, "utf8"), context);

async function main() {
  const field = document.getElementById;
  field("text").value = message;
  field("temperature").value = "0";
  field("limit").value = "24";
  field("text").listeners.keydown({ key: "Enter", preventDefault() {} });
  const deadline = Date.now() + 30_000;
  while (field("hits").textContent === "" && Date.now() < deadline && !trouble()) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const shown = Object.fromEntries(Object.entries(elements).map(([id, each]) => [id, each.textContent]));
  const turns = elements.turns.children.map((each) => [each.className, each.textContent]);
  process.stdout.write(JSON.stringify({ shown, turns, title: document.title }));
}

function trouble() {
  return document.getElementById("turns").children.some((each) => each.className === "trouble");
}

main();
