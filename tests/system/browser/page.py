"""What tests ask of an HTML page: of its text, and of how a browser lays it out."""

from __future__ import annotations

import platform
import sys
from html.parser import HTMLParser
from pathlib import Path

from logo_edge_train.data.icons import install_packages

WEB = Path(__file__).parents[3] / "runtime" / "web"
CHROMIUM_RUNS = sys.platform == "linux" and platform.machine() == "x86_64"
SCREENS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]  # a phone and a desk: width, colour scheme
WIDE = """[...document.querySelectorAll("figure *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
HEADING = """(() => { const range = document.createRange(); range.selectNodeContents(document.querySelector("h1"));
  return range.getBoundingClientRect().width })()"""
SMALL = """[...document.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().width < 100).map(e => e.id)"""
AXE = """async () => {
  const { violations } = await axe.run();
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html)}`);
}"""
VOID = {"meta", "link", "br", "img", "input", "hr"}


def find_barriers(page) -> list[str]:
    """What axe-core finds that keeps people from using Playwright's page: rule and elements of each violation."""
    page.evaluate((install_packages(WEB, "web") / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    return page.evaluate(AXE)


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
