"""Lists the figures of README.md and docs that have no source, or a source that says otherwise.

A figure is a number in prose or in a hand-written table. Code, generated blocks and EXEMPT patterns hold none. Its
source stands in a comment on a line of its own, directly before the block of text (which ends at a blank line or at
the next such comment), or with a blank line after it for all text up to the next heading:

    <!-- figures: SOURCE; SOURCE -->

    table peers: OpenCV                   printed in the generated table of that name, of any page; in the lines that
                                          hold the words after the colon
    peers.rows["default"].size_bytes      a value of benchmarks/results/peers.json, or of the values in that part of it
    1 - a.loss / b.loss                   computed from results
    runtime/logo_edge/a.py MAX_PIXELS     in the code: a constant, a field or a function of a Python file, or computed
                                          from such (A / B.c); the lines of another file that hold that word;
                                          names of one file may follow each other (FILE A, B)
    97.2, 14 https://arxiv.org/abs/...    said by another document: these numbers and no others

A figure matches a value that rounds to it as printed, in its unit (5 % is 0.05, 16 MiB is 16777216). A source that no
figure needs, that does not exist, or that holds more than MOST values, is an error too. Where a result is of an earlier
bundle, the text says so, or a generated table of the page does. Numbers in words are not read.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from logo_edge_bench.experiments.record import RESULTS, ROOT

MOST = 60  # values that one source may hold: among more, some value matches by chance
BLANKED = (  # hold no figures
    re.compile(r"<!-- (?:table|generated): .*?<!-- end -->", re.DOTALL),
    re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"(`+)[^`].*?\1", re.DOTALL),
    re.compile(r"\]\([^)]*\)|<https?:[^>]*>|https?://\S+"),
)
PRODUCTS = (
    r"Python|Pythons|Pillow|Chromium|Node\.js|gunicorn|CycloneDX|Ubuntu|Debian|ONNX Runtime|OpenVINO|TensorRT|JetPack"
    r"|CUDA|LiteRT|QEMU|SVE|Raspberry Pi(?: OS)?|Pi|Zero|g\+\+|libjpeg-turbo"
    r"|nlohmann-json|opset|IR|coremltools|CC BY|CVAT for images"
)
LIST = r"\d+(?:\.\d+)*(?:(?:,\s|\sto\s|\sand\s|\sor\s)\d+(?:\.\d+)*)*"
EXEMPT = (  # numbers that are no figures
    re.compile(r"^\s*\d+\. ", re.MULTILINE),  # of a list's item
    re.compile(r"\b(?:19|20)\d\d(?:-\d\d-\d\d)?\b"),  # years and dates
    re.compile(rf"\b(?:{PRODUCTS})\s{LIST}|\b\d+\.\d+\.\d+\b"),  # versions
    re.compile(r"\b(?:RFC|ISO|JPEG|[Rr]ound|[Ss]tep|severity|[Bb]atch|rank) \d+\b"),  # names
    re.compile(rf"\b{LIST}\spx\b|\b\d+(?: ?x ?\d+)+\b|\b\d+/\d+\b|\b\d:\d:\d\b"),  # sizes, fractions
    re.compile(rf"\b{LIST}[\s-]bits?\b"),  # of number formats
    re.compile(r"\b9[59] % (?:[a-z]+ )?(?:intervals?|bounds?|confidence)\b", re.IGNORECASE),
)
NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e-?\d+)?"
UNITS = {  # of a printed number: by what a value is multiplied to be printed in it
    "%": (100,),
    "points": (100, 1),
    "point": (100,),
    "million": (1e-6, 1),
    "µs": (1, 1e3, 1e6),
    "ms": (1, 1e3),
    "s": (1, 1e-3),
    "seconds": (1, 1e-3),
    "minutes": (1, 1 / 60),
    "hours": (1, 1 / 60, 1 / 3600),
    "kB": (1, 1e-3),
    "MB": (1, 1e-6),
    "GB": (1, 1e-9, 1e-3),
    "KiB": (1, 2**-10),
    "MiB": (1, 2**-20),
    "GiB": (1, 2**-30),
}
JOINED = rf"(?:(?:\s*,|\s+to|\s+and|\s+or|\s*-|,?\s+and)\s*(?:{NUMBER}))*"  # the rest of "80, 90 and 95 %"
FIGURE = re.compile(
    rf"(?<![\w.,#/:])(?<!\w-)(?<!\+\+)(?P<number>{NUMBER})(?!\w)"
    rf"(?={JOINED}(?:[\s-]?(?P<unit>{'|'.join(map(re.escape, UNITS))})(?!\w))?)"
)
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)+")
COMMENT = re.compile(r"^ *<!-- figures: (.*?) *-->[ ]*\n", re.DOTALL | re.MULTILINE)
TABLE = re.compile(r"<!-- (?:table|generated): (\w+)[^>]*-->\n(.*?)<!-- end -->", re.DOTALL)
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.USub: operator.neg,
}
FUNCTIONS = {"ceil": math.ceil, "log": math.log, "sqrt": math.sqrt, "min": min, "max": max, "len": len, "sum": sum}


class SourceError(ValueError):
    """A source that cannot be read, with the reason."""


@dataclass(frozen=True)
class Figure:
    line: int
    text: str  # as printed, without its unit
    unit: str

    @property
    def value(self) -> float:
        return float(self.text.replace(",", ""))

    def matches(self, value: float, scales: Collection[float]) -> bool:
        """Whether the value, multiplied by one of the scales, rounds to the figure; the sign is not compared."""
        half = 0.5 * 10 ** -len(self.text.partition(".")[2]) if "e" not in self.text else 0
        return any(abs(abs(value) * scale - self.value) <= half + 1e-9 * self.value for scale in scales)


@dataclass(frozen=True)
class Source:
    """The values of a source as text writes it; `printed` ones are compared as they are, without a unit."""

    text: str
    values: tuple[float, ...]
    printed: bool = False
    results: frozenset[str] = frozenset()

    def holds(self, figure: Figure) -> bool:
        scales = (1,) if self.printed else UNITS.get(figure.unit, (1,))
        return any(figure.matches(value, scales) for value in self.values)


def read_pages(root: Path = ROOT) -> dict[str, str]:
    """{path from the root: text} of README.md and of each page of docs; of a notebook, the text of its prose."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md")), *sorted((root / "docs").rglob("*.ipynb"))]
    return {path.relative_to(root).as_posix(): read_page(path) for path in pages}


