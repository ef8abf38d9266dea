"""`logo-edge data review`: the local server, the saved corrections, and the page in a browser."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pictures import write_squares
from PIL import Image
from serving import running
from starlette.testclient import TestClient
from system.browser.page import CHROMIUM_RUNS

from logo_edge.errors import DatasetError, LogoEdgeError
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.review.corrections import COLUMNS, Correction, apply_corrections
from logo_edge_train.review.corrections_file import CorrectionsFile
from logo_edge_train.review.server import create_app, serve_review
from logo_edge_train.review.session import Session
from logo_edge_train.review.sheet import MOST_BUTTONS

TOKEN = "0123456789abcdef"
HEAD = ",".join(COLUMNS)


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Red and blue squares of train, val and calib; one without a label, and one more that is kin of calib."""
    path = write_squares(tmp_path, counts={"train": 3, "val": 1, "calib": 1})
    kin = LogoRow(FILES, "", "kin.png", "red-calib-0.png")
    write_manifest(path, [*read_manifest(path).rows, LogoRow(FILES, "", "new.png", "new"), kin])
    Image.new("RGB", (60, 30), "red").save(tmp_path / "new.png")
    return path


@pytest.fixture
def corrections(tmp_path) -> Path:
    return tmp_path / "out" / "corrections.csv"


@pytest.fixture
def session(manifest, corrections) -> Session:
    return Session(manifest, corrections)


@pytest.fixture
def client(session) -> TestClient:
    return TestClient(create_app(session, TOKEN), base_url="http://127.0.0.1:8000/")


def decide(client, *decisions: tuple[int, str | None, bool | None], before: tuple[str, bool] | None = None):
    body = [dict(zip(("position", "label", "sure"), decision, strict=True)) for decision in decisions]
    if before:
        body = [{**decision, "before": dict(zip(("label", "sure"), before, strict=True))} for decision in body]
    return client.post(f"/{TOKEN}/decisions", json=body)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def write_list(path: Path, *lines: dict) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["package", "version", "icon", "p_red", "p_blue"])
        writer.writeheader()
        writer.writerows({"package": FILES, "version": "", **line} for line in lines)
    return path


# The list


def test_a_review_without_a_list_has_every_image_that_a_correction_may_change(session):
    assert {row.split for row in session.rows} == {"train", "val"}
    assert len(session.rows) == 9
    assert [row.icon for row in session.rows if not row.label] == ["new.png"], "and none of a held-out group"


