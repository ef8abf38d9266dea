"use strict";
const PAGE = 48; // cards in the document at a time
const RETRY_MS = 2000;
const STEPS = 1000; // that undo goes back after the page was loaded again
const listed = JSON.parse(document.getElementById("listed").textContent);
const { rows, classes, names, keys } = listed;
const served = "decided" in listed; // by `logo-edge data review`, which saves each decision
const memory = "logo-edge corrections " + listed.digest;
const decided = new Map(served ? listed.decided : read(localStorage, memory)); // position of the row -> {label, sure}
const steps = memory + " steps " + (served ? location.pathname : "");
const past = read(sessionStorage, steps); // [position, decision before], the latest last; a reloaded page has them
const saved = new Map(served ? listed.decided : []); // decisions that the server has confirmed
const unsaved = new Set(); // positions whose decisions the server has not confirmed
const cards = new Map(); // position -> list item in the document
let visible = [...rows.keys()]; // positions that pass the filters
let current = 0; // index in visible
let drawn = -1; // page in the document
let sending = false;

function at(id) {
  return document.getElementById(id);
}

function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

function nameOf(label) {
  return names[classes.indexOf(label)] ?? label;
}

function pictureOf(position) {
  return served ? "pictures/" + position : listed.pictures[position];
}

function read(storage, key) {
  try {
    return JSON.parse(storage.getItem(key)) || [];
  } catch {
    return [];
  }
}

function keep(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
  } catch {
    // a browser that keeps nothing: decisions and steps last as long as the page
  }
}

function remember(position) {
  keep(sessionStorage, steps, past.slice(-STEPS));
  if (!served) return keep(localStorage, memory, [...decided]);
  unsaved.add(position);
  send();
}

async function send() {
  if (sending || !unsaved.size) return;
  sending = true;
  const positions = [...unsaved];
  unsaved.clear();
  const none = { label: null, sure: null };
  const sent = positions.map((position) => [position, decided.get(position)]);
  const body = sent.map(([position, decision]) => ({ position, ...(decision ?? none), before: saved.get(position) ?? none }));
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch("decisions", { method: "POST", headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    const others = new Map(await answer.json());
    for (const [position, decision] of sent) confirm(position, decision, others.get(position));
    at("trouble").textContent = "";
  } catch (error) {
    positions.forEach((position) => unsaved.add(position));
    at("trouble").textContent = `${unsaved.size} decisions are not saved: ${error.message}. This page tries again.`;
    setTimeout(send, RETRY_MS);
  }
  sending = false;
  if (!at("trouble").textContent) send();
}

function confirm(position, decision, other) {
  const now = other ? (other.label === null ? undefined : other) : decision;
  if (now) saved.set(position, now);
  else saved.delete(position);
  if (!other) return;
  if (now) decided.set(position, now);
  else decided.delete(position);
  unsaved.delete(position);
  show(position);
  count();
  const text = `${rows[position].title} was decided elsewhere meanwhile: ${describe(now)}. That stays; decide again to change it. `;
  at("others").prepend(text);
}

function drawCard(index) {
  const position = visible[index];
  const row = rows[position];
  const label = row.label ? nameOf(row.label) : "";
  const unsure = row.sure === 0 ? ", not sure" : "";
  const about = label ? ["labelled ", element("strong", {}, label), unsure] : ["no label"];
  const buttons = row.buttons.map(([key, share]) => {
    const percent = share === null ? "" : Math.round(share * 100) + "%";
    const parts = [element("kbd", {}, keys[key]), " ", element("span", {}, names[key]), " ", element("b", {}, percent)];
    const button = element("button", { type: "button" }, ...parts);
    button.dataset.class = key;
    button.style.setProperty("--share", (share ?? 0) * 100 + "%");
    return button;
  });
  const picture = element("img", { src: pictureOf(position), alt: "" });
  picture.addEventListener("error", () => (picture.alt = "cannot be read"));
  const source = [element("br"), row.package + ", " + row.split];
  const text = element("div", {}, element("h2", {}, row.title), element("p", {}, ...about, ...source), ...buttons);
  text.append(element("p", { className: "other" }));
  const card = element("li", { ariaLabel: `${row.title}, ${label ? "labelled " + label + unsure : "no label"}` });
  card.append(picture, text);
  card.ariaSetSize = visible.length;
  card.ariaPosInSet = index + 1;
  card.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    go(visible.indexOf(position));
    if (button) choose(classes[button.dataset.class], !event.shiftKey);
  });
  return card;
}

function drawPage() {
  drawn = Math.floor(current / PAGE);
  const start = drawn * PAGE;
  const end = Math.min(start + PAGE, visible.length);
  cards.clear();
  for (let index = start; index < end; index++) cards.set(visible[index], drawCard(index));
  at("cards").replaceChildren(...cards.values());
  visible.slice(start, end).forEach(show);
  at("page").textContent = visible.length ? `Images ${start + 1} to ${end} of ${visible.length}` : "No image passes the filters";
  at("previous").disabled = !start;
  at("next").disabled = end >= visible.length;
  if (!served) return;
  for (const position of visible.slice(end, end + PAGE)) {
    Object.assign(new Image(), { fetchPriority: "low", src: pictureOf(position) });
  }
}

