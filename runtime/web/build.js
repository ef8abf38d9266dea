/**
 * Writes the demo as a folder that any static web server can serve:
 * `node build.js [--bundle FOLDER] [--out FOLDER] [--webgpu]`.
 *
 * Nothing is bundled or minified. The folder holds the package's modules, onnxruntime-web's two modules and its WASM,
 * one bundle, the page, and a service worker with the hash of all of them.
 */

import { createHash } from "node:crypto";
import { cp, mkdir, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { readBundle } from "./src/bundle.js";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PYTHON = path.join(HERE, "..", "logo_edge"); // the runtime in Python: its style sheet and its bundle
const ORT_FILES = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
const ASYNCIFY = "ort-wasm-simd-threaded.asyncify";
const WEBGPU_FILES = ["ort.webgpu.min.mjs", `${ASYNCIFY}.mjs`, `${ASYNCIFY}.wasm`];

/** Writes the folder `out` from scratch and returns its number of files. Throws BundleError for a damaged `bundle`. */
async function build(bundle, out, webgpu) {
  await readBundle((name) => readFile(path.join(bundle, name)));
  const part = `${out}.part`;
  await rm(part, { recursive: true, force: true });
  await mkdir(path.join(part, "ort"), { recursive: true });
  await cp(path.join(HERE, "demo"), part, { recursive: true });
  await cp(path.join(PYTHON, "page.css"), path.join(part, "page.css"));
  const filter = (name) => !name.endsWith(".d.ts");
  await cp(path.join(HERE, "src"), path.join(part, "lib"), { recursive: true, filter });
  await cp(bundle, path.join(part, "bundle"), { recursive: true, dereference: true });
  const ort = path.dirname(createRequire(import.meta.url).resolve("onnxruntime-web/wasm"));
  const ortFiles = webgpu ? [...ORT_FILES, ...WEBGPU_FILES] : ORT_FILES;
  for (const name of ortFiles) await cp(path.join(ort, name), path.join(part, "ort", name));
  // Without a bundler a page finds modules only by their address.
  await replace(path.join(part, "lib", "classifier.js"), '"onnxruntime-web/wasm"', '"../ort/ort.wasm.min.mjs"');
  await replace(path.join(part, "lib", "classifier.js"), '"onnxruntime-web/webgpu"', '"../ort/ort.webgpu.min.mjs"');
  const files = (await readdir(part, { recursive: true, withFileTypes: true }))
    .filter((file) => file.isFile() && file.name !== "sw.js")
    .map((file) => path.relative(part, path.join(file.parentPath, file.name)).split(path.sep).join("/"))
    .sort();
  const hash = createHash("sha256");
  for (const name of files) hash.update(`${name}\0`).update(await readFile(path.join(part, name)));
  const version = hash.digest("hex").slice(0, 16);
  await replace(path.join(part, "sw.js"), '"VERSION"', JSON.stringify(version));
  await replace(path.join(part, "sw.js"), "[/* FILES */]", JSON.stringify(["./", ...files]));
  await rm(out, { recursive: true, force: true });
  await rename(part, out);
  return files.length + 1;
}

async function replace(file, old, replacement) {
  const text = await readFile(file, "utf-8");
  if (!text.includes(old)) throw new Error(`${file}: expected ${old} in it`);
  await writeFile(file, text.replace(old, () => replacement));
}

const { values } = parseArgs({
  options: {
    bundle: { type: "string", default: path.join(PYTHON, "default_bundle") },
    out: { type: "string", default: path.join(HERE, "dist") },
    webgpu: { type: "boolean", default: false },
    help: { type: "boolean", short: "h" },
  },
});
if (values.help) {
  console.log("node build.js [--bundle FOLDER] [--out FOLDER] [--webgpu]\n");
  console.log("Writes the demo page with the bundle to a folder; --webgpu adds the files of that backend, 27 MB.");
} else {
  try {
    const count = await build(values.bundle, values.out, values.webgpu);
    const serve = `python3 -m http.server --bind 127.0.0.1 --directory ${values.out}`;
    console.log(`${count} files in ${values.out}; serve them with: ${serve}`);
  } catch (error) {
    console.error(error.name === "BundleError" ? `${values.bundle}: ${error.message}` : error);
    process.exitCode = 1;
  }
}