def read_page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown") + "\n"
    return text


def check_figures(
    pages: dict[str, str], earlier: Collection[str] = (), root: Path = ROOT, results: Path = RESULTS
) -> list[str]:
    """One line for each figure without a source that holds it, and for each source that is wrong or not needed.

    earlier: names of results that are of an earlier bundle or of earlier logos.
    """
    tables: dict[str, str] = {}
    for name, text in (table for page in pages.values() for table in TABLE.findall(page)):
        tables[name] = tables.get(name, "") + text  # pages may show different rows of one
    wrong = []
    for name, page in pages.items():
        figures, lines = list(list_figures(page)), page.split("\n")
        sourced: set[Figure] = set()
        for line, text, covered in list_comments(page):
            own = [figure for figure in figures if figure.line in covered]
            said = " ".join(lines[number - 1] for number in covered)
            for part in split_sources(text):
                try:
                    source = read_source(part, tables, root, results)
                except SourceError as error:
                    wrong.append(f"{name}:{line}: source {part!r}: {error}")
                    continue
                old = [result for result in source.results & set(earlier) if f"({result}.json)" not in page]
                if old and not re.search(r"\bearlier\b|\bround 1\b", said):
                    wrong.append(f"{name}:{line}: source {part!r}: measured earlier, and the text does not say so")
                held = {figure for figure in own if source.holds(figure)}
                if not held:
                    wrong.append(f"{name}:{line}: source {part!r}: no figure of the text after it is its value")
                sourced |= held
        for figure in figures:
            if figure not in sourced:
                printed = f"{figure.text} {figure.unit}".strip()
                wrong.append(f"{name}:{figure.line}: {printed!r} has no source that holds it ({__name__} says how)")
    return wrong


