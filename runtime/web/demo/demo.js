/** The demo page: a card for each image that is chosen, dropped or pasted. */

import { Classifier, HEAT_STEPS, ImageError, heatColours, loadImage, occlusion, preprocess } from "./lib/index.js";

const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);
const [files, samples, save, clear, coverage, results, status, progress] = [
  "files", "samples", "save", "clear", "coverage", "results", "status", "progress",
].map(element);

const WITHHELD = { blank: "Blank", not_a_logo: "Not a logo", low_confidence: "Unsure", no_label: "No label" };
const THIRDS = [["upper left", "top", "upper right"], ["left", "middle", "right"], ["lower left", "bottom", "lower right"]];
const cards = []; // {name, file, node, and output and times_ms or error}, in the order of the page
const loading = load();
let waiting = Promise.resolve();

/** The classifier, after one pass: so the first image is timed like the others. */
async function load() {
  const classifier = await Classifier.load("bundle");
  await classifier.infer(new ImageData(8, 8));
  return classifier;
}

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
    const card = { name: file.name, file, node: element("card").content.firstElementChild.cloneNode(true) };
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

/** Fills in the parts of a card that do not depend on the mode: the image, the network's output and the times. */
async function infer(classifier, file, card) {
  const start = performance.now();
  const pixels = preprocess(await loadImage(file), classifier.bundle.input);
  const read = performance.now();
  card.output = await classifier.run(pixels);
  card.times_ms = { read: read - start, network: performance.now() - read };
  const picture = card.node.querySelector(".picture");
  picture.querySelector("img").src = URL.createObjectURL(file);
  picture.style.background = `rgb(${pixels.slice(0, 3)})`; // as the network sees it
  const { bestGuess } = decide(classifier, card.output);
  const button = card.node.querySelector("button");
  button.setAttribute("aria-label", `Why ${bestGuess}? ${card.name}`);
  button.addEventListener("click", () => toggleHeat(classifier, card, bestGuess).catch(report));
}

/** Shows the heat map in place of the image, or the image again. */
async function toggleHeat(classifier, card, label) {
  const [button, image, canvas, evidence] = ["button", "img", "canvas", ".evidence"].map((part) =>
    card.node.querySelector(part),
  );
  const shown = button.getAttribute("aria-pressed") === "true";
  if (!card.heat) {
    button.disabled = true;
    const pixels = preprocess(await loadImage(card.file), classifier.bundle.input);
    const onStep = async (share) => {
      button.textContent = percent(share, 0);
      await new Promise((next) => setTimeout(next));
    };
    card.heat = await occlusion(classifier, pixels, label, { onStep });
    drawHeat(canvas, pixels, classifier.bundle.input, card.heat);
    evidence.textContent = describeHeat(card.heat, label);
    canvas.setAttribute("aria-label", `Heat map. ${evidence.textContent}`);
    Object.assign(button, { disabled: false, textContent: "Why?" });
    button.focus();
  }
  button.setAttribute("aria-pressed", String(!shown));
  image.hidden = !shown;
  canvas.hidden = evidence.hidden = shown;
  if (!shown) say(`${card.name}: ${evidence.textContent}`);
}

/** The pixels that the network saw, in light grey, below the colours of the heat map. */
function drawHeat(canvas, pixels, { size_px: size }, heat) {
  const channels = pixels.length / size ** 2;
  const grey = new ImageData(size, size);
  for (let from = 0, to = 0; from < pixels.length; from += channels, to += 4) {
    const light = 0.299 * pixels[from] + 0.587 * pixels[from + 1] + 0.114 * pixels[from + 2];
    grey.data.set([70 + 0.7 * light, 70 + 0.7 * light, 70 + 0.7 * light, 255], to);
  }
  Object.assign(canvas, { width: 4 * size, height: 4 * size });
  const context = canvas.getContext("2d");
  Object.assign(context, { imageSmoothingEnabled: true, imageSmoothingQuality: "high" });
  for (const layer of [grey, heatColours(heat)]) {
    const source = new OffscreenCanvas(layer.width, layer.height);
    source.getContext("2d").putImageData(layer, 0, 0);
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
  }
}

