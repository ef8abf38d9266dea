/** Reads a bundle, the folder that `logo-edge compress` packs, and refuses a damaged one. See docs/use/bundle.md. */

import { MODES, isMultiLabel } from "./decision.js";
import { BundleError } from "./errors.js";

const FORMAT = "logo-edge-bundle";
const FORMAT_VERSION = 2;
const RECORD = "bundle.json";
const DIGEST = "bundle.sha256";

/**
 * The record of the bundle at `source`, and `contents`, a Map from the name of each listed file to its bytes.
 *
 * `source` is the address of the folder, or a function from a file's name to its bytes (or a promise of them). Throws
 * BundleError where bundle.json is missing, changed, malformed or of another format version, a path leaves the folder,
 * or a file is missing or has changed.
 */
export async function readBundle(source) {
  if (source === "") {
    throw new BundleError("found an empty address; expected that of a bundle's folder. Is a variable not set?");
  }
  const read = typeof source === "function" ? source : fetcher(source);
  const bytes = await readFile(read, RECORD);
  await checkDigest(bytes, new TextDecoder().decode(await readFile(read, DIGEST)));
  const record = parseBundle(bytes);
  const names = Object.keys(record.files);
  const contents = await Promise.all(names.map((name) => readFile(read, name)));
  await Promise.all(names.map((name, index) => checkFile(name, contents[index], record.files[name])));
  return { ...record, contents: new Map(names.map((name, index) => [name, contents[index]])) };
}

/** The checked content of bundle.json. Throws BundleError, which names the field that is not as expected. */
export function parseBundle(bytes) {
  let record;
  try {
    record = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new BundleError(`${RECORD}: not JSON (${error.message}); the bundle is damaged, copy or pack it again`);
  }
  if (record?.format !== FORMAT) {
    throw new BundleError(`${RECORD}: no logo-edge bundle; expected "format": "${FORMAT}"`);
  }
  if (record.format_version !== FORMAT_VERSION) {
    throw new BundleError(
      `${RECORD}: format_version ${record.format_version}; this package reads ${FORMAT_VERSION}. Repack it with ` +
        "`logo-edge compress`, or install the logo-edge-web that fits it",
    );
  }
  if (record.members?.length) {
    throw new BundleError(
      `${RECORD}: an ensemble of ${record.members.length} models, which is for servers; this package runs one. Load ` +
        "a bundle of `logo-edge compress --target web`",
    );
  }
  const problem = findProblem(record);
  if (problem) throw new BundleError(`${RECORD}: ${problem}; the bundle is damaged, copy or pack it again`);
  return record;
}

/** The first expectation that a record does not meet, or undefined. */
function findProblem({ name, labels, model, input, calibration, files }) {
  const checks = [
    ["name: expected a string", () => isString(name)],
    [
      "labels: expected at least two different names",
      () => labels.length >= 2 && labels.every((label) => label && isString(label)) && areDistinct(labels),
    ],
    [
      "model: expected the names of a file, an input, an output and, if any, of optional outputs",
      () => [model.file, model.input_name, model.output_name, ...(model.optional_outputs ?? [])].every(isString),
    ],
    [
      "input: expected NHWC, uint8, RGB",
      () => input.layout === "NHWC" && input.dtype === "uint8" && input.colour === "RGB",
    ],
    ["input: expected details true, false or none", () => [true, false, undefined].includes(input.details)],
    ["input: expected fit letterbox, crop or none", () => ["letterbox", "crop", undefined].includes(input.fit)],
    ["input: expected size_px from 8 to 4096", () => isWhole(input.size_px, 8, 4096)],
    [
      "input: expected two backgrounds of three numbers from 0 to 255, and a luminance",
      () => isColour(input.light_background) && isColour(input.dark_background) && isNumber(input.dark_above_luminance),
    ],
    [
      "calibration: expected a temperature above 0",
      () => isNumber(calibration.temperature) && calibration.temperature > 0,
    ],
    [
      "calibration.abstain_below: expected 0 for best-guess, and from 0 to 1 for each mode after it, none below the " +
        "one before",
      () => fitsModes(calibration.abstain_below),
    ],
    [
      "calibration.scaling: expected a square weight and a bias of finite numbers, one row for each label",
      () => calibration.scaling === null || fitsScaling(calibration.scaling, labels.length),
    ],
    [
      "calibration.conformal: expected levels between 0 and 1 and thresholds from 0 to 1, by class for each label",
      () => calibration.conformal.every((conformal) => fitsConformal(conformal, labels)),
    ],
    [
      "calibration.label_thresholds: expected from 0 to 1 for each mode and label, none below the mode before",
      () => !isMultiLabel(calibration) || fitsLabelThresholds(calibration.label_thresholds, labels),
    ],
    [
      "calibration.familiarity: expected null or a threshold",
      () => calibration.familiarity === null || isNumber(calibration.familiarity.threshold),
    ],
    ["files: expected a sha256 and a size for each", () => Object.values(files).every(isEntry)],
    [`files: expected ${model?.file} among them`, () => Object.hasOwn(files, model.file)],
    ["files: a path is absolute or leads upwards", () => Object.keys(files).every(staysInside)],
  ];
  return checks.find(([, holds]) => !succeeds(holds))?.[0];
}