def test_a_list_gives_the_order_and_the_probabilities(manifest, corrections, tmp_path):
    listed = write_list(
        tmp_path / "suspects.csv",
        {"icon": "red-val-0.png", "p_red": "0.1", "p_blue": "0.9"},
        {"icon": "blue-train-1.png", "p_red": "0.7", "p_blue": "0.3"},
        {"icon": "new.png"},
    )
    session = Session(manifest, corrections, listed)
    assert [row.icon for row in session.rows] == ["red-val-0.png", "blue-train-1.png", "new.png"]
    likeliest_first = [[[0, 0.9], [1, 0.1]], [[1, 0.7], [0, 0.3]], [[0, None], [1, None]]]
    assert [row["buttons"] for row in session._listed["rows"]] == likeliest_first


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ({"icon": "no.png"}, "row 1: the manifest has no image 'no.png' whose label may change; expected a CSV of"),
        ({"icon": "red-calib-0.png"}, "the manifest has no image 'red-calib-0.png' whose label may change"),
        ({"icon": "new.png", "p_red": "much"}, "could not convert string to float: 'much'; expected a CSV"),
        (None, "has no image of train or val; nothing to review"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(manifest, corrections, tmp_path, line, refusal):
    listed = write_list(tmp_path / "list.csv", *([line] if line else []))
    with pytest.raises(DatasetError, match=re.escape(refusal)):
        Session(manifest, corrections, listed)


def test_a_manifest_without_labels_is_refused(corrections, tmp_path):
    write_manifest(tmp_path / "m.csv", [LogoRow(FILES, "", "a.png")])
    with pytest.raises(DatasetError, match="has no label; expected at least one row for each class"):
        Session(tmp_path / "m.csv", corrections)


# What is saved


def test_decisions_are_in_the_file_when_they_are_answered_and_can_be_applied(client, session, manifest, corrections):
    positions = {row.icon: position for position, row in enumerate(session.rows)}
    assert decide(client, (0, "blue", True)).json() == []
    assert decide(client, (positions["new.png"], "red", False), (positions["blue-val-0.png"], "blue", None)).is_success
    assert lines_of(corrections) == [
        HEAD,
        "files,,red-train-0.png,red,blue,1",
        "files,,new.png,,red,0",
        "files,,blue-val-0.png,blue,blue,",
    ]
    summary = apply_corrections(corrections, manifest)
    assert (summary["changed"], summary["labelled"], summary["confirmed"]) == (1, 1, 1)


def test_a_new_decision_is_appended_and_a_changed_or_removed_one_replaces_the_file(client, corrections):
    decide(client, (0, "blue", True))
    first = corrections.stat().st_ino
    decide(client, (1, "blue", True))
    assert corrections.stat().st_ino == first
    decide(client, (0, "red", False), before=("blue", True))
    assert lines_of(corrections)[1:] == ["files,,red-train-0.png,red,red,0", "files,,red-train-1.png,red,blue,1"]
    decide(client, (0, None, None), before=("red", False))
    assert lines_of(corrections)[1:] == ["files,,red-train-1.png,red,blue,1"]
    assert os.listdir(corrections.parent) == ["corrections.csv"], "no lock and no part is left"


def test_a_second_session_takes_up_decisions_also_after_they_were_applied(client, manifest, corrections):
    decide(client, (0, "blue", True), (2, "red", False))
    expected = [(0, {"label": "blue", "sure": True}), (2, {"label": "red", "sure": False})]
    assert Session(manifest, corrections).decisions() == expected
    apply_corrections(corrections, manifest)
    again = Session(manifest, corrections)
    assert again.decisions() == expected
    again.file.save(dict([again.decide(1, "blue", True)]))
    assert apply_corrections(corrections, manifest)["changes"] == {"red -> blue": 1}


def test_two_sessions_on_one_file_keep_the_decisions_of_both(manifest, corrections):
    one, other = Session(manifest, corrections), Session(manifest, corrections)
    for position in range(4):
        session = (one, other)[position % 2]
        session.file.save(dict([session.decide(position, "blue", True)]))
    one.file.save(dict([one.decide(3, None, None)]))
    assert [position for position, _ in other.decisions()] == [0, 1, 2]


def test_of_two_pages_that_decide_one_image_the_first_is_kept_and_the_other_is_told(client, manifest, corrections):
    other = TestClient(create_app(Session(manifest, corrections), TOKEN), base_url="http://127.0.0.1:8000/")
    assert decide(client, (0, "blue", True)).json() == []
    assert decide(other, (0, "red", False), (1, "blue", None)).json() == [[0, {"label": "blue", "sure": True}]]
    kept = ["files,,red-train-0.png,red,blue,1", "files,,red-train-1.png,red,blue,"]
    assert lines_of(corrections)[1:] == kept
    assert decide(other, (0, "blue", True)).json() == [], "the same decision is no conflict"
    assert decide(other, (0, "red", False), before=("blue", True)).json() == []
    assert decide(client, (0, None, None), before=("blue", True)).json() == [[0, {"label": "red", "sure": False}]]
    assert decide(other, (0, None, None), before=("red", False)).json() == []
    taken_back = [[0, {"label": None, "sure": None}]]
    assert decide(client, (0, "red", True), before=("red", False)).json() == taken_back
    assert lines_of(corrections)[1:] == kept[1:]


def test_a_decision_on_an_image_that_the_list_lacks_stays_in_the_file(client, manifest, corrections, tmp_path):
    decide(client, (0, "blue", True))
    listed = write_list(tmp_path / "list.csv", {"icon": "red-val-0.png"})
    session = Session(manifest, corrections, listed)
    assert session.decisions() == []
    session.file.save(dict([session.decide(0, "blue", True)]))
    assert len(lines_of(corrections)) == 3


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        (b"files,,red-train-1.png,red,bl", ["red-train-0.png"]),  # cut
        (b"files,,red-train-1.png,red,blue,1", ["red-train-0.png", "red-train-1.png"]),  # of an editor
        (b'files,,"red\ntra', ["red-train-0.png"]),
        (b'files,,"red\n', ["red-train-0.png"]),
        (b'files,,"red\n""tra', ["red-train-0.png"]),
        (b"", ["red-train-0.png"]),
    ],
)
def test_a_cut_last_line_is_dropped_and_the_next_decision_is_whole(corrections, end, kept):
    corrections.parent.mkdir()
    corrections.write_bytes(f"{HEAD}\nfiles,,red-train-0.png,red,blue,1\n".encode() + end)
    file = CorrectionsFile(corrections)
    assert [name[2] for name in file.read()] == kept
    file.save({(FILES, "", "red-train-2.png"): Correction(0, "red", "blue", True)})
    assert [name[2] for name in CorrectionsFile(corrections).read()] == [*kept, "red-train-2.png"]