/** The heat map in words: its colours, and the third of the image with the strongest evidence. */
function describeHeat(heat, label) {
  const at = heat.indexOf(Math.max(...heat));
  const third = (position) => Math.floor((3 * position) / HEAT_STEPS);
  const part = THIRDS[third(Math.floor(at / HEAT_STEPS))][third(at % HEAT_STEPS)];
  return `Red speaks for ${label}, most of all at the ${part}; blue speaks against it.`;
}

/** Writes the decision in the chosen mode and coverage into the card. */
function show(classifier, { name, output, error, node, times_ms: times }) {
  const part = (selector) => node.querySelector(selector);
  const fill = (selector, ...content) => part(selector).replaceChildren(...content);
  fill(".file", name);
  part(".file").title = name;
  if (error) {
    node.classList.add("failed");
    for (const selector of [".picture", ".gauge", ".set", ".bars", ".why"]) part(selector).remove();
    fill(".label", "Not read");
    fill(".reason", error.message.replace(`${name}: `, ""));
    return;
  }
  const result = decide(classifier, output);
  const other = ["not_a_logo", "blank"].includes(result.reason);
  node.classList.toggle("other", other);
  node.classList.toggle("unsure", result.reason !== null && !other);
  fill(".label", result.labels?.join(", ") || (result.label ?? WITHHELD[result.reason]));
  fill(".reason", describe(classifier, result));
  const least = classifier.bundle.calibration.abstain_below[mode()];
  part(".gauge .share").setAttribute("width", percent(result.confidence));
  part(".gauge .least").setAttribute("x", percent(least));
  part(".gauge .least").toggleAttribute("hidden", least === 0 || result.labels !== null);
  const ordered = Object.entries(result.probabilities).sort(([, one], [, other]) => other - one);
  fill(".bars", ...ordered.map(([label, share]) => bar(label, share, label === result.bestGuess)));
  fill(".set", ...describeSet(result.predictionSet));
  part(".set").hidden = result.predictionSet === null;
  const { epistemic, aleatoric } = result;
  const [own, image] = [epistemic ?? 0, aleatoric].map((nats) => nats.toFixed(2));
  fill(".note", `Epistemic ${own}, aleatoric ${image} nats`);
  part(".note").hidden = epistemic === null;
  fill(".times", `read ${milliseconds(times.read)}, network ${milliseconds(times.network)} ms`);
}

const decide = (classifier, output) => classifier.decide(output, { mode: mode(), coverage: level() });
const mode = () => new FormData(element("options")).get("mode");
const level = () => (coverage.value ? Number(coverage.value) : null);

/** Why there is this label, or none. */
function describe({ bundle }, result) {
  const sure = `${percent(result.confidence)} sure`;
  const guess = `Best guess ${result.bestGuess}, ${sure}`;
  switch (result.reason) {
    case null:
      return result.isLogo ? sure : `${sure}, but unlike the logos that the network knows`;
    case "blank":
      return "All pixels have one colour";
    case "not_a_logo":
      return `Unlike the logos that the network knows. ${guess}`;
    case "low_confidence":
      return `${guess}; a label needs ${percent(bundle.calibration.abstain_below[mode()])}`;
    default:
      return guess;
  }
}

function describeSet(labels) {
  if (labels === null) return [];
  const names = labels.map((label) => Object.assign(document.createElement("b"), { textContent: label }));
  const title = Object.assign(document.createElement("span"), { textContent: `${percent(level(), 0)} set` });
  return [title, ...(names.length ? names.flatMap((name) => [" ", name]) : [" no class is likely enough"])];
}

function bar(label, share, isBest) {
  const row = document.createElement("li");
  row.classList.toggle("best", isBest);
  const [name, value] = [label, percent(share)].map((text) => {
    const part = document.createElement("span");
    part.textContent = text;
    return part;
  });
  value.className = "value";
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
    return say(`${name}: ${label}. ${describe(classifier, result)}.`);
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
const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}%`;
const milliseconds = (time) => time.toFixed(time < 10 ? 1 : 0);

function showAgain() {
  if (cards.length === 0) return;
  loading.then((classifier) => {
    for (const card of cards) show(classifier, card);
    summarize(classifier, cards);
  }, report);
}

function saveResults() {
  loading.then((classifier) => {
    const rows = cards.map(({ name, output, error, times_ms }) =>
      error ? { name, error: error.message } : { name, ...decide(classifier, output), times_ms },
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