function show(position) {
  const card = cards.get(position);
  if (!card) return;
  const decision = decided.get(position);
  const isCurrent = position === visible[current];
  card.classList.toggle("decided", Boolean(decision));
  card.ariaCurrent = isCurrent ? "true" : null;
  card.tabIndex = isCurrent ? 0 : -1;
  let pressed = false;
  for (const button of card.querySelectorAll("button")) {
    const chosen = Boolean(decision) && classes[button.dataset.class] === decision.label;
    button.ariaPressed = String(chosen);
    button.tabIndex = isCurrent ? 0 : -1;
    button.toggleAttribute("data-unsure", chosen && decision.sure === false);
    pressed ||= chosen;
  }
  card.querySelector(".other").textContent = decision && !pressed ? describe(decision) : "";
}

function describe(decision) {
  return decision ? nameOf(decision.label) + (decision.sure === false ? ", not sure" : "") : "no decision";
}

function count() {
  at("state").textContent = `${decided.size} of ${rows.length} decided`;
  at("progress").max = rows.length || 1;
  at("progress").value = decided.size;
  at("undo").disabled = !past.length;
  at("download").disabled = !decided.size;
}

function go(index) {
  if (!visible.length) return;
  const before = visible[current];
  current = Math.max(0, Math.min(visible.length - 1, index));
  if (Math.floor(current / PAGE) !== drawn) drawPage();
  show(before);
  show(visible[current]);
  const card = cards.get(visible[current]);
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

function put(position, decision) {
  if (decision) decided.set(position, decision);
  else decided.delete(position);
  at("said").textContent = `${rows[position].title}: ${describe(decision)}`;
  remember(position);
  show(position);
  count();
}

function decide(decision) {
  const position = visible[current];
  past.push([position, decided.get(position)]);
  put(position, decision);
}

function choose(label, sure) {
  if (!visible.length) return;
  decide({ label, sure });
  go(current + 1);
}

function undo() {
  if (!past.length) return;
  const [position, decision] = past.pop();
  put(position, decision ?? undefined);
  if (visible.includes(position)) go(visible.indexOf(position));
}

function filter() {
  const label = at("label").value;
  const state = at("show").value;
  const suggested = at("suggested").value;
  const [from, to] = ["from", "to"].map((id) => at(id).value / 100);
  visible = [...rows.keys()].filter((position) => {
    const row = rows[position];
    const decision = decided.get(position);
    if (label && label !== (row.label ? String(classes.indexOf(row.label)) : "none")) return false;
    if (state === "open" && decision) return false;
    if (state === "decided" && !decision) return false;
    if (state === "unsure" && (decision?.sure ?? row.sure !== 0)) return false;
    const [best, share] = row.buttons[0] ?? [0, null];
    return share === null || ((!suggested || suggested === String(best)) && share >= from && share <= to);
  });
  current = Math.max(0, visible.findIndex((position) => !decided.has(position)));
  drawPage();
}

function cell(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function corrections() {
  const lines = [...decided].map(([position, { label, sure }]) => {
    const row = { ...rows[position], corrected: label, sure: sure === null ? "" : Number(sure) };
    return listed.columns.map((name) => cell(row[name]));
  });
  return [listed.columns, ...lines].map((line) => line.join(",") + "\n").join("");
}

at("cards").addEventListener("keydown", (event) => {
  const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if (!isUndo && (event.ctrlKey || event.metaKey || event.altKey)) return;
  const key = event.code.startsWith("Digit") ? event.code.slice(5) : event.key.toLowerCase();
  const label = key && classes[keys.indexOf(key)];
  if (isUndo) {
    undo();
  } else if (key === "arrowright" || key === "arrowleft") {
    go(current + (key === "arrowright" ? 1 : -1));
  } else if (key === "backspace" || key === "delete") {
    if (decided.has(visible[current])) decide(undefined);
  } else if (key === "/") {
    at("any").focus();
  } else if (served && key === " " && event.target.tagName === "LI") {
    at("large").firstElementChild.src = "large/" + visible[current];
    at("large").showModal();
  } else if (label !== undefined) {
    choose(label, !event.shiftKey);
  } else {
    return;
  }
  event.preventDefault();
});

at("any").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  const text = at("any").value.trim().toLowerCase();
  const lower = names.map((name) => name.toLowerCase());
  const fitting = lower.includes(text) ? [lower.indexOf(text)] : [...lower.keys()].filter((key) => lower[key].startsWith(text));
  if (text && fitting.length === 1) {
    at("any").value = "";
    choose(classes[fitting[0]], !event.shiftKey);
  } else {
    at("said").textContent = `${fitting.length} labels begin with "${text}"`;
  }
});

at("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([corrections()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

addEventListener("beforeunload", (event) => {
  if (unsaved.size || sending) event.preventDefault();
});

document.addEventListener("click", (event) => {
  if (!event.target.closest("li, form, nav, dialog")) cards.get(visible[current])?.focus({ preventScroll: true });
});

at("large").addEventListener("click", () => at("large").close());
at("large").addEventListener("keydown", (event) => event.key === " " && at("large").close());
at("undo").addEventListener("click", undo);
at("previous").addEventListener("click", () => go((drawn - 1) * PAGE));
at("next").addEventListener("click", () => go((drawn + 1) * PAGE));
at("filters").addEventListener("change", filter);
at("filters").addEventListener("submit", (event) => event.preventDefault());

for (const [key, name] of names.entries()) {
  if (keys[key]) at("keys").append(element("kbd", {}, keys[key]), " ", name + " ");
  for (const id of ["label", "suggested"]) at(id).append(element("option", { value: key }, name));
  at("labels").append(element("option", { value: name }));
}
if (rows.some((row) => !row.label)) at("label").append(element("option", { value: "none" }, "no label"));
at("judged").hidden = !rows.some((row) => row.buttons[0]?.[1] != null);
at("download").hidden = served;
at("enlarge").hidden = !served;
filter();
count();
go(current);