def list_figures(page: str) -> Iterator[Figure]:
    """The figures of a page, in order. A bare 0 or 1 is none."""
    for pattern in BLANKED + EXEMPT:
        page = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), page)
    for match in FIGURE.finditer(page):
        if match["number"] not in ("0", "1") or match["unit"]:
            yield Figure(page.count("\n", 0, match.start()) + 1, match["number"], match["unit"] or "")


def list_comments(page: str) -> Iterator[tuple[int, str, range]]:
    """(line, sources, lines of the text that it is for) of each comment."""
    lines = page.split("\n")
    starts = {page.count("\n", 0, match.start()) + 1 for match in COMMENT.finditer(page)}
    fenced = re.sub(r"^```.*?^```", lambda match: re.sub(r"^#", " ", match[0], flags=re.M), page, flags=re.S | re.M)
    headings = {number for number, line in enumerate(fenced.split("\n"), 1) if line.startswith("#")}
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()} | {len(lines) + 1}
    for match in COMMENT.finditer(page):
        line, first = (page.count("\n", 0, place) + 1 for place in match.span())
        ends = headings | {len(lines) + 1} if first in blank else blank | starts
        yield line, match[1], range(first, min(end for end in ends if end > first))


def split_sources(text: str) -> Iterator[str]:
    """The sources of a comment; `FILE A, B` are two."""
    for part in re.split(r";\s", " ".join(text.split())):
        file, _, names = part.partition(" ")
        yield from (f"{file} {name}" for name in names.split(", ")) if FILE.fullmatch(file) and names else [part]


def read_source(text: str, tables: dict[str, str], root: Path = ROOT, results: Path = RESULTS) -> Source:
    """The values of a source, from the committed files."""
    first, _, rest = text.partition(" ")
    if match := re.fullmatch(rf"((?:{NUMBER})(?:, (?:{NUMBER}))*) (https?://\S+)", text):
        return Source(text, tuple(to_numbers(match[1])), printed=True)
    if first == "table":
        name, _, words = rest.partition(": ")
        if name not in tables:
            raise SourceError("no page has this table")
        old = frozenset(re.findall(r"Measured earlier \((\w+)\.json\)", tables[name]))
        values = [number for line in tables[name].split("\n") if words in line for number in to_numbers(line)]
        return checked(Source(text, tuple(values), printed=True, results=old))
    names: frozenset[str] = frozenset()
    if FILE.fullmatch(first):
        if not (root / first).is_file():
            raise SourceError("no such file")
        values = list(read_code(root / first, rest))
    else:
        expression = parse_expression(text)
        if isinstance(expression, ast.Constant):
            raise SourceError("a number is not its own source")
        names = frozenset(node.id for node in ast.walk(expression) if isinstance(node, ast.Name))
        values = list(list_numbers(compute(expression, lambda node: read_result(node, results))))
    return checked(Source(text, tuple(values), results=names))


def checked(source: Source) -> Source:
    if not source.values:
        raise SourceError("it holds no number")
    if (count := len(set(source.values))) > MOST:
        raise SourceError(f"it holds {count} values, more than {MOST}: name a part of it")
    return source


def to_numbers(text: str) -> Iterator[float]:
    return (float(number.replace(",", "")) for number in re.findall(NUMBER, text))


