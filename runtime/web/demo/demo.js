/** The demo page: a card for each image that is chosen, dropped or pasted. */

import { Classifier, ImageError, loadImage, preprocess } from "./lib/index.js";

const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);
const [files, samples, save, clear, coverage, results, status, progress] = [
  "files", "samples", "save", "clear", "coverage", "results", "status", "progress",
].map(element);

const WITHHELD = { blank: "Blank", not_a_logo: "No logo", low_confidence: "Unsure", no_label: "No label" };
const cards = []; // {name, output or error, node}, in the order of the page
const loading = Classifier.load("bundle");
let waiting = Promise.resolve();

/** Shows a card for each file, one batch after the other. */
function add(chosen) {
  if (chosen.length) waiting = waiting.then(() => classify(chosen)).catch(report);
}

async function classify(chosen) {
  const classifier = await loading;
  say(`Classifying ${count(chosen.length, "image")}…`);
  Object.assign(progress, { hidden: chosen.length < 2, max: chosen.length, value: 0 });
  const added = [];
  const earlier = results.firstElementChild;
  for (const file of chosen) {
    const card = { name: file.name, node: element("card").content.firstElementChild.cloneNode(true) };
    try {
      await infer(classifier, file, card);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      card.error = error;
    }
    show(classifier, card);
    results.insertBefore(card.node, earlier); // the newest batch comes first
    added.push(card);
    progress.value += 1;
    await new Promise((next) => setTimeout(next)); // lets the page be drawn and used meanwhile
  }
  cards.unshift(...added);
  progress.hidden = true;
  save.hidden = clear.hidden = false;
  summarize(classifier, added);
}

/** Fills in the parts of a card that do not depend on the mode: the image and the network's output. */
async function infer(classifier, file, card) {
  const pixels = preprocess(await loadImage(file), classifier.bundle.input);
  card.output = await classifier.run(pixels);
  card.node.querySelector("img").src = URL.createObjectURL(file);
  card.node.querySelector(".picture").style.background = `rgb(${pixels.slice(0, 3)})`; // as the network sees it
}

/** Writes the decision in the chosen mode and coverage into the card. */
function show(classifier, { name, output, error, node }) {
  const fill = (part, ...content) => node.querySelector(part).replaceChildren(...content);
  fill(".file", name);
  node.querySelector(".file").title = name;
  if (error) {
    node.classList.add("failed");
    node.querySelector(".picture").hidden = true;
    fill(".label", "Not read");
    fill(".sure", error.message.replace(`${name}: `, ""));
    return;
  }
  const result = decide(classifier, output);
  node.classList.toggle("unsure", result.label === null);
  fill(".label", result.labels?.join(", ") || (result.label ?? WITHHELD[result.reason]));
  fill(".sure", ...describe(classifier, result));
  const ordered = Object.entries(result.probabilities).sort(([, one], [, other]) => other - one);
  fill(".bars", ...ordered.map(([label, share]) => bar(label, share, label === result.bestGuess)));
  fill(".set", ...describeSet(result.predictionSet));
  node.querySelector(".set").hidden = result.predictionSet === null;
  const notes = [];
  if (!result.isLogo && result.label !== null) {
    notes.push("It is unlike the logos that the network knows: it may be none.");
  }
  if (result.epistemic !== null) {
    const [own, image] = [result.epistemic, result.aleatoric].map((nats) => nats.toFixed(2));
    notes.push(`Uncertainty: ${own} nats of the network's own, ${image} in the image.`);
  }
  fill(".note", notes.join(" "));
  node.querySelector(".note").hidden = notes.length === 0;
}

const decide = (classifier, output) => classifier.decide(output, { mode: mode(), coverage: level() });
const mode = () => new FormData(element("options")).get("mode");
const level = () => (coverage.value ? Number(coverage.value) : null);

function describe(classifier, result) {
  if (result.label !== null) return [`${percent(result.confidence)} sure`];
  const guess = `Best guess ${result.bestGuess}, ${percent(result.confidence)} sure`;
  if (result.reason === "no_label") return [guess];
  if (result.reason !== "low_confidence") return [`${guess}; only “always” labels such a picture`];
  return [`${guess}; a label needs ${percent(classifier.bundle.calibration.abstain_below[mode()])}`];
}

