/** An image from any source -> width, height and RGBA bytes, decoded by the browser without colour management. */

import { ImageError } from "./errors.js";
import { MAX_PIXELS, animatedType, checkFile, leastDivisor } from "./image_file.js";

const MAX_FILE_BYTES = 256 * 1024 * 1024;
const MOST_FRAMES = 100; // of an animation, in which the first frame that is not blank is searched
const SVG_PX = 512; // of the longer side; a drawing has no pixels of its own
const DECODING = { premultiplyAlpha: "none", colorSpaceConversion: "none", imageOrientation: "from-image" };

/**
 * The upright image of a Blob or File, encoded bytes, an ImageData, or a source that a canvas can draw, as ImageData.
 *
 * An animation gives its first frame that is not blank; without WebCodecs its first frame. A canvas stores
 * premultiplied colours and returns rounded straight ones; `preprocess` premultiplies them again, which gives the
 * stored bytes. Throws ImageError when the source is no image, is damaged, or costs too much to decode: more than 16
 * million pixels, or nine times as many for a JPEG, which is drawn at 1/2 above 36 million.
 */
export async function loadImage(source) {
  if (source instanceof ImageData) return source;
  const name = source?.name ? `${source.name}: ` : "";
  const encoded = ArrayBuffer.isView(source) || source instanceof ArrayBuffer ? new Blob([source]) : source;
  const isFile = encoded instanceof Blob && !isSvg(encoded);
  const bytes = isFile ? await readBytes(encoded, name) : null;
  const isDeep = isFile && checkBytes(bytes, name);
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
    const pixels = readPixels(bitmap, name);
    if (isDeep) checkDepth(pixels.data, name);
    return (isFile && showsNothing(pixels) && (await laterFrame(bytes, pixels))) || pixels;
  } finally {
    bitmap.close?.();
  }
}

async function readBytes(file, name) {
  if (file.size === 0) throw new ImageError(`${name}empty (0 bytes); expected an encoded image`);
  if (file.size > MAX_FILE_BYTES) {
    throw new ImageError(`${name}${file.size} bytes; an image file may have up to ${MAX_FILE_BYTES}`);
  }
  return new Uint8Array(await file.arrayBuffer());
}

/** Whether the file has 16 bits a channel. Throws ImageError, with the name, where it must not be decoded. */
function checkBytes(bytes, name) {
  try {
    return checkFile(bytes);
  } catch (error) {
    throw new ImageError(name + error.message, { cause: error });
  }
}

/** Whether all pixels are transparent, or of one colour. */
function showsNothing({ data }) {
  const pixels = new Uint32Array(data.buffer, data.byteOffset, data.length / 4);
  return pixels.every((pixel) => pixel === pixels[0]) || data.every((value, at) => at % 4 < 3 || value === 0);
}

/** The first later frame of an animation that is not blank; null where there is none, and without WebCodecs. */
async function laterFrame(bytes, { width, height }) {
  const type = animatedType(bytes);
  if (!type || typeof ImageDecoder === "undefined" || !(await ImageDecoder.isTypeSupported(type))) return null;
  const decoder = new ImageDecoder({ data: bytes, type, colorSpaceConversion: "none", preferAnimation: true });
  try {
    await Promise.all([decoder.completed, decoder.tracks.ready]);
    const affordable = Math.min(decoder.tracks.selectedTrack.frameCount, MOST_FRAMES, MAX_PIXELS / (width * height));
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    for (let frameIndex = 1; frameIndex < affordable; frameIndex++) {
      const { image } = await decoder.decode({ frameIndex });
      context.clearRect(0, 0, width, height);
      context.drawImage(image, 0, 0, width, height);
      image.close();
      const pixels = context.getImageData(0, 0, width, height);
      if (!showsNothing(pixels)) return pixels;
    }
  } catch {
    // a later frame is damaged: the first one is used
  } finally {
    decoder.close();
  }
  return null;
}

/** Throws ImageError for nearly black images: the browser gives the upper 8 of 16 bits, and cameras may use only 12. */
function checkDepth(rgba, name) {
  let top = 0;
  for (let at = 0; at < rgba.length; at++) if (at % 4 < 3 && rgba[at] > top) top = rgba[at];
  if (top > 0 && top < 16) {
    const advice = "scale them to all 16, or save 8 bits";
    throw new ImageError(`${name}samples of 16 bits that use 12 of them or fewer; ${advice}`);
  }
}

function readPixels(bitmap, name) {
  const divisor = leastDivisor(bitmap.width * bitmap.height);
  const width = Math.ceil(bitmap.width / divisor);
  const height = Math.ceil(bitmap.height / divisor);
  if (width * height > MAX_PIXELS) {
    throw new ImageError(`${name}${bitmap.width} x ${bitmap.height} pixels, too many to be read. Scale it down first`);
  }
  try {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  } catch (error) {
    throw new ImageError(`${name}${width} x ${height} pixels, too many for this browser; scale it down first`, {
      cause: error,
    });
  }
}

const isSvg = (source) => source instanceof Blob && source.type === "image/svg+xml";

/** An SVG drawn as an image: the browser runs none of its scripts and loads nothing that it names. */
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
