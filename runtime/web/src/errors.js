/** The errors that this package throws on purpose; each message says what was found, what was expected, what to do. */

/** Base of every error that a user can cause or fix. */
export class LogoEdgeError extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** A bundle is missing, damaged, tampered with or of another format. */
export class BundleError extends LogoEdgeError {}

/** One input is no readable image; other inputs are not affected. */
export class ImageError extends LogoEdgeError {}
