/**
 * The one preprocessing, image -> square uint8 tensor; equal to `logo_edge.preprocess` to the byte.
 *
 * The resampling is that of Pillow 13: a triangle filter whose support grows with the reduction, in fixed point of 22
 * bits, along one axis after the other, each pass rounded to 8 bits.
 */

const PRECISION_BITS = 22;
const DETAIL_PX = 256; // longer side at which the detail planes are computed
const DETAIL_PLANES = 4;
const REACH_PX = 6; // the farthest neighbour that a detail plane reads

/** The number of channels that the model reads: 3 for RGB, and those of the detail planes in the contract. */
export const channelsOf = ({ details = false }) => 3 + (details ? DETAIL_PLANES : 0);

/**
 * The image as the model reads it, (size_px, size_px, channels) uint8: RGB, then the detail planes of the contract.
 *
 * `image` is an ImageData or another object with width, height and data: RGBA, straight alpha, 8 bits a channel.
 * `contract` is the table `input` of bundle.json.
 */
export function preprocess(image, contract) {
  if (contract.fit === "crop") image = centralSquare(image);
  const size = contract.size_px;
  const channels = channelsOf(contract);
  const [width, height] = letterboxedSize(image.width, image.height, size);
  const opaque = isOpaque(image.data);
  const source = opaque ? image.data : premultiply(image.data);
  const [wide, high] = contract.details ? detailSize(image.width, image.height) : [width, height];
  let ink = resample(source, image.width, image.height, wide, high);
  let background;
  if (!opaque) {
    background = pickBackground(ink, contract);
    composite(ink, background);
  }
  let planes;
  if (contract.details) {
    planes = resample(detailPlanes(ink, wide, high), wide, high, width, height);
    ink = resample(ink, wide, high, width, height);
  }
  if (opaque) background = borderColour(ink, width, height);
  const square = new Uint8Array(size * size * channels);
  for (let at = 0; at < square.length; at += channels) square.set(background, at);
  const left = (size - width) >> 1;
  const top = (size - height) >> 1;
  for (let y = 0; y < height; y++) {
    let to = ((top + y) * size + left) * channels;
    for (let x = 0, from = y * width * 4; x < width; x++, from += 4, to += channels) {
      for (let channel = 0; channel < 3; channel++) square[to + channel] = ink[from + channel];
      if (planes) for (let plane = 0; plane < DETAIL_PLANES; plane++) square[to + 3 + plane] = planes[from + plane];
    }
  }
  return square;
}

/** The square in the middle of the image, as in Python. */
function centralSquare({ width, height, data }) {
  const side = Math.min(width, height);
  const first = (((height - side) >> 1) * width + ((width - side) >> 1)) * 4;
  const square = new Uint8ClampedArray(side * side * 4);
  for (let y = 0; y < side; y++) {
    const from = first + y * width * 4;
    square.set(data.subarray(from, from + side * 4), y * side * 4);
  }
  return { width: side, height: side, data: square };
}

/** [width, height] in pixels at which detail planes are computed; the longer side is at most DETAIL_PX. */
function detailSize(width, height) {
  return Math.max(width, height) > DETAIL_PX ? letterboxedSize(width, height, DETAIL_PX) : [width, height];
}

/** (height, width, 4): near fade, far fade, ramp and edge at each pixel of opaque RGBA, as in Python. */
function detailPlanes(rgba, width, height) {
  const pitch = width + 2 * REACH_PX;
  const padded = [0, 1, 2].map((channel) => padChannel(rgba, width, height, channel));
  const summed = padded.map((values) => sumNeighbours(values, pitch));
  const planes = new Uint8ClampedArray(width * height * DETAIL_PLANES);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0, at = (y + REACH_PX) * pitch + REACH_PX; x < width; x++, at++, to += DETAIL_PLANES) {
      if (isFade(padded, at, 2, 3, 24) || isFade(padded, at, 2 * pitch, 3, 24)) planes[to] = 255;
      if (isFade(padded, at, 6, 4, 48) || isFade(padded, at, 6 * pitch, 4, 48)) planes[to + 1] = 255;
      if (summed.some((sums) => isRamp(sums, at, 1) || isRamp(sums, at, pitch))) planes[to + 2] = 255;
      planes[to + 3] = Math.max(...padded.map((values) => laplacian(values, at, pitch))); // clamped to 255
    }
  }
  return planes;
}

