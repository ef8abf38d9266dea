"use strict";
const listed = JSON.parse(document.getElementById("listed").textContent);
const cards = [...document.querySelectorAll("li")];
const download = document.getElementById("download");
const memory = "logo-edge corrections " + listed.digest;
let decided = recall(); // position of the card -> {label, sure}
let current = 0;

function recall() {
  try {
    return JSON.parse(localStorage.getItem(memory)) || {};
  } catch {
    return {};
  }
}

function remember() {
  try {
    localStorage.setItem(memory, JSON.stringify(decided));
  } catch {
    // a browser that keeps nothing: the decisions last as long as the page
  }
}

function show(position) {
  const decision = decided[position];
  cards[position].classList.toggle("decided", Boolean(decision));
  cards[position].classList.toggle("current", position === current);
  for (const button of cards[position].querySelectorAll("button")) {
    const chosen = Boolean(decision) && listed.classes[button.dataset.class] === decision.label;
    button.setAttribute("aria-pressed", String(chosen));
    button.toggleAttribute("data-unsure", chosen && !decision.sure);
  }
  const count = Object.keys(decided).length;
  document.getElementById("state").textContent = count + " of " + cards.length + " decided";
  download.disabled = !count;
}

function move(position) {
  const before = current;
  current = Math.max(0, Math.min(cards.length - 1, position));
  show(before);
  show(current);
  cards[current].scrollIntoView({ block: "nearest" });
}

function decide(position, label, sure) {
  decided[position] = { label, sure };
  remember();
  show(position);
  move(position + 1);
}

function cell(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function corrections() {
  const lines = Object.entries(decided).map(([position, { label, sure }]) => {
    const row = { ...listed.rows[position], corrected: label, sure: sure ? 1 : 0 };
    return listed.columns.map((name) => cell(row[name]));
  });
  return [listed.columns, ...lines].map((line) => line.join(",") + "\n").join("");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !cards.length) return;
  const key = event.code.startsWith("Digit") ? event.code.slice(5) : event.key.toLowerCase();
  const label = listed.classes[listed.keys.indexOf(key)];
  if (key === "arrowright" || key === "arrowleft") {
    move(current + (key === "arrowright" ? 1 : -1));
  } else if (key === "backspace" || key === "delete") {
    delete decided[current];
    remember();
    show(current);
  } else if (label !== undefined) {
    decide(current, label, !event.shiftKey);
  } else {
    return;
  }
  event.preventDefault();
});

cards.forEach((card, position) => {
  card.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    move(position);
    if (button) decide(position, listed.classes[button.dataset.class], !event.shiftKey);
  });
  show(position);
});

download.addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([corrections()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
