"""Words and lines of text, in the fonts that locks/ pins."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageDraw, ImageFont

from logo_edge_train.data.outliers.drawing import Random, pick
from logo_edge_train.data.outliers.packages import find_font

LATIN = ("inter", "lora", "merriweather", "noto-serif", "ibm-plex-mono", "jetbrains-mono")
MONO = ("ibm-plex-mono", "jetbrains-mono")
SCRIPTS = (
    ("noto-serif", "cyrillic"),
    ("noto-serif", "greek"),
    ("noto-sans-devanagari", "devanagari"),
    ("noto-sans-jp", "119"),
    ("noto-sans-jp", "110"),
    ("lora", "cyrillic"),
)
WORDS = (
    "account amount and are average before between bericht cable carbon carton chaque city clause client cold comme "
    "committee contract copper dans date delivery der die digital dinner distance east engine evening every field "
    "figure final für garden glass hour hundred index invoice item january kilometer la large le les letter library "
    "light line list luna market méthode member model month mountain nicht north number october office onder order "
    "para paper percent por power price produkt que rain rapport result river road sample season section series "
    "service signal société soil south station steel storm street student summer sur system table target temperature "
    "the total town train transport und valley value version village volume water weather week west winter with wood "
    "work year zeit zone"
).split()
KEYWORDS = (
    "def return if else for while import class fn let const match async await struct use pub static void int".split()
)
NAMES = (
    "value index count self node items path config buffer result key data offset user size total request limit".split()
)
LIGHT = ((255, 255, 255), (255, 255, 255), (255, 255, 255), (250, 248, 240), (243, 244, 246))
DARK = ((24, 26, 31), (40, 42, 54), (0, 43, 54), (12, 12, 12))


@lru_cache(maxsize=256)
def font_of(path: str, size: int) -> ImageFont.FreeTypeFont:
    engine = ImageFont.Layout.BASIC if "-latin-" in path else None  # other scripts need shaping
    return ImageFont.truetype(path, size, layout_engine=engine)


def latin(random: Random, size: int, families=LATIN) -> ImageFont.FreeTypeFont:
    """A font of the Latin alphabet, regular or bold."""
    return font_of(find_font(pick(random, families), "latin", int(pick(random, (400, 400, 700)))), size)


def words(random: Random, count: int, letters: str = "") -> str:
    """`count` words, or random words of `letters`."""
    if letters:
        return " ".join(
            "".join(letters[at] for at in random.integers(len(letters), size=int(random.integers(2, 9))))
            for _ in range(count)
        )
    return " ".join(WORDS[at] for at in random.integers(len(WORDS), size=count))


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], width: float, text: str, font, fill) -> None:
    """One line of the text, cut to the width."""
    length = font.getlength(text)
    pen.text(at, text[: int(len(text) * max(width, 0) / length)] if length > width else text, font=font, fill=fill)


def write_lines(
    pen, box, random: Random, font, fill, *, letters: str = "", leading: float = 1.4, raggedness: float = 0.12
):
    """Paragraphs of running text inside the box (left, top, right, bottom)."""
    left, top, right, bottom = box
    step, size = font.size * leading, font.size
    y, in_paragraph = top, int(random.integers(3, 9))
    while y + size < bottom:
        width = (right - left) * (1 - raggedness * random.random() if in_paragraph else random.uniform(0.2, 0.8))
        write(pen, (left, y), width, words(random, max(2, int(width / size / 2.2)), letters), font, fill)
        y += step if in_paragraph else step * 1.7
        in_paragraph = in_paragraph - 1 if in_paragraph else int(random.integers(2, 9))
