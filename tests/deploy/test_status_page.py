"""The status page in a real Chromium: what a person sees and does, light and dark, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.chromium import Browser, browser
from tests.deploy.conftest import ROOT, program
from tests.integration.harness import MODELS, ServerProcess, infer_request

pytestmark = pytest.mark.deploy

TREC = infer_request("textcnn-trec", {"ids": [b"What is a CNN ?"]})
DIGIT = ROOT / "examples" / "pictures" / "digit-3.png"
# WCAG 2.2, success criterion 1.4.3: 4.5 for text, on the nearest background that is not transparent.
CONTRASTS = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility())
    .filter((element) => [...element.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .map((element) => {
      const style = getComputedStyle(element);
      const [a, b] = [light(rgb(element.closest("svg") ? style.fill : style.color)), light(paper(element))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent.trim().slice(0, 30)];
    })
    .filter(([contrast]) => contrast < 4.5);
})()
"""
UNLABELLED = """
[...document.querySelectorAll("input, select, textarea, img, svg")]
  .filter((at) => !(at.labels?.length || at.getAttribute("aria-label") || at.getAttribute("alt")))
  .map((at) => at.outerHTML)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    program("chromium")
    with ServerProcess(MODELS, "grpcio") as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(program("chromium"), tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def empty(chromium: Browser) -> Browser:
    """An empty page that shares nothing with those of other tests but the process of the browser."""
    chromium.begin_anew()
    return chromium


@pytest.fixture
def page(server: ServerProcess, empty: Browser) -> Iterator[Browser]:
    """The page on a desk, in light; it must not have complained in the end."""
    empty.screen(1280, 900, "light")
    empty.open(f"http://localhost:{server.http_port}/")
    yield empty
    assert empty.complaints == []


def choose_model(page: Browser, name: str) -> None:
    page.evaluate(f"byId('model').value = '{name}'; byId('model').dispatchEvent(new Event('change'))")


def test_every_model_is_there(page: Browser) -> None:
    names = page.evaluate("[...document.querySelectorAll('.card h2')].map((title) => title.textContent)")
    assert {folder.name for folder in MODELS.iterdir() if folder.is_dir()} <= set(names)
    text = page.evaluate("document.body.innerText")
    assert "99.32 % top-1 on mnist test" in text
    assert "5 of 5 models serving" in text


def test_a_picture_is_classified(page: Browser) -> None:
    choose_model(page, "lenet5-mnist")
    page.choose_file("#picture", DIGIT)
    page.until("byId('preview').naturalWidth > 0")
    page.evaluate("document.querySelector('#try button').click()")
    page.until("document.querySelectorAll('#answer li').length === 5")
    assert page.evaluate("document.querySelector('#answer .label').textContent") == "3"
    assert "in a batch of" in page.evaluate("byId('answer').textContent")
    # What was tried is counted like any call, and seen on the page without loading it anew.
    card = "[...document.querySelectorAll('.card')].find((card) => card.innerText.startsWith('lenet5-mnist'))"
    page.until(f"{card}.querySelectorAll('svg').length === 3")


def test_a_sentence_is_classified(page: Browser) -> None:
    choose_model(page, "textcnn-mr")
    page.until("!byId('sentence-part').hidden && byId('picture-part').hidden")
    page.evaluate("byId('sentence').value = 'A gripping story.'; form.requestSubmit()")
    page.until("document.querySelectorAll('#answer li').length === 2")
    assert page.evaluate("document.querySelector('#answer .label').textContent") == "positive"


def test_what_is_wrong_is_told(page: Browser) -> None:
    choose_model(page, "lenet5-mnist")
    page.choose_file("#picture", ROOT / "LICENSE")
    page.evaluate("form.requestSubmit()")
    page.until("byId('answer').innerText.startsWith('INVALID_ARGUMENT')")
    assert page.evaluate("document.querySelector('#try button').disabled") is False
    # The browser notes every answer of 400 itself.
    assert len(page.complaints) == 1
    page.complaints.clear()


def test_the_figures_follow_the_traffic(page: Browser, server: ServerProcess) -> None:
    for _ in range(20):
        server.client.infer(TREC)
    card = "[...document.querySelectorAll('.card')].find((card) => card.innerText.startsWith('textcnn-trec'))"
    label = page.until(f"{card}.querySelector('svg')?.getAttribute('aria-label')")
    assert re.fullmatch(r"Latency: \d+ calls, \d+% of them .+", label)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (390, True), (320, True)])
def test_all_is_legible_labelled_and_within_the_width(page: Browser, scheme: str, width: int, mobile: bool) -> None:
    page.screen(width, 844, scheme, mobile=mobile)
    choose_model(page, "lenet5-mnist")
    page.choose_file("#picture", DIGIT)
    page.evaluate("form.requestSubmit()")
    page.until("document.querySelectorAll('#answer li').length === 5")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRASTS) == []
    assert page.evaluate(UNLABELLED) == []
    assert (page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")) == (scheme == "dark")


def test_a_server_that_is_gone_is_noticed(small_repository: Path, empty: Browser) -> None:
    page = empty
    with ServerProcess(small_repository, "grpcio") as server:
        page.open(f"http://localhost:{server.http_port}/")
        page.until("byId('model').options.length === 0")  # a bare graph cannot be tried
        assert page.evaluate("byId('lost').hidden")
        server.process.kill()
        page.until("!byId('lost').hidden")


def test_another_page_cannot_use_the_form(server: ServerProcess, empty: Browser) -> None:
    def tried() -> float:
        return server.metric("convserve_requests_total", method="ClassifySentences")

    before = tried()
    empty.open("about:blank")
    where = f"'http://localhost:{server.http_port}/try?model=textcnn-mr&kind=sentence'"
    for mode in ("cors", "no-cors"):
        sent = f"fetch({where}, {{method: 'POST', body: 'x', mode: '{mode}'}})"
        assert empty.evaluate(f"{sent}.then((answer) => answer.status, () => 0)") == 0
    assert tried() == before