def test_a_full_disk_is_reported_and_leaves_no_part_of_a_line(client, corrections, monkeypatch):
    decide(client, (0, "blue", True))
    before = corrections.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("logo_edge_train.review.corrections_file.os.fsync", fail)
    answer = decide(client, (1, "blue", True))
    assert answer.status_code == 507
    assert "No space left on device; free some space" in answer.json()["detail"]
    assert corrections.read_bytes() == before
    monkeypatch.undo()
    assert decide(client, (1, "blue", True)).json() == []
    assert len(lines_of(corrections)) == 3


def test_a_file_that_became_invalid_is_not_overwritten(client, corrections):
    decide(client, (0, "blue", True))
    corrections.write_text("mine\n")
    for answer in (decide(client, (1, "blue", True)), client.get(f"/{TOKEN}/")):
        assert answer.status_code == 409
        assert "begins with 'mine'; expected the columns package" in answer.json()["detail"]
    assert corrections.read_text() == "mine\n"


def test_a_correction_that_apply_would_refuse_stops_the_start(manifest, corrections):
    corrections.parent.mkdir()
    corrections.write_text(f"{HEAD}\nfiles,,red-calib-0.png,red,blue,1\n")
    with pytest.raises(DatasetError, match=r"Correct or delete these lines, .* line 2, .*: it is of calib"):
        Session(manifest, corrections)
    assert len(lines_of(corrections)) == 2


# The server


def test_only_the_printed_address_answers(client):
    assert client.get(f"/{TOKEN}/").status_code == 200
    for path in ("/", "/wrong/", "/wrong/pictures/0", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 404, path
    assert client.post("/wrong/decisions", json=[]).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "192.168.0.1"])
def test_another_host_name_is_refused_even_with_the_token(client, host, corrections):
    for method, path in (("GET", ""), ("GET", "pictures/0"), ("POST", "decisions")):
        assert client.request(method, f"/{TOKEN}/{path}", headers={"Host": host}, json=[]).status_code == 400
    assert client.get(f"/{TOKEN}/", headers={"Host": "localhost:9"}).status_code == 200


def test_a_page_may_not_be_framed_kept_or_named_to_others(client):
    headers = client.get(f"/{TOKEN}/").headers
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert "access-control-allow-origin" not in headers


def test_pictures_are_of_listed_images_only_and_made_small(client, session, manifest):
    position = [row.icon for row in session.rows].index("new.png")
    for path, size_px in (("pictures", 160), ("large", 800)):
        answer = client.get(f"/{TOKEN}/{path}/{position}")
        (manifest.parent / "answer.webp").write_bytes(answer.content)
        with Image.open(manifest.parent / "answer.webp") as picture:
            assert (picture.format, picture.size) == ("WEBP", (size_px, size_px))
    for wrong in ("-1", str(len(session.rows)), "..%2fmanifest.csv", "new.png"):
        assert client.get(f"/{TOKEN}/pictures/{wrong}").status_code in (404, 422), wrong