/** Whether the check holds; a field that is missing or of another type fails it. */
function succeeds(check) {
  try {
    return check();
  } catch {
    return false;
  }
}

const isString = (value) => typeof value === "string";
const isNumber = (value) => Number.isFinite(value);
const isWithin = (value, low, high) => isNumber(value) && low <= value && value <= high;
const isWhole = (value, low, high) => Number.isInteger(value) && isWithin(value, low, high);
const isColour = (value) => value.length === 3 && value.every((part) => isWhole(part, 0, 255));
const isEntry = ({ sha256, size_bytes: size }) => /^[0-9a-f]{64}$/.test(sha256) && isWhole(size, 0, Infinity);
const areDistinct = (values) => new Set(values).size === values.length;
const staysInside = (name) => !name.startsWith("/") && !/[\\\0]/.test(name) && !name.split("/").includes("..");

function fitsModes(thresholds) {
  const values = MODES.map((mode) => thresholds[mode]);
  const ordered = values.every((value, index) => isWithin(value, index ? values[index - 1] : 0, 1));
  return ordered && values[0] === 0 && Object.keys(thresholds).length === MODES.length;
}

function fitsScaling({ weight, bias }, classes) {
  const rows = [...weight, bias];
  return rows.length === classes + 1 && rows.every((row) => row.length === classes && row.every(isNumber));
}

function fitsConformal({ level, threshold, by_class: byClass }, labels) {
  const thresholds = [threshold, ...(byClass === null ? [] : labels.map((label) => byClass[label] ?? NaN))];
  return level > 0 && level < 1 && thresholds.every((value) => value === null || isWithin(value, 0, 1));
}

function fitsLabelThresholds(thresholds, labels) {
  const tables = MODES.map((mode) => thresholds[mode]);
  return (
    Object.keys(thresholds).length === MODES.length &&
    tables.every((table) => Object.keys(table).length === labels.length) &&
    labels.every((label) => tables.every((table, at) => isWithin(table[label], at ? tables[at - 1][label] : 0, 1)))
  );
}

function fetcher(folder) {
  const base = new URL(`${folder}`.replace(/\/?$/, "/"), globalThis.document?.baseURI ?? globalThis.location?.href);
  return async (name) => {
    const address = new URL(name.split("/").map(encodeURIComponent).join("/"), base);
    const response = await fetch(address, { cache: "no-cache" }); // never mixes files of two releases of a bundle
    if (!response.ok) throw new Error(`HTTP status ${response.status} from ${response.url}`);
    return response.arrayBuffer();
  };
}

async function readFile(read, name) {
  try {
    return new Uint8Array(await read(name));
  } catch (error) {
    const isListed = name !== RECORD && name !== DIGEST;
    const expected = isListed ? `${RECORD} lists it` : "expected a bundle's folder, made by `logo-edge compress`";
    throw new BundleError(`${name}: cannot be read (${error.message}); ${expected}`, { cause: error });
  }
}

async function sha256Of(bytes) {
  if (!globalThis.crypto?.subtle) {
    throw new BundleError("this page cannot verify a bundle: WebCrypto needs https or localhost. Serve the page so");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function checkDigest(bytes, line) {
  const computed = await sha256Of(bytes);
  if (line !== `${computed}  ${RECORD}\n`) {
    const reason = `sha256 ${computed.slice(0, 12)}..., which is not what ${DIGEST} says`;
    throw new BundleError(`${RECORD}: not the file that was packed (${reason}). Copy or pack the bundle again`);
  }
}

async function checkFile(name, bytes, { sha256, size_bytes: sizeBytes }) {
  const computed = await sha256Of(bytes);
  if (computed !== sha256 || bytes.length !== sizeBytes) {
    const reason = `sha256 ${computed.slice(0, 12)}..., expected ${sha256.slice(0, 12)}...`;
    throw new BundleError(`${name}: not the file that was packed (${reason}). Copy or pack the bundle again`);
  }
}
