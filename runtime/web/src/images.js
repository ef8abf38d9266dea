/** Anything that a page calls an image -> width, height and RGBA bytes, decoded by the browser without colour management. */

import { ImageError } from "./errors.js";

const MAX_FILE_BYTES = 256 * 1024 * 1024;
const MAX_PIXELS = 36_000_000;
const SVG_PX = 512; // of the longer side; a drawing has no pixels of its own
const DECODING = { premultiplyAlpha: "none", colorSpaceConversion: "none", imageOrientation: "from-image" };

/**
 * The upright image behind a Blob or File, encoded bytes, an ImageData, or what a canvas can draw, as an ImageData.
 *
 * Of an animation it is the first frame. A canvas keeps premultiplied colours, so that straight ones come back rounded;
 * `preprocess` multiplies them again, and that gives the very bytes that were drawn. Throws ImageError when it is no
 * image, is damaged, or has more than 36 million pixels.
 */
export async function loadImage(source) {
  if (source instanceof ImageData) return source;
  const name = source?.name ? `${source.name}: ` : "";
  const encoded = ArrayBuffer.isView(source) || source instanceof ArrayBuffer ? new Blob([source]) : source;
  if (encoded instanceof Blob) checkFile(encoded, name);
  let bitmap;
  try {
    bitmap = await (isSvg(encoded) ? rasterizeSvg(encoded) : createImageBitmap(encoded, DECODING));
  } catch (error) {
    throw new ImageError(
      `${name}not an image that this browser can read, or a damaged one (${error.message}); expected PNG, JPEG, ` +
        "WebP, GIF, BMP or SVG",
      { cause: error },
    );
  }
  try {
    return readPixels(bitmap, name);
  } finally {
    bitmap.close?.();
  }
}

function checkFile(file, name) {
  if (file.size === 0) throw new ImageError(`${name}empty (0 bytes); expected an encoded image`);
  if (file.size > MAX_FILE_BYTES) {
    throw new ImageError(`${name}${file.size} bytes; an image file may have up to ${MAX_FILE_BYTES}`);
  }
}

function readPixels(bitmap, name) {
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    throw new ImageError(`${name}${width} x ${height} pixels; at most ${MAX_PIXELS} are read. Scale it down first`);
  }
  try {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } catch (error) {
    throw new ImageError(`${name}${width} x ${height} pixels, too many for this browser; scale it down first`, {
      cause: error,
    });
  }
}

const isSvg = (source) => source instanceof Blob && source.type === "image/svg+xml";

/** An SVG shown as a picture: the browser runs no script of it and loads nothing that it names. */
async function rasterizeSvg(file) {
  const address = URL.createObjectURL(file);
  try {
    const picture = new Image();
    picture.src = address;
    await picture.decode();
    const scale = SVG_PX / Math.max(picture.width, picture.height, 1);
    const width = Math.max(1, Math.round(picture.width * scale));
    const height = Math.max(1, Math.round(picture.height * scale));
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").drawImage(picture, 0, 0, width, height);
    return canvas;
  } finally {
    URL.revokeObjectURL(address);
  }
}
