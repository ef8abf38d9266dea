/** Classifies logos in the browser with a logo-edge bundle. See docs/use/devices.md. */

export { parseBundle, readBundle } from "./bundle.js";
export { Classifier } from "./classifier.js";
export { MODES, isBlank } from "./decision.js";
export { BundleError, ImageError, LogoEdgeError } from "./errors.js";
export { HEAT_STEPS, heatColours, occlusion } from "./explain.js";
export { loadImage } from "./images.js";
export { preprocess } from "./preprocess.js";