def list_numbers(value: object) -> Iterator[float]:
    """The numbers in a value of JSON, except those of its provenance."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key != "provenance":
                yield from list_numbers(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from list_numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def parse_expression(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        raise SourceError("neither a table, a file, an address nor an expression over results") from None


def compute(node: ast.expr, read: Callable[[ast.expr], object]) -> object:
    """The value of an expression; `read` gives that of a name and of what is said of it (a.b, a["b"])."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        return read(node)
    if isinstance(node, ast.BinOp | ast.UnaryOp) and type(node.op) in OPERATORS:
        operands = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.operand,)
        return OPERATORS[type(node.op)](*(compute(operand, read) for operand in operands))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        return FUNCTIONS[node.func.id](*(compute(argument, read) for argument in node.args))
    raise SourceError(f"{ast.unparse(node)} is no arithmetic")


def read_result(node: ast.expr, results: Path) -> object:
    """The value of NAME, NAME.key or NAME["key"] in the JSON file NAME of `results`."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        key = node.attr if isinstance(node, ast.Attribute) else compute(node.slice, refuse)
        return part_of(read_result(node.value, results), key)
    path = results / f"{ast.unparse(node)}.json"
    if not path.is_file():
        raise SourceError(f"{ast.unparse(node)} is not in benchmarks/results")
    return json.loads(path.read_text(encoding="utf-8"))


def refuse(node: ast.expr) -> object:
    raise SourceError(f"{ast.unparse(node)} is no number")


def part_of(whole: object, key: object) -> object:
    """The value of a key, the item of an index, or the item of a list whose first text is `key`."""
    if isinstance(whole, list) and isinstance(key, str):
        named = [item for item in whole if isinstance(item, dict)]
        whole = {next((text for text in item.values() if isinstance(text, str)), None): item for item in named}
    try:
        return whole[key]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        raise SourceError(f"there is no {key!r} in it") from None


def read_code(path: Path, name: str) -> Iterator[float]:
    """The numbers of a file, or of what `name` says of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tree, expression = ast.parse(text), parse_expression(name) if name else None
        if isinstance(expression, ast.BinOp):
            yield from list_numbers(compute(expression, lambda node: one_number(tree, ast.unparse(node))))
        else:
            for node in find_dotted(tree, name):
                yield from list_constants(node)
    else:
        lines = [line for line in text.split("\n") if name in line]
        if not lines:
            raise SourceError(f"there is no {name!r} in the file")
        for line in lines:
            yield from map(float, re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", line.replace("_", "")))


def one_number(tree: ast.Module, name: str) -> float:
    values = {value for node in find_dotted(tree, name) for value in list_constants(node)}
    if len(values) != 1:
        raise SourceError(f"{name} is not one number")
    return values.pop()


def find_dotted(tree: ast.Module, name: str) -> list[ast.AST]:
    nodes: list[ast.AST] = [tree]
    for part in filter(None, name.split(".")):
        nodes = [found for node in nodes for found in find_named(node, part)]
        if not nodes:
            raise SourceError(f"there is no {part!r} in the file")
    return nodes


def find_named(tree: ast.AST, name: str) -> Iterator[ast.AST]:
    """What has the name: a definition, the value of an assignment, a parameter or an argument, of a key of a dict."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            yield node
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            if name in names:
                yield node
        elif isinstance(node, ast.keyword) and node.arg == name:
            yield node.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name:
                    yield value
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            pairs = list(zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True))
            for argument, default in pairs + list(zip(node.kwonlyargs, node.kw_defaults, strict=True)):
                if argument.arg == name and default is not None:
                    yield default


def list_constants(tree: ast.AST) -> Iterator[float]:
    """The numbers in code; of arithmetic between numbers, the result."""
    try:
        if isinstance(tree, ast.expr):
            yield from list_numbers(compute(tree, refuse))
            return
    except (SourceError, TypeError, ValueError, ArithmeticError):
        pass
    for node in ast.iter_child_nodes(tree):
        yield from list_constants(node)
