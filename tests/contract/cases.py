"""Cases for runtimes in other languages, besides the committed vectors: images in many encodings, and a graph."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from fuzz.bombs import progressive
from onnx import TensorProto, helper
from PIL import Image, PngImagePlugin
from PIL.ImageCms import ImageCmsProfile, createProfile

from logo_edge import InputContract
from logo_edge.bundle.record import RECORD, write_record

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OFFSET = 84.5
RED_EPISTEMIC = 255 / 3 - OFFSET  # nats, of a full red image, by `write_epistemic_bundle`; of a black one it is below 0


def contract_of(vector: dict) -> InputContract:
    """The input of a preprocessing vector."""
    return InputContract(vector["size_px"], details=vector["details"], fit=vector["fit"])


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def every_alpha() -> Image.Image:
    """256 x 256: each colour of red, green and blue under each alpha."""
    ramp, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    return Image.fromarray(np.dstack([ramp, 255 - ramp, ramp // 2, alpha]))


def noise(width: int, height: int, channels: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values)


def encoded_images() -> dict[str, bytes]:
    """Images on which decoders and canvases may differ: alpha, palettes, depths, colour management, orientation."""
    logo = Image.open(ROOT / "runtime/logo_edge/samples/04-complex.png").convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", logo.size, (250, 240, 200)), logo).convert("RGB")
    wide = opaque.crop((0, 40, opaque.width, 180))
    gamma, orientation = PngImagePlugin.PngInfo(), Image.Exif()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    orientation[0x0112] = 6
    profile = ImageCmsProfile(createProfile("LAB")).tobytes()
    deep = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    return {
        "png-rgba": encode(logo, "PNG"),
        "png-every-alpha": encode(every_alpha(), "PNG"),
        "png-rgb": encode(wide, "PNG"),
        "png-palette": encode(wide.quantize(40), "PNG"),
        "png-palette-transparency": (HERE / "preprocess" / "palette-alpha.png").read_bytes(),
        "png-grey": encode(wide.convert("L"), "PNG"),
        "png-grey-alpha": encode(logo.convert("LA"), "PNG"),
        "png-one-bit": encode(wide.convert("1"), "PNG"),
        "png-16-bit": encode(deep, "PNG"),
        "png-gamma": encode(wide, "PNG", pnginfo=gamma),
        "png-profile": encode(wide, "PNG", icc_profile=profile),
        "jpeg-420": encode(wide, "JPEG", quality=75),
        "jpeg-444": encode(wide, "JPEG", quality=95, subsampling=0),
        "jpeg-progressive": encode(wide, "JPEG", quality=60, progressive=True),
        "jpeg-grey": encode(wide.convert("L"), "JPEG"),
        "jpeg-cmyk": encode(wide.convert("CMYK"), "JPEG"),
        "jpeg-rotated": encode(wide, "JPEG", exif=orientation),
        "webp-alpha": encode(logo, "WEBP", quality=80),
        "webp-every-alpha": encode(every_alpha(), "WEBP", lossless=True, exact=True),
        "gif-transparency": encode(logo.quantize(64), "GIF"),
        "bmp": encode(wide, "BMP"),
        "tall": encode(noise(7, 301, 3), "PNG"),
        "wide": encode(noise(301, 2, 4), "PNG"),
        "half-pixel": encode(noise(256, 129, 4), "PNG"),
        "one-pixel": encode(noise(1, 1, 4), "PNG"),
        "clear": encode(Image.new("RGBA", (40, 30)), "PNG"),
        "large": encode(noise(1201, 803, 3), "PNG"),
    }


def jpeg_of_vector(vector: dict) -> bytes:
    """The file of a row of jpeg_limit_vectors.json: progressive where it has several scans, else baseline."""
    width, height, scans = vector["width"], vector["height"], vector["scans"]
    if scans > 1:
        return progressive(width, height, scans)
    if vector["size"]:
        return encode(Image.new("RGB", (width, height), "teal"), "JPEG")
    data = bytearray(encode(Image.new("RGB", (64, 64), "teal"), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def write_epistemic_bundle(fake_bundle: Callable[..., Path], fake_model: Callable[..., bytes]) -> Path:
    """A fake bundle whose graph also gives `epistemic`: the mean of all pixels less OFFSET."""
    model = onnx.load_from_string(fake_model())
    model.graph.node.append(helper.make_node("ReduceMean", ["colour"], ["mean"], axes=[1], keepdims=0))
    model.graph.node.append(helper.make_node("Sub", ["mean", "offset"], ["epistemic"]))
    model.graph.initializer.append(helper.make_tensor("offset", TensorProto.FLOAT, [], [OFFSET]))
    model.graph.output.append(helper.make_tensor_value_info("epistemic", TensorProto.FLOAT, ["batch"]))
    folder = fake_bundle(model=model.SerializeToString(), temperature=4.0)
    record = json.loads((folder / RECORD).read_text())
    record["model"]["optional_outputs"] = ["epistemic"]
    write_record(folder, json.dumps(record).encode())
    return folder
