"""What is read on logos: letters drawn by a font, shapes that are none, and a journal that an interruption may tear."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from logo_edge.errors import LogoEdgeError
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest
from logo_edge_train.review import lettering
from logo_edge_train.review.lettering import (
    Line,
    Reading,
    describe_lettering,
    find_boxes,
    read_lettering,
    read_line,
    read_rows,
)

TOTAL, WIDTH = 2, 16  # in the features: characters that are read, and their share of the width


def write_word(path, word: str, size_px: int = 60):
    image = Image.new("RGBA", (300, 140))
    ImageDraw.Draw(image).text((20, 30), word, (20, 40, 160, 255), ImageFont.load_default(size_px))
    image.save(path)
    return path


def test_a_word_is_read_where_it_stands(tmp_path):
    reading = read_lettering(write_word(tmp_path / "word.png", "Harbor"))
    assert [line.text for line in reading.lines] == ["Harbor"]
    assert min(reading.lines[0].confidences) > 0.8
    features = describe_lettering(reading)
    assert features[TOTAL] == 6
    assert features[WIDTH] > 0.9, "the logo is nothing else"
    assert np.isfinite(features).all()


def test_on_a_disc_no_word_is_read(tmp_path):
    image = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(image).ellipse((20, 20, 180, 180), (200, 30, 30, 255))
    image.save(tmp_path / "disc.png")
    features = describe_lettering(read_lettering(tmp_path / "disc.png"))
    assert features[TOTAL] <= 1
    assert np.isfinite(features).all()


def test_characters_that_are_no_letters_or_digits_do_not_count():
    line = Line([[0, 0], [1, 0], [1, 0.5], [0, 0.5]], 0.9, "中-A1", [0.9, 0.9, 0.9, 0.4], [0.9, 0.1, 0.8])
    features = describe_lettering(Reading([line], 0.4, 0.9, 2.0))
    assert features[TOTAL] == 1, "1 is not sure enough"


def test_a_box_grows_by_what_the_map_has_shrunk():
    text_map = np.zeros((64, 64), np.float32)
    text_map[20:30, 10:50] = 0.9
    ((box, score),) = find_boxes(text_map)
    assert 0.75 < score <= 0.9
    grown = 1.6 * 40 * 10 / 50 / 2
    assert box[0] == pytest.approx((10 - grown, 20 - grown), abs=2)
    assert box[2] == pytest.approx((50 + grown, 30 + grown), abs=2)
    assert list(find_boxes(np.zeros((64, 64), np.float32))) == []


def test_repeated_characters_are_one_unless_a_blank_parts_them(monkeypatch):
    probabilities = np.eye(3)[[0, 1, 1, 0, 1, 2, 0]][None] * 0.9

    class Recogniser:
        def run(self, outputs, inputs):
            return [probabilities]

    monkeypatch.setattr(lettering, "_recogniser", lambda: (Recogniser(), ["", "A", "1"], np.array([-1, 0, 1])))
    text, confidences, kinds = read_line(np.zeros((10, 30, 3), np.uint8))
    assert (text, confidences, kinds) == ("AA1", [0.9] * 3, [0.9, 0.9, 0.0])


def test_a_journal_keeps_what_was_read_and_a_torn_line_is_read_again(tmp_path, monkeypatch):
    rows = [LogoRow(FILES, "", f"{word}.png", label=word) for word in ("one", "two", "three")]
    for row in rows:
        write_word(tmp_path / row.icon, row.label)
    manifest, seen = Manifest(tuple(rows), tmp_path), []

    def read(path):
        seen.append(path.name)
        return Reading([Line([[0, 0], [1, 0], [1, 1], [0, 1]], 0.5, path.stem, [1.0], [1.0, 0.0, 0.0])], 0.1, 0.2, 1.0)

    monkeypatch.setattr(lettering, "read_lettering", read)
    first = read_rows(manifest, rows, tmp_path / "kept")
    assert [next(first).lines[0].text, next(first).lines[0].text] == ["one", "two"]
    first.close()
    (journal,) = (tmp_path / "kept").glob("lettering-*.jsonl")
    journal.write_bytes(journal.read_bytes()[:-10])
    assert [reading.lines[0].text for reading in read_rows(manifest, rows, tmp_path / "kept")] == [
        "one",
        "two",
        "three",
    ]
    assert seen == ["one.png", "two.png", "two.png", "three.png"]
    assert [json.loads(line)[1]["lines"][0]["text"] for line in journal.read_text().splitlines()] == [
        "one",
        "two",
        "three",
    ]


def test_without_the_models_the_message_says_what_to_install(monkeypatch):
    lettering._detector.cache_clear()
    monkeypatch.setattr(lettering, "find_spec", lambda name: None)
    with pytest.raises(LogoEdgeError, match="pip install --no-deps rapidocr-onnxruntime"):
        lettering._detector()
