/** Images in, classifications out: the package's entry point. */

import * as wasmRuntime from "onnxruntime-web/wasm";

import { readBundle } from "./bundle.js";
import { MODES, decide, isBlank, predictionSet } from "./decision.js";
import { BundleError, ImageError, LogoEdgeError } from "./errors.js";
import { loadImage } from "./images.js";
import { channelsOf, preprocess } from "./preprocess.js";

const COVERAGE = 0.95; // of prediction sets, where the bundle can promise it
const EPISTEMIC = "epistemic";
const VECTORS = "vectors/vectors.json";
const BACKENDS = ["wasm", "webgpu"];
const VECTOR_TOLERANCE = 0.2; // of a logit, as in Python; INT8 rounds in steps of 0.04

/** A bundle in memory, ready to classify. `Classifier.load` creates it. */
export class Classifier {
  #session;
  #options;
  #Tensor;
  #queue = Promise.resolve();

  /** See `load`. `runtime` is the onnxruntime-web of the session. */
  constructor(bundle, session, options, runtime = wasmRuntime) {
    this.bundle = bundle;
    this.#session = session;
    this.#options = options;
    this.#Tensor = runtime.Tensor;
  }

  /**
   * The classifier of the bundle at `source`: the address of its folder, or a function from a file's name to its bytes.
   *
   * `mode` says how confident it must be to give a label; `threshold` replaces the mode's lowest confidence. `coverage`
   * is the level of the prediction sets, null for none; default 0.95, where the bundle can promise it. `threads` is the
   * number of threads of a forward pass (more than one only in a cross-origin isolated page). `wasm` is the address of
   * onnxruntime-web's files, by default beside its module. `backend` is wasm, or webgpu, which fetches another
   * onnxruntime-web and always runs the golden vectors; with `selfTest` wasm runs them too. Throws LogoEdgeError where
   * the browser has no WebGPU, BundleError for a bundle that is damaged, of another format, without such a level, or
   * that fails its vectors; RangeError for an unknown mode or backend or a threshold out of range, TypeError for an
   * unknown option.
   */
  static async load(source, { backend = "wasm", threads = 1, wasm, selfTest = false, ...options } = {}) {
    const runtime = await openRuntime(backend);
    runtime.env.wasm.numThreads = threads;
    if (wasm !== undefined) runtime.env.wasm.wasmPaths = wasm;
    const bundle = await readBundle(source);
    resolveOptions(bundle, options);
    const classifier = new Classifier(bundle, await openSession(runtime, bundle, backend), options, runtime);
    try {
      if (selfTest || backend !== "wasm") await classifier.runVectors();
    } catch (error) {
      await classifier.release();
      throw error;
    }
    return classifier;
  }

  get labels() {
    return this.bundle.labels;
  }

  /** The classification of one image of a kind that `loadImage` takes. Throws ImageError where it cannot be read. */
  async classify(image, options = {}) {
    return this.decide(await this.infer(image), options);
  }

  /** One classification per image, in order; a bad one gives its ImageError at its position and spoils no other. */
  async *classifyMany(images, options = {}) {
    for await (const image of images) {
      try {
        yield await this.classify(image, options);
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        yield error;
      }
    }
  }

  /** The image as the model sees it, (S, S, channels) uint8. */
  async readPixels(image) {
    return preprocess(await loadImage(image), this.bundle.input);
  }

  /** The graph's outputs for one image: `logits` before temperature, `epistemic` in nats or null; and `isBlank`. */
  async infer(image) {
    return this.run(await this.readPixels(image));
  }