function describeSet(labels) {
  if (labels === null) return [];
  const names = document.createElement("b");
  names.textContent = labels.join(", ") || "none is likely enough";
  return [`${percent(level(), 0)} set: `, names];
}

function bar(label, share, isBest) {
  const row = document.createElement("li");
  row.classList.toggle("best", isBest);
  const [name, value] = [label, percent(share)].map((text) => {
    const part = document.createElement("span");
    part.textContent = text;
    return part;
  });
  value.className = "share";
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("aria-hidden", "true");
  const length = document.createElementNS(SVG, "rect");
  length.setAttribute("width", `${share * 100}%`);
  length.setAttribute("height", "100%");
  picture.append(length);
  row.append(name, picture, value);
  return row;
}

/** One sentence that screen readers read aloud: the result of a single image, or the counts of several. */
function summarize(classifier, shown) {
  const read = shown.filter((card) => !card.error);
  if (shown.length === 1) {
    const [{ name, output, error }] = shown;
    if (error) return say(error.message);
    const result = decide(classifier, output);
    const label = result.label ?? WITHHELD[result.reason].toLowerCase();
    return say(`${name}: ${label}. ${describe(classifier, result).join("")}.`);
  }
  const labelled = read.filter(({ output }) => decide(classifier, output).label !== null).length;
  const parts = [
    `${count(shown.length, "image")}: ${labelled} labelled`,
    ...(read.length > labelled ? [`${read.length - labelled} without a label`] : []),
    ...(shown.length > read.length ? [`${shown.length - read.length} not read`] : []),
  ];
  return say(`${parts.join(", ")}.`);
}

const say = (text) => (status.textContent = text);
const report = (error) => say(`It does not work here: ${error.message}`);
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}\u00a0%`;

function showAgain() {
  if (cards.length === 0) return;
  loading.then((classifier) => {
    for (const card of cards) show(classifier, card);
    summarize(classifier, cards);
  }, report);
}

function saveResults() {
  loading.then((classifier) => {
    const rows = cards.map(({ name, output, error }) =>
      error ? { name, error: error.message } : { name, ...decide(classifier, output) },
    );
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(rows, null, 1)], { type: "application/json" }));
    link.download = "logo-edge.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  }, report);
}

function removeAll() {
  for (const { node } of cards.splice(0)) {
    URL.revokeObjectURL(node.querySelector("img").src);
    node.remove();
  }
  save.hidden = clear.hidden = true;
  say("Ready.");
  files.focus();
}

/** Adds the images of the bundle's golden vectors. */
async function addSamples() {
  const { bundle } = await loading;
  const names = [...bundle.contents.keys()].filter((name) => /^vectors\/.*\.png$/.test(name));
  add(names.map((name) => new File([bundle.contents.get(name)], name.slice("vectors/".length), { type: "image/png" })));
}

files.addEventListener("change", () => {
  add([...files.files]);
  files.value = "";
});
samples.addEventListener("click", () => addSamples().catch(report));
save.addEventListener("click", saveResults);
clear.addEventListener("click", removeAll);
element("options").addEventListener("change", showAgain);
element("options").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragover");
    if (kind === "drop") add([...event.dataTransfer.files]);
  });
}

loading.then(({ bundle }) => {
  const levels = bundle.calibration.conformal.filter((row) => row.threshold !== null).map((row) => row.level);
  for (const value of levels) coverage.add(new Option(percent(value, 0), value, false, value === 0.95));
  coverage.parentElement.hidden = levels.length === 0;
  element("about").textContent = `Bundle ${bundle.name}: ${bundle.labels.join(", ")}; every file verified by SHA-256`;
  if (cards.length === 0) say("Ready.");
}, report);

if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("sw.js").then(
    () => navigator.serviceWorker.ready.then(() => (element("offline").textContent = "Works offline from now on")),
    () => {}, // without it the page works online only
  );
}