/** (height + 12, width + 12) of one channel; border pixels repeat beyond the border. */
function padChannel(rgba, width, height, channel) {
  const pitch = width + 2 * REACH_PX;
  const padded = new Int16Array(pitch * (height + 2 * REACH_PX));
  for (let at = 0; at < padded.length; at++) {
    const x = Math.min(Math.max((at % pitch) - REACH_PX, 0), width - 1);
    const y = Math.min(Math.max(Math.floor(at / pitch) - REACH_PX, 0), height - 1);
    padded[at] = rgba[(y * width + x) * 4 + channel];
  }
  return padded;
}

/** The sum of the 3 x 3 pixels around each one; undefined at the border. */
function sumNeighbours(values, pitch) {
  const columns = values.map((value, at) => values[at - pitch] + value + values[at + pitch]);
  return columns.map((value, at) => columns[at - 1] + value + columns[at + 1]);
}

/** Whether the colour changes smoothly between the neighbours `apart` away. */
function isFade(channels, at, apart, least, most) {
  let change = 0;
  let bend = 0;
  for (const values of channels) {
    change = Math.max(change, Math.abs(values[at + apart] - values[at - apart]));
    bend = Math.max(bend, Math.abs(values[at + apart] - 2 * values[at] + values[at - apart]));
  }
  return change >= least && change <= most && 3 * bend <= Math.max(change, 4);
}

/** Whether eight steps of the 3 x 3 sums, `pitch` apart, are small and of one sign. */
function isRamp(sums, at, pitch) {
  const total = sums[at + 4 * pitch] - sums[at - 4 * pitch];
  const change = Math.abs(total);
  if (change < 27) return false;
  let lowest = Infinity;
  let highest = -Infinity;
  for (let step = -4; step < 4; step++) {
    const rise = (sums[at + (step + 1) * pitch] - sums[at + step * pitch]) * Math.sign(total);
    lowest = Math.min(lowest, rise);
    highest = Math.max(highest, rise);
  }
  return lowest >= -3 && highest < 90 && 16 * highest <= Math.max(5 * change, 200);
}

function laplacian(values, at, pitch) {
  return Math.abs(4 * values[at] - values[at - 1] - values[at + 1] - values[at - pitch] - values[at + pitch]);
}

/** [width, height] in pixels after scaling the longer side to `squarePx`; at least 1 each. */
export function letterboxedSize(width, height, squarePx) {
  return width >= height
    ? [squarePx, Math.max(1, roundHalfEven((height * squarePx) / width))]
    : [Math.max(1, roundHalfEven((width * squarePx) / height)), squarePx];
}

/** To the nearest integer and, halfway between two, to the even one: Python's round. */
export function roundHalfEven(value) {
  const low = Math.floor(value);
  const above = value - low;
  return above > 0.5 || (above === 0.5 && low % 2 === 1) ? low + 1 : low;
}

function isOpaque(rgba) {
  for (let index = 3; index < rgba.length; index += 4) if (rgba[index] !== 255) return false;
  return true;
}

function premultiply(rgba) {
  const result = new Uint8ClampedArray(rgba.length);
  for (let index = 0; index < rgba.length; index += 4) {
    const alpha = rgba[index + 3];
    for (let channel = index; channel < index + 3; channel++) {
      const product = rgba[channel] * alpha + 128;
      result[channel] = ((product >> 8) + product) >> 8; // round(colour * alpha / 255)
    }
    result[index + 3] = alpha;
  }
  return result;
}

/**
 * (height, width, 4) of (fromHeight, fromWidth, 4), both uint8.
 *
 * Pillow scales rows first, except for images that lose more than twice as much height as width.
 */