def test_a_damaged_or_missing_image_spoils_only_its_own_picture(client, session, manifest):
    (manifest.parent / session.rows[0].icon).write_bytes(b"no picture")
    (manifest.parent / session.rows[1].icon).unlink()
    answers = [client.get(f"/{TOKEN}/pictures/{position}") for position in range(3)]
    assert [answer.status_code for answer in answers] == [422, 422, 200]
    assert "not an image that can be read" in answers[0].json()["detail"]


@pytest.mark.parametrize("decision", [(0, "green", True), (99, "red", True), (-1, "red", True), (0, 3, True)])
def test_one_wrong_decision_saves_none_of_its_request(client, corrections, decision):
    assert decide(client, (1, "blue", True), decision).status_code in (404, 422)
    assert lines_of(corrections) == [HEAD]


def test_a_port_in_use_is_refused_with_a_remedy(session, client):
    with running(client.app) as other, pytest.raises(LogoEdgeError, match="give a free port by --port"):
        serve_review(session, other.base_url.port, print)


def test_a_killed_review_goes_on_where_it_ended(manifest, tmp_path):
    command = [sys.executable, "-m", "logo_edge", "data", "review", "--data", manifest, "--out", tmp_path / "out"]
    for start, position in ((0, 2), (1, 5)):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == f"9 images, {start} decided in {tmp_path / 'out' / 'corrections.csv'}\n"
            address = process.stdout.readline().removeprefix("Open ").strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/[\w-]{43}/", address)
            body = f'[{{"position": {position}, "label": "blue", "sure": true}}]'.encode()
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(address + "decisions", body, headers), timeout=60).close()
            process.send_signal(signal.SIGKILL)
    assert len(lines_of(tmp_path / "out" / "corrections.csv")) == 3


# The page


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """A function that opens the page of a session: (page, messages of its console, requested addresses)."""
    closing = []

    def open_session(session: Session, **options):
        server = running(create_app(session, TOKEN))
        address = f"{server.__enter__().base_url}/{TOKEN}/"
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        closing.append((context, server))
        context.set_default_timeout(120_000)  # a busy machine
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page, said, asked

    yield open_session
    for context, server in closing:
        context.close()
        server.__exit__(None, None, None)


def wait_until(page, condition: str) -> None:
    """Waits for a condition in the page, whose policy allows no `page.wait_for_function`; fails after a minute."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(condition)


def wait_for_lines(page, path: Path, count: int) -> list[str]:
    """The file's lines once it has that many, without the heading; fails after a minute."""
    for _ in range(600):
        if len(lines := lines_of(path)) == count:
            return lines[1:]
        page.wait_for_timeout(100)
    raise AssertionError(lines)


in_chromium = pytest.mark.skipif(not CHROMIUM_RUNS, reason="the Chromium that tests use is built for Linux on x86-64")


@in_chromium
def test_a_person_labels_by_keys_and_each_decision_is_saved(open_page, session, manifest, corrections):
    page, said, asked = open_page(session)
    state, focused = page.locator("#state"), page.locator("li:focus h2")
    assert focused.inner_text() == "1. red-train-0.png"
    page.keyboard.press("b")
    page.keyboard.press("Shift+B")
    assert focused.inner_text() == "3. red-train-2.png"
    assert (state.inner_text(), page.locator("#said").inner_text()) == (
        "2 of 9 decided",
        "2. red-train-1.png: blue, not sure",
    )
    assert wait_for_lines(page, corrections, 3) == [
        "files,,red-train-0.png,red,blue,1",
        "files,,red-train-1.png,red,blue,0",
    ]
    page.keyboard.press("Control+z")
    assert focused.inner_text() == "2. red-train-1.png"
    assert wait_for_lines(page, corrections, 2) == ["files,,red-train-0.png,red,blue,1"]
    page.keyboard.press("r")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Backspace")
    assert state.inner_text() == "1 of 9 decided"
    page.locator("#undo").click()  # the removal
    assert state.inner_text() == "2 of 9 decided"
    assert len(wait_for_lines(page, corrections, 3)) == 2
    page.reload()
    assert (state.inner_text(), focused.inner_text()) == ("2 of 9 decided", "3. red-train-2.png")
    assert page.evaluate("[...document.querySelectorAll('li img')].every(image => image.naturalWidth === 160)")
    assert apply_corrections(corrections, manifest)["changed"] == 1
    assert said == []
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {asked[0].split("/")[2]}


