"""The report as one page: it holds all of the report, loads nothing, and shows hostile text as text."""

import base64
import re
from html.parser import HTMLParser
from unittest import mock

import pytest
from click.testing import CliRunner
from fabricate import FACTORS, study

from ablation.cli.main import main
from ablation.reporting.report import to_html, write_report

SHORTEST = {"lr_split": FACTORS["lr_split"]}
HOSTILE = "<script>alert(1)</script> <img src=http://evil.test/x onerror=alert(2)> ![a](http://evil.test/b.png) [c](javascript:alert(3))"
LOADING = {"src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href"}


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.shown += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    folder = study(
        path / "runs",
        factors=SHORTEST,
        detail=True,
        title=HOSTILE,
        question=HOSTILE,
        state=lambda s: "FAILED" if s.trial == "ce--s1" else "COMPLETE",
    )
    page = write_report(folder, path / "reports", as_html=True).path
    assert page.name == "report.html"
    return page.parent


def assert_loads_nothing(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in (
            "script",
            "link",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "video",
            "audio",
        )
        assert not [name for name in attributes if name.startswith("on")]
        for name in LOADING.intersection(attributes):
            assert attributes[name].startswith("data:image/"), (tag, attributes)
    assert not re.search(r"url\(|@import", text)
    assert "default-src 'none'" in next(
        meta.get("content", "")
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )


def test_the_page_loads_nothing_and_its_figures_load_nothing(written):
    text = (written / "report.html").read_text()
    assert_loads_nothing(text)
    images = Page(text).all("img")
    assert (
        len(images)
        == len(re.findall(r"!\[[^]]*\]\(figures/", (written / "report.md").read_text()))
        == 5
    )
    for image in images:
        drawing = base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")).decode()
        links = [link for link in re.findall(r'(?:href|src)="([^"]*)"', drawing)] + re.findall(
            r"url\(([^)]*)\)", drawing
        )
        assert drawing.startswith("<?xml") and all(link.startswith("#") for link in links)


def test_hostile_text_is_shown_as_text(written):
    page = Page((written / "report.html").read_text())
    assert (
        page.shown.count("<script>alert(1)</script>") == 3
    )  # the window's title, the heading, the question
    assert not [link for link in page.all("a") if "javascript" in link.get("href", "")]
    assert "evil.test" not in str([attributes for _, attributes in page.tags])


def test_the_page_says_what_the_report_says(written):
    report, page = (written / "report.md").read_text(), Page((written / "report.html").read_text())
    headings = re.findall(r"^## (.*)$", report, re.M)
    assert len(page.all("h2")) == len(headings) > 6
    shown = " ".join(page.shown.split())
    for number in re.findall(r"\d+\.\d+ ± \d+\.\d+", report):
        assert number in shown
    assert len(page.all("table")) == len(re.findall(r"^\| -", report, re.M))
    assert "ValueError: the loss is NaN at epoch 3" in shown


def test_a_page_that_is_there_is_kept_up_and_none_is_made_unasked(tmp_path):
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        folder, reports = study(tmp_path / "runs", factors=SHORTEST), tmp_path / "reports"
        assert (
            write_report(folder, reports).path.name == "report.md"
            and not (reports / "report.html").exists()
        )
        (reports / "report.html").write_text("of an earlier state of the study")
        assert write_report(folder, reports).path.name == "report.md"
        assert "Which fixes make joint training work" in (reports / "report.html").read_text()


def test_the_command_writes_the_page(tmp_path, monkeypatch):
    study(tmp_path / "runs" / "fixes", factors=SHORTEST)
    monkeypatch.chdir(tmp_path)
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        done = CliRunner().invoke(main, ["report", "--html"])
    assert (done.exit_code, done.output) == (0, "reports/fixes/report.html\n")
    assert_loads_nothing((tmp_path / "reports" / "fixes" / "report.html").read_text())


def test_a_picture_that_is_not_the_report_s_is_told_and_not_loaded(tmp_path):
    text = to_html("# T\n\n![one](figures/none.png) ![two](../../etc/x.png)", tmp_path)
    assert_loads_nothing(text)
    assert Page(text).all("img") == [] and "one two" in text
