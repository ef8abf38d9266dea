/** Reads the sizes, scans and variant of an image file before the browser decodes it. */

import { ImageError } from "./errors.js";

export const MAX_PIXELS = 36_000_000;
const WHOLE_PIXELS = 16_000_000; // of formats but JPEG: browsers take 0.1 s for a million pixels of a PNG
const JPEG_SHARE = 4; // times MAX_PIXELS for a JPEG, which is then drawn at 1/2 or less
const COEFFICIENTS = 3; // times MAX_PIXELS for the coefficients of a JPEG of several scans, all in memory at once
const SCANS = 20; // times MAX_PIXELS for scans times pixels
const MOST_SCANS = 14_400;
const SCANNED_BYTES = 20_000_000; // of a JPEG of several scans
const MOST_SEGMENTS = 100_000;
const PNG = "89504e470d0a1a0a";

/**
 * Whether the file has 16 bits a channel. Throws ImageError where it claims more pixels or scans than are allowed.
 *
 * The limits are those of the Python runtime (tests/contract/jpeg_limit_vectors.json); other formats are left to the
 * browser.
 */
export function checkFile(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = textOf(bytes);
  try {
    if (isPng(bytes, 0)) return checkPng(view, text);
    if (text(0, 3) === "\xff\xd8\xff") checkJpeg(bytes, view);
    else if (text(0, 4) === "GIF8") checkPixels(view.getUint16(6, true), view.getUint16(8, true));
    else if (text(0, 2) === "BM") checkPixels(Math.abs(view.getInt32(18, true)), Math.abs(view.getInt32(22, true)));
    else if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") checkWebp(view, text);
    else if (view.getUint32(0) === 0x00000100) checkIcon(bytes, view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a damaged header: the browser says how
  }
  return false;
}

/** The media type of a file that may hold several frames (GIF, WebP, APNG), or null. */
export function animatedType(bytes) {
  const text = textOf(bytes);
  if (text(0, 4) === "GIF8") return "image/gif";
  if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") {
    return text(12, 4) === "VP8X" && bytes[20] & 2 ? "image/webp" : null;
  }
  if (!isPng(bytes, 0)) return null;
  return bytes.subarray(0, 4096).some((_, at) => text(at, 4) === "acTL") ? "image/png" : null;
}

/** The divisor of the sides at which an image of so many pixels has at most MAX_PIXELS. */
export function leastDivisor(pixels) {
  return [1, 2, 4, 8].find((divisor) => pixels <= MAX_PIXELS * divisor * divisor) ?? 8;
}

function checkPixels(width, height, most = WHOLE_PIXELS) {
  if (width * height > most) {
    throw new ImageError(`${width} x ${height} pixels; at most ${most} are read. Scale it down first`);
  }
}

/** A function that gives `length` bytes from `start` on as characters. */
const textOf = (bytes) => (start, length) => String.fromCharCode(...bytes.subarray(start, start + length));

const isPng = (bytes, start) =>
  [...bytes.subarray(start, start + 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("") === PNG;

function checkPng(view, text) {
  if (text(12, 4) === "CgBI") {
    throw new ImageError(
      "a PNG in Apple's variant for iPhones (CgBI); restore it with `xcrun pngcrush -revert-iphone-optimizations IN " +
        "OUT`",
    );
  }
  checkPixels(view.getUint32(16), view.getUint32(20));
  return view.getUint8(24) === 16;
}

function checkWebp(view, text) {
  const kind = text(12, 4);
  const bits = view.getUint32(21, true);
  if (kind === "VP8X") checkPixels((view.getUint32(24, true) & 0xffffff) + 1, (view.getUint32(26, true) >>> 8) + 1);
  else if (kind === "VP8L") checkPixels((bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1);
  else if (kind === "VP8 ") checkPixels(view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff);
}

function checkIcon(bytes, view) {
  for (let index = 0; index < view.getUint16(4, true); index++) {
    const start = view.getUint32(18 + 16 * index, true);
    if (isPng(bytes, start)) checkPixels(view.getUint32(start + 16), view.getUint32(start + 20));
    else checkPixels(Math.abs(view.getInt32(start + 4, true)), Math.abs(view.getInt32(start + 8, true)) / 2);
  }
}

function checkJpeg(bytes, view) {
  let frame = null;
  let at = 2;
  for (let count = 0; count < MOST_SEGMENTS; count++) {
    at = bytes.indexOf(0xff, at);
    if (at < 0) return;
    while (bytes[at] === 0xff) at++;
    const kind = bytes[at++];
    if (kind <= 1 || (kind >= 0xd0 && kind <= 0xd8)) continue;
    if (kind === 0xda) return frame && checkScans(bytes, frame, at - 2, bytes[at + 2]);
    const isFrame = kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind);
    if (isFrame) {
      const blocks = [];
      for (let index = 0; index < bytes[at + 7]; index++) {
        const factors = view.getUint8(at + 9 + 3 * index);
        blocks.push((factors >> 4) * (factors & 15));
      }
      frame = { height: view.getUint16(at + 3), width: view.getUint16(at + 5), isProgressive: kind % 4 === 2, blocks };
    }
    at += view.getUint16(at);
  }
  throw new ImageError(`more than ${MOST_SEGMENTS} segments before its pixels; save it again with an image editor`);
}

function checkScans(bytes, { width, height, isProgressive, blocks }, first, components) {
  let most = JPEG_SHARE * MAX_PIXELS;
  if (isProgressive || components < blocks.length) {
    const total = blocks.reduce((sum, count) => sum + count, 0);
    most = Math.max(MAX_PIXELS, Math.floor((COEFFICIENTS * MAX_PIXELS * Math.max(...blocks)) / total));
    if (bytes.length > SCANNED_BYTES) {
      throw new ImageError(`${bytes.length} bytes of a JPEG of several scans; save it as a baseline JPEG`);
    }
  }
  checkPixels(width, height, most);
  let scans = 0;
  for (let at = first; at >= 0; at = bytes.indexOf(0xff, at + 1)) scans += bytes[at + 1] === 0xda;
  if (scans > MOST_SCANS || scans * width * height > SCANS * MAX_PIXELS) {
    throw new ImageError(`${scans} scans of ${width} x ${height} pixels; save it again, with a few`);
  }
}