@in_chromium
def test_keys_label_only_where_a_card_has_the_focus_and_tab_reaches_everything(open_page, session, corrections):
    page, _, _ = open_page(session)
    page.keyboard.press("/")
    page.keyboard.type("bl")
    assert page.locator("#state").inner_text() == "0 of 9 decided"
    page.keyboard.press("Shift+Enter")
    assert wait_for_lines(page, corrections, 2) == ["files,,red-train-0.png,red,blue,0"]
    assert page.locator("li:focus h2").inner_text() == "2. red-train-1.png"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first button of the card
    assert page.locator("#said").inner_text() == "2. red-train-1.png: blue"
    page.keyboard.press("/")
    page.keyboard.type("nothing")
    page.keyboard.press("Enter")
    assert page.locator("#said").inner_text() == '0 labels begin with "nothing"'
    page.locator("h1").click()
    assert page.locator("li:focus").count() == 1, "a click beside the cards leads back"
    page.keyboard.press("Space")
    assert page.locator("#large img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 800
    page.keyboard.press("Escape")
    assert page.locator("li:focus h2").inner_text() == "3. red-train-2.png"
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"label", "show", "any", "undo", "LI", "BUTTON"} <= set(reached)
    assert page.locator("li[tabindex='0']").count() == 1, "one card at a time is in the order of Tab"
    assert page.locator("li button:not([tabindex='-1'])").count() == 2


@in_chromium
def test_a_screen_reader_hears_what_a_card_is_and_what_was_done(open_page, session):
    page, _, _ = open_page(session)
    page.get_by_role("list", name="Images").get_by_role("listitem", name="1. red-train-0.png, labelled red").wait_for()
    page.get_by_role("listitem", name="new.png, no label").wait_for()
    for role, name in (
        ("form", "Filters"),
        ("navigation", "Decisions"),
        ("navigation", "Pages"),
        ("combobox", "Label"),
        ("combobox", "Any label"),
        ("progressbar", "Decided images"),
    ):
        assert page.get_by_role(role, name=name, exact=True).count() == 1, name
    page.keyboard.press("b")
    first = page.locator("li").first
    pressed = first.get_by_role("button", name="blue", pressed=True)
    assert pressed.count() == 1
    assert page.locator("li[aria-current]").count() == 1
    assert page.locator("li[aria-current]").get_attribute("aria-posinset") == "2"
    assert page.get_by_role("status").filter(has_text="1. red-train-0.png: blue").count() == 1


@in_chromium
def test_filters_by_label_state_and_confidence(open_page, manifest, corrections, tmp_path):
    listed = write_list(
        tmp_path / "list.csv",
        *(
            {"icon": f"{name}-train-{at}.png", "p_red": p, "p_blue": round(1 - p, 2)}
            for name, at, p in (("red", 0, 0.9), ("red", 1, 0.3), ("blue", 0, 0.6), ("blue", 1, 0.05))
        ),
    )
    page, _, _ = open_page(Session(manifest, corrections, listed))

    def shown() -> list[str]:
        return [title.split(". ")[1].removesuffix(".png") for title in page.locator("h2").all_inner_texts()]

    assert shown() == ["red-train-0", "red-train-1", "blue-train-0", "blue-train-1"]
    page.locator("#label").select_option("red")
    assert shown() == ["red-train-0", "red-train-1"]
    page.locator("#suggested").select_option("blue")
    assert shown() == ["red-train-1"]
    page.locator("#label").select_option("all")
    assert shown() == ["red-train-1", "blue-train-1"]
    page.locator("#to").fill("80")
    page.keyboard.press("Tab")
    assert shown() == ["red-train-1"]
    page.locator("li").click()
    page.keyboard.press("b")
    page.locator("#show").select_option("not decided")
    assert shown() == []
    assert page.locator("#page").inner_text() == "No image passes the filters"
    page.locator("#to").fill("100")
    page.locator("#suggested").select_option("all")
    assert shown() == ["red-train-0", "blue-train-0", "blue-train-1"]


