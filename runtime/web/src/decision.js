/** From logits to a decision, as `logo_edge.decision` defines it. */

import { BundleError } from "./errors.js";

/** How confident a classifier must be to give a label; best-guess always gives one. */
export const MODES = Object.freeze(["best-guess", "balanced", "strict"]);

/**
 * The calibrated decision on one image.
 *
 * `output` holds the (K,) `logits` before temperature, `epistemic` in nats or null, and `isBlank`. Every `mode` but
 * best-guess gives a blank image or one that is no logo no label. `threshold` is the lowest confidence for a label, or
 * null for the mode's; `coverage` the level of the prediction set, or null.
 */
export function decide({ calibration, labels: names }, output, { mode, threshold, coverage }) {
  const logits = Array.from(output.logits);
  const multiLabel = isMultiLabel(calibration);
  const values = (multiLabel ? sigmoid : softmax)(calibratedLogits(logits, calibration));
  const best = values.reduce((top, value, index) => (value > values[top] ? index : top), 0); // the first of equal ones
  const confidence = values[best];
  const probabilities = Object.fromEntries(names.map((label, index) => [label, values[index]]));
  const { isBlank } = output;
  const logoScore = logSumExp(logits);
  const isLogo = calibration.familiarity === null || logoScore >= calibration.familiarity.threshold;
  const unfit = isBlank ? "blank" : isLogo ? null : "not_a_logo";
  const withheld = mode === "best-guess" ? null : unfit;
  const given = (level, least = null) => confidentLabels(calibration, probabilities, names[best], level, least);
  const labels = withheld === null ? given(mode, threshold) : [];
  const reason = withheld ?? (labels.length ? null : multiLabel ? "no_label" : "low_confidence");
  const entropy = entropyOf(values) + (multiLabel ? entropyOf(values.map((value) => 1 - value)) : 0);
  const epistemic = output.epistemic === null ? null : Math.max(0, output.epistemic);
  return {
    label: labels[0] ?? null,
    labels: multiLabel ? labels : null,
    bestGuess: names[best],
    confidence,
    probabilities,
    aleatoric: Math.max(0, entropy - (epistemic ?? 0)),
    epistemic,
    predictionSet: coverage === null ? null : predictionSet(calibration, probabilities, coverage),
    logoScore,
    isLogo,
    highConfidence: unfit === null && given("strict").length > 0,
    lowConfidence: unfit !== null || given("balanced").length === 0,
    reason,
  };
}

/** Whether an image may have several labels or none. */
export const isMultiLabel = (calibration) => (calibration.label_thresholds ?? null) !== null;

/** The labels that `mode` gives to a logo, the most probable first; `threshold`, if not null, replaces the mode's. */
function confidentLabels(calibration, probabilities, bestGuess, mode, threshold) {
  if (!isMultiLabel(calibration)) {
    return probabilities[bestGuess] >= (threshold ?? calibration.abstain_below[mode]) ? [bestGuess] : []; // NaN: none
  }
  const thresholds = calibration.label_thresholds[mode];
  return byProbability(probabilities).filter((label) => probabilities[label] >= (threshold ?? thresholds[label]));
}

/** The labels, the most probable first. */
function byProbability(probabilities) {
  return Object.keys(probabilities).sort((one, other) => probabilities[other] - probabilities[one]);
}

/** Whether the image is blank: all its (S, S, channels) pixels, as the model sees them, have one colour. */
export function isBlank(pixels, channels = 3) {
  return pixels.every((value, index) => index % channels >= 3 || value === pixels[index % channels]);
}

/**
 * (K,) numbers whose softmax, multi-label sigmoid, are the calibrated probabilities. Guo et al. 2017; Kull et al. 2019.
 */
export function calibratedLogits(logits, calibration) {
  const { temperature, scaling } = calibration;
  const scaled = logits.map((logit) => logit / temperature);
  if (scaling === null) return scaled;
  const total = isMultiLabel(calibration) ? 0 : logSumExp(scaled);
  const logarithms = scaled.map((logit) => logit - total);
  return scaling.weight.map((row, index) =>
    row.reduce((sum, weight, column) => sum + weight * logarithms[column], scaling.bias[index]),
  );
}

/** (K,) probabilities of sum 1. */
export function softmax(logits) {
  const top = Math.max(...logits);
  const exponentials = logits.map((logit) => Math.exp(logit - top));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  return exponentials.map((value) => value / total);
}

/** (K,) probabilities that do not exclude each other. */
export const sigmoid = (logits) => logits.map((logit) => 1 / (1 + Math.exp(-logit)));

/** The entropy in nats of (K,) probabilities. */
function entropyOf(values) {
  return -values.reduce((sum, value) => sum + (value > 0 ? value * Math.log(value) : 0), 0);
}

/** The logarithm of the sum of the exponentials, without overflow. */
function logSumExp(logits) {
  const top = Math.max(...logits);
  return top + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
}

/**
 * The labels that hold the true one with P >= `level`, the most probable first; none, some or all of them.
 *
 * With `byClass` the promise holds for the images of each class, and sets are larger. Those of a multi-label bundle hold
 * a share of at least `level` of an image's labels, in expectation. Throws BundleError, with the reason, where the
 * bundle has no threshold at the level.
 */
export function predictionSet(calibration, probabilities, level, { byClass = false } = {}) {
  const conformal = calibration.conformal.find((candidate) => candidate.level === level);
  if (conformal === undefined) {
    const levels = calibration.conformal.map((candidate) => candidate.level).join(", ") || "none";
    throw new BundleError(`no prediction sets at level ${level}; the bundle holds these: ${levels}`);
  }
  const { threshold, by_class: thresholds, refused } = conformal;
  if ((byClass ? thresholds : threshold) === null) {
    throw new BundleError(
      `no prediction sets${byClass ? " by class" : ""} at level ${level}: ${refused}. Ask for a lower level` +
        `${byClass && threshold !== null ? ", or for sets over all classes," : ""} or calibrate on more images`,
    );
  }
  return byProbability(probabilities).filter(
    (label) => probabilities[label] >= (byClass ? thresholds[label] : threshold),
  );
}