function resample(pixels, fromWidth, fromHeight, width, height) {
  const columnsFirst = fromHeight > height && fromHeight - height > 2 * (fromWidth - width);
  const rows = (source, lines) =>
    fromWidth === width ? source : scaleAxis(source, fromWidth, width, lines, 4, fromWidth * 4, width * 4);
  const columns = (source, lines) =>
    fromHeight === height ? source : scaleAxis(source, fromHeight, height, lines, lines * 4, 4, 4);
  const scaled = columnsFirst ? rows(columns(pixels, fromWidth), height) : columns(rows(pixels, fromHeight), width);
  return scaled === pixels ? Uint8ClampedArray.from(pixels) : scaled;
}

/**
 * Scales `lines` lines from `from` to `to` pixels. Neighbours on a line are `step` bytes apart; neighbouring lines are
 * `fromPitch` bytes apart in the source and `toPitch` in the result.
 */
function scaleAxis(pixels, from, to, lines, step, fromPitch, toPitch) {
  const result = new Uint8ClampedArray(to * lines * 4);
  const taps = filterTaps(from, to);
  for (let line = 0; line < lines; line++) {
    for (let index = 0; index < to; index++) {
      const { first, weights } = taps[index];
      let red = 1 << (PRECISION_BITS - 1);
      let green = red;
      let blue = red;
      let alpha = red;
      let at = line * fromPitch + first * step;
      for (let tap = 0; tap < weights.length; tap++, at += step) {
        const weight = weights[tap];
        red += pixels[at] * weight;
        green += pixels[at + 1] * weight;
        blue += pixels[at + 2] * weight;
        alpha += pixels[at + 3] * weight;
      }
      const put = line * toPitch + index * step;
      result[put] = red >> PRECISION_BITS;
      result[put + 1] = green >> PRECISION_BITS;
      result[put + 2] = blue >> PRECISION_BITS;
      result[put + 3] = alpha >> PRECISION_BITS;
    }
  }
  return result;
}

/** For each of `to` pixels the `first` of `from` that it reads and the integer `weights`, of sum 2 ** 22. */
function filterTaps(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = new Float64Array(last - first);
    let total = 0;
    for (let tap = 0; tap < weights.length; tap++) {
      weights[tap] = Math.max(0, 1 - Math.abs((tap + first - centre + 0.5) * (1 / support)));
      total += weights[tap];
    }
    return { first, weights: Int32Array.from(weights, (weight) => 0.5 + (weight / total) * 2 ** PRECISION_BITS) };
  });
}

/** The dark background where the ink is nearly white, else the light one. `rgba` is premultiplied. */
function pickBackground(rgba, contract) {
  let red = 0;
  let green = 0;
  let blue = 0;
  let alpha = 0;
  for (let index = 0; index < rgba.length; index += 4) {
    red += rgba[index];
    green += rgba[index + 1];
    blue += rgba[index + 2];
    alpha += rgba[index + 3];
  }
  const weighted = 255 * (299 * red + 587 * green + 114 * blue);
  return weighted > 1000 * alpha * contract.dark_above_luminance ? contract.dark_background : contract.light_background;
}

function composite(premultiplied, background) {
  for (let index = 0; index < premultiplied.length; index += 4) {
    const clear = 255 - premultiplied[index + 3];
    for (let channel = 0; channel < 3; channel++) {
      premultiplied[index + channel] += Math.floor((clear * background[channel] + 127) / 255);
    }
  }
}

/** The median colour of the border of opaque (height, width, `channels`) pixels; each corner counts twice. */
export function borderColour(pixels, width, height, channels = 4) {
  const border = [];
  for (let x = 0; x < width; x++) border.push(x, (height - 1) * width + x);
  for (let y = 0; y < height; y++) border.push(y * width, y * width + width - 1);
  return [0, 1, 2].map((channel) => {
    const values = Uint8Array.from(border, (pixel) => pixels[pixel * channels + channel]).sort();
    return (values[values.length / 2 - 1] + values[values.length / 2]) >> 1;
  });
}
