"""What tests ask of an HTML page: of its text, and of how a browser lays it out."""

from __future__ import annotations

import platform
import sys
from html.parser import HTMLParser

CHROMIUM_RUNS = sys.platform == "linux" and platform.machine() == "x86_64"
WIDE = """[...document.querySelectorAll("figure *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
HEADING = """(() => { const range = document.createRange(); range.selectNodeContents(document.querySelector("h1"));
  return range.getBoundingClientRect().width })()"""
SMALL = """[...document.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().width < 100).map(e => e.id)"""
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What tests ask of a page: its tags in order, those left open, and the text of each figcaption."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.captions = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "figcaption":
            self.captions.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "figcaption" in self.open:
            self.captions[-1] += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]