@in_chromium
def test_undo_goes_on_after_a_reload_and_a_decision_made_elsewhere_is_said(open_page, session, manifest, corrections):
    page, _, _ = open_page(session)
    page.keyboard.press("b")
    page.keyboard.press("b")
    assert len(wait_for_lines(page, corrections, 3)) == 2
    wait_until(page, "!sending && !unsaved.size")  # else the page asks before it is left
    page.reload()
    page.locator("#undo").click()
    assert len(wait_for_lines(page, corrections, 2)) == 1
    page.locator("#undo").click()
    wait_for_lines(page, corrections, 1)
    assert page.locator("#undo").is_disabled()
    wait_until(page, "!sending && !unsaved.size")
    other = Session(manifest, corrections)
    other.file.save(dict([other.decide(0, "red", False)]))
    page.keyboard.press("b")
    page.get_by_role("alert").filter(
        has_text="1. red-train-0.png was decided elsewhere meanwhile: red, not sure"
    ).wait_for()
    assert wait_for_lines(page, corrections, 2) == ["files,,red-train-0.png,red,red,0"]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("b")
    wait_until(page, "saved.get(0).label === 'blue'")
    assert wait_for_lines(page, corrections, 2) == ["files,,red-train-0.png,red,blue,1"]


@in_chromium
def test_a_server_that_is_gone_is_reported_and_nothing_is_lost_when_it_is_back(open_page, session, corrections):
    page, _, _ = open_page(session)
    page.route("**/decisions", lambda route: route.abort())
    page.keyboard.press("b")
    page.keyboard.press("b")
    page.get_by_role("alert").filter(has_text="2 decisions are not saved").wait_for()
    assert lines_of(corrections) == [HEAD]
    page.unroute("**/decisions")
    assert len(wait_for_lines(page, corrections, 3)) == 2
    page.locator("#trouble:empty").wait_for(state="attached")


@pytest.mark.slow
@in_chromium
def test_the_document_holds_one_page_of_50_000_images(open_page, corrections, tmp_path):
    classes = [f"class {number:03}" for number in range(200)]
    rows = [LogoRow(FILES, "", f"{number}.png", str(number), classes[number % 200]) for number in range(50_000)]
    write_manifest(tmp_path / "m.csv", rows)
    page, _, _ = open_page(Session(tmp_path / "m.csv", corrections))
    assert page.locator("li").count() == 48
    assert page.locator("li").first.locator("button").count() == MOST_BUTTONS
    for _ in range(48):
        page.keyboard.press("c")  # the key of the first class
    assert page.locator("#page").inner_text() == "Images 49 to 96 of 50000"
    assert page.locator("li:focus h2").inner_text() == "49. 48.png"
    assert len(wait_for_lines(page, corrections, 49)) == 48
    page.keyboard.press("/")
    page.keyboard.type("class 199")
    page.keyboard.press("Enter")
    assert wait_for_lines(page, corrections, 50)[-1] == "files,,48.png,class 048,class 199,1"
    page.locator("#label").select_option("class 007")
    assert page.locator("#page").inner_text() == "Images 1 to 48 of 250"
    assert page.evaluate("document.querySelectorAll('*').length") < 5000


@in_chromium
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_the_page_fits_the_screen_and_is_legible_by_day_and_night(open_page, session, width, scheme):
    page, _, _ = open_page(session, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.keyboard.press("b")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 30
    assert [text for text, ratio in contrasts if ratio < 4.5] == []  # WCAG 2.2, 1.4.3
    top = page.locator("#decisions").evaluate("bar => bar.getBoundingClientRect().bottom")
    page.keyboard.press("ArrowRight")
    assert page.locator("li:focus").evaluate("card => card.getBoundingClientRect().top") >= top, "not under the bar"


CONTRASTS = """(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour.startsWith("rgba") && colour.endsWith(" 0)") ? background(element.parentElement) : colour;
  };
  return [...document.querySelectorAll("h1, h2, p, label, kbd, strong, button span, button b, #state, #said")]
    .filter(e => e.textContent.trim() && e.getClientRects().length).map(e => {
      const [a, b] = [getComputedStyle(e).color, background(e)].map(luminance).sort((x, y) => y - x);
      return [e.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)];
    });
})()"""
