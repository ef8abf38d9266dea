/** Which parts of an image a classification depends on, as `logo_edge.explain` computes it: an occlusion heat map. */

import { borderColour, channelsOf, roundHalfEven } from "./preprocess.js";

export const HEAT_STEPS = 16; // positions of the patch along each side
const PATCH = 1 / 8; // side of the patch, as a share of the image's
const TINY = 2.2250738585072014e-308; // the smallest normal number: log-odds are finite
const FOR = [214, 39, 40]; // colours of evidence for and against the label
const AGAINST = [31, 119, 180];

/**
 * (16, 16) float64: the fall of the log-odds of `label` when a patch of background covers each position.
 *
 * `pixels` are those of `readPixels`. These are 256 forward passes: `onStep` hears of the share that is done after each
 * row, and is awaited. Zeiler and Fergus 2014, arXiv:1311.2901.
 */
export async function occlusion(classifier, pixels, label, { onStep = () => {} } = {}) {
  const { size_px: size } = classifier.bundle.input;
  const channels = channelsOf(classifier.bundle.input);
  const side = Math.max(1, roundHalfEven(size * PATCH));
  const starts = Array.from({ length: HEAT_STEPS }, (_, step) =>
    roundHalfEven((step * (size - side)) / (HEAT_STEPS - 1)),
  );
  const background = new Uint8Array(channels); // no detail in it
  background.set(borderColour(pixels, size, size, channels));
  const whole = await logOdds(classifier, pixels, label);
  const heat = new Float64Array(HEAT_STEPS ** 2);
  for (const [row, top] of starts.entries()) {
    for (const [column, left] of starts.entries()) {
      const covered = pixels.slice();
      for (let y = top; y < top + side; y++) {
        for (let x = left; x < left + side; x++) covered.set(background, (y * size + x) * channels);
      }
      heat[row * HEAT_STEPS + column] = whole - (await logOdds(classifier, covered, label));
    }
    await onStep((row + 1) / HEAT_STEPS);
  }
  return heat;
}

/** ImageData of (16, 16) colours to lay over the image: red for the label, blue against it, relative to the strongest. */
export function heatColours(heat) {
  const strongest = Math.max(1e-9, ...heat.map(Math.abs));
  const colours = new ImageData(HEAT_STEPS, HEAT_STEPS);
  heat.forEach((fall, index) => {
    const alpha = 255 * 0.75 * (Math.abs(fall) / strongest) ** 0.7;
    colours.data.set([...(fall > 0 ? FOR : AGAINST), alpha], 4 * index);
  });
  return colours;
}

async function logOdds(classifier, pixels, label) {
  const { probabilities } = classifier.decide(await classifier.run(pixels), { coverage: null });
  const probability = probabilities[label];
  return Math.log(Math.max(probability, TINY)) - Math.log(Math.max(1 - probability, TINY));
}
