"""The picture that most tests of the runtime classify."""

from __future__ import annotations

from PIL import Image


def marked(colour: str | tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> Image.Image:
    """A picture of one colour but for a corner that is one step off, which no reduction takes away: it is not blank."""
    image = Image.new("RGB", size, colour)
    red, green, blue = image.getpixel((0, 0))
    image.paste((red + 1 if red < 255 else 254, green, blue), (0, 0, -(-size[0] // 4), -(-size[1] // 4)))
    return image