  /** `infer` for (S, S, channels) uint8 pixels. Calls may overlap; they run one after the other. */
  run(pixels) {
    const shape = shapeOf(this.bundle.input);
    const feeds = { [this.bundle.model.input_name]: new this.#Tensor("uint8", pixels, [1, ...shape]) };
    const { output_name: logits, optional_outputs: optional = [] } = this.bundle.model;
    const outputs = [logits, ...optional.filter((name) => name === EPISTEMIC)];
    const result = this.#queue.then(() => this.#session.run(feeds, outputs));
    this.#queue = result.catch(() => {});
    const blank = isBlank(pixels, shape[2]);
    return result.then((tensors) => ({
      logits: tensors[logits].data,
      epistemic: tensors[EPISTEMIC]?.data[0] ?? null,
      isBlank: blank,
    }));
  }

  /** The calibrated decision on the output of `infer`; the options override those of `load`. */
  decide(output, options = {}) {
    return decide(this.bundle, output, resolveOptions(this.bundle, { ...this.#options, ...options }));
  }

  /** The labels that hold the true one with P >= `level`; with `byClass` for the images of each class. */
  predictionSet(result, level, options) {
    return predictionSet(this.bundle.calibration, result.probabilities, level, options);
  }

  /**
   * Checks the bundle's golden vectors and returns how many there were.
   *
   * Throws BundleError where a logit is off by more than 0.2 or a best guess differs.
   */
  async runVectors() {
    const { vectors } = JSON.parse(new TextDecoder().decode(this.#file(VECTORS)));
    if (!vectors?.length) throw new BundleError(`${VECTORS}: no vectors; pack the bundle again`);
    for (const { image, logits, best_guess: expected } of vectors) {
      const output = await this.infer(new Blob([this.#file(image)]));
      const off = Math.max(...logits.map((logit, index) => Math.abs(logit - output.logits[index])));
      const { bestGuess } = this.decide(output);
      if (!(off <= VECTOR_TOLERANCE) || bestGuess !== expected) {
        throw new BundleError(
          `golden vector ${image} gives ${bestGuess} with logits off by ${off.toPrecision(3)}; expected ${expected} ` +
            `within ${VECTOR_TOLERANCE}. This browser does not compute the model as it was verified; report it`,
        );
      }
    }
    return vectors.length;
  }

  /** Frees the memory of the model; nothing can be classified afterwards. */
  async release() {
    await this.#queue;
    await this.#session.release();
  }

  #file(name) {
    const bytes = this.bundle.contents.get(name);
    if (bytes === undefined) throw new BundleError(`${name}: not in the bundle; pack the bundle again`);
    return bytes;
  }
}

/** [S, S, channels] of the model's input. */
const shapeOf = (contract) => [contract.size_px, contract.size_px, channelsOf(contract)];

/** The mode, threshold and coverage of the options, with defaults. Throws TypeError, RangeError or BundleError. */
function resolveOptions({ calibration }, { mode = "balanced", threshold, coverage, ...unknown }) {
  const [other] = Object.keys(unknown);
  if (other !== undefined) throw new TypeError(`found option ${other}; expected mode, threshold or coverage`);
  if (!MODES.includes(mode)) throw new RangeError(`mode is ${mode}; expected one of ${MODES.join(", ")}`);
  const least = threshold ?? null; // the mode's
  if (!((least ?? 0) >= 0 && (least ?? 0) <= 1)) {
    throw new RangeError(`threshold ${threshold}; expected a confidence from 0 to 1`);
  }
  if (coverage === undefined) {
    const conformal = calibration.conformal.find(({ level }) => level === COVERAGE);
    const promised = (conformal?.threshold ?? null) !== null;
    return { mode, threshold: least, coverage: promised ? COVERAGE : null };
  }
  if (coverage !== null) predictionSet(calibration, {}, coverage);
  return { mode, threshold: least, coverage };
}

/** The onnxruntime-web of a backend. Throws RangeError or, where this browser cannot run it, LogoEdgeError. */
async function openRuntime(backend) {
  if (!BACKENDS.includes(backend)) throw new RangeError(`backend is ${backend}; expected ${BACKENDS.join(" or ")}`);
  if (backend === "wasm") return wasmRuntime;
  if (!(await globalThis.navigator?.gpu?.requestAdapter())) {
    throw new LogoEdgeError("found no WebGPU adapter in this browser; take the backend wasm, which is the default");
  }
  try {
    return await import("onnxruntime-web/webgpu");
  } catch (error) {
    const cure = "build the page with --webgpu, or take the backend wasm";
    throw new LogoEdgeError(`onnxruntime-web/webgpu cannot be loaded: ${error.message}; ${cure}`, { cause: error });
  }
}

async function openSession(runtime, bundle, backend) {
  const { file, input_name: inputName, output_name: outputName } = bundle.model;
  let session;
  try {
    session = await runtime.InferenceSession.create(bundle.contents.get(file), {
      executionProviders: [backend],
      logSeverityLevel: 3,
    });
  } catch (error) {
    throw new BundleError(`${file}: onnxruntime-web cannot load it: ${error.message ?? error}`, { cause: error });
  }
  const shape = shapeOf(bundle.input);
  const input = session.inputMetadata.map(({ name, type, shape }) => `${name}, ${type}, ${shape?.slice(1)}`).join("; ");
  const output = session.outputMetadata.find(({ name }) => name === outputName);
  if (input !== `${inputName}, uint8, ${shape}`) {
    throw new BundleError(`${file}: reads ${input}; bundle.json says ${inputName}, uint8, ${shape}`);
  }
  if (output?.type !== "float32" || `${output.shape.slice(1)}` !== `${bundle.labels.length}`) {
    const classes = bundle.labels.length;
    throw new BundleError(`${file}: gives no ${outputName} of ${classes} classes, which bundle.json names`);
  }
  return session;
}
