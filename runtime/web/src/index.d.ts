/** Classifies logos in the browser with a logo-edge bundle. See docs/use/devices.md. */

export type Mode = "best-guess" | "balanced" | "strict";
export const MODES: readonly Mode[];

/** The classification of one image. */
export interface Classification {
  /** null where the classifier abstains; `reason` says why. */
  label: string | null;
  /** Of a multi-label bundle: all labels that reach their thresholds, the most probable first; else null. */
  labels: string[] | null;
  bestGuess: string;
  /** The calibrated probability of the best guess, 0 to 1. */
  confidence: number;
  probabilities: Record<string, number>;
  /** The entropy of the probabilities less `epistemic`, at least 0, in nats. */
  aleatoric: number;
  /** The network's own estimate of its epistemic uncertainty, in nats; null where the graph gives none. */
  epistemic: number | null;
  /** The labels that hold the true one with P >= coverage, the most probable first; null where coverage is null. */
  predictionSet: string[] | null;
  /** Log-odds in nats that the image is a logo. */
  logoScore: number;
  /** False where the logo score is as low as that of few logos; only best-guess then gives a label. */
  isLogo: boolean;
  /** Whether strict would give the label. */
  highConfidence: boolean;
  /** Whether balanced would give none. */
  lowConfidence: boolean;
  /**
   * Why there is no label: the image is blank or no logo (best-guess labels both), or the confidence is too low; of a
   * multi-label bundle, no label reaches its threshold.
   */
  reason: "blank" | "not_a_logo" | "low_confidence" | "no_label" | null;
}

/** The graph's outputs for one image: (K,) logits before temperature, epistemic in nats; and whether it is blank. */
export interface Output {
  logits: Float32Array;
  epistemic: number | null;
  isBlank: boolean;
}

/** The table `input` of bundle.json. */
export interface InputContract {
  size_px: number;
  light_background: [number, number, number];
  dark_background: [number, number, number];
  dark_above_luminance: number;
  /** Whether four detail planes follow RGB: seven channels instead of three. */
  details?: boolean;
  /** What becomes of an image that is not square: letterboxed by default, or cut to its central square. */
  fit?: "letterbox" | "crop";
}

export interface Conformal {
  level: number;
  threshold: number | null;
  by_class: Record<string, number> | null;
  refused: string;
}

export interface Calibration {
  temperature: number;
  abstain_below: Record<Mode, number>;
  scaling: { method: string; weight: number[][]; bias: number[] } | null;
  conformal: Conformal[];
  familiarity: { threshold: number; false_positive_rate: number } | null;
  /** Of a multi-label bundle: the lowest probability at which each mode gives each label. */
  label_thresholds?: Record<Mode, Record<string, number>> | null;
}

/** The content of bundle.json. */
export interface BundleRecord {
  format: "logo-edge-bundle";
  format_version: 2;
  name: string;
  labels: string[];
  model: { file: string; precision: string; input_name: string; output_name: string; optional_outputs?: string[] };
  input: InputContract & { layout: "NHWC"; dtype: "uint8"; colour: "RGB" };
  calibration: Calibration;
  files: Record<string, { sha256: string; size_bytes: number }>;
  provenance: Record<string, unknown>;
  metrics: Record<string, unknown>;
  reference: Record<string, unknown>;
}

/** A verified bundle: its record, and the bytes of every file that it lists. */
export interface Bundle extends BundleRecord {
  contents: Map<string, Uint8Array>;
}

/** The address of a bundle's folder, or a function from a file's name to its bytes. */
export type BundleSource = string | URL | ((name: string) => BytesLike | Promise<BytesLike>);
type BytesLike = ArrayBuffer | Uint8Array<ArrayBuffer>;

/** A File or Blob, encoded bytes, pixels, or a source that a canvas can draw. */
export type ImageSource = Blob | BytesLike | ImageData | ImageBitmapSource;

export interface DecisionOptions {
  mode?: Mode;
  /** The lowest confidence for a label, 0 to 1, instead of the mode's. */
  threshold?: number;
  /** The level of the prediction sets, one that the bundle has; null for none. Default 0.95, where promised. */
  coverage?: number | null;
}

export interface LoadOptions extends DecisionOptions {
  /** What runs the network. webgpu must give the bundle's golden vectors, or load throws. Default wasm. */
  backend?: "wasm" | "webgpu";
  /** Threads of one forward pass; more than one only in a cross-origin isolated page. Default 1. */
  threads?: number;
  /** The address of onnxruntime-web's .mjs and .wasm, if not beside its module. */
  wasm?: string | { mjs?: string | URL; wasm?: string | URL };
  /** Runs the bundle's golden vectors. Default false. */
  selfTest?: boolean;
}

/** A bundle in memory, ready to classify. */
export class Classifier {
  private constructor();
  static load(source: BundleSource, options?: LoadOptions): Promise<Classifier>;
  readonly bundle: Bundle;
  readonly labels: string[];
  classify(image: ImageSource, options?: DecisionOptions): Promise<Classification>;
  classifyMany(
    images: Iterable<ImageSource> | AsyncIterable<ImageSource>,
    options?: DecisionOptions,
  ): AsyncGenerator<Classification | ImageError>;
  readPixels(image: ImageSource): Promise<Uint8Array>;
  infer(image: ImageSource): Promise<Output>;
  run(pixels: Uint8Array): Promise<Output>;
  decide(output: Output, options?: DecisionOptions): Classification;
  predictionSet(result: Classification, level: number, options?: { byClass?: boolean }): string[];
  runVectors(): Promise<number>;
  release(): Promise<void>;
}

export function readBundle(source: BundleSource): Promise<Bundle>;
export function parseBundle(bytes: Uint8Array): BundleRecord;
export function loadImage(source: ImageSource): Promise<ImageData>;
export function preprocess(
  image: { width: number; height: number; data: Uint8ClampedArray | Uint8Array },
  contract: InputContract,
): Uint8Array;

/** Whether the image is blank: all pixels of `preprocess` have one colour. `channels` is 3, or 7 with details. */
export function isBlank(pixels: Uint8Array, channels?: 3 | 7): boolean;

/** Positions of the patch of `occlusion` along each side. */
export const HEAT_STEPS: 16;

/**
 * (16, 16) falls of the log-odds of `label`, in nats, when a patch of background covers each position of the pixels of
 * `readPixels`. 256 forward passes; `onStep` hears of the share that is done, 0 to 1, and may return a promise.
 */
export function occlusion(
  classifier: Classifier,
  pixels: Uint8Array,
  label: string,
  options?: { onStep?: (share: number) => unknown },
): Promise<Float64Array>;

/** The map of `occlusion` as colours to lay over the image: red for the label, blue against it. */
export function heatColours(heat: Float64Array): ImageData;

export class LogoEdgeError extends Error {}
export class BundleError extends LogoEdgeError {}
export class ImageError extends LogoEdgeError {}
