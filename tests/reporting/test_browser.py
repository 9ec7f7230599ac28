"""The report in a real Chromium, opened from the disk: Debian's, driven by Playwright (extra `browser`)."""

import os
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import streamdissect as sd

from .reported import EVIL, LAYERS, read_script

pytestmark = pytest.mark.browser
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium():
    """The browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install streamdissect[browser]")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=program, args=[*root, "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, made):
    """`opened("index.html", viewport=...)`: a page; what it says on the console or asks of a network is a failure."""
    contexts, said = [], []

    def open_page(path="index.html", context=None, **named):
        if context is None:
            context = chromium.new_context(**({"viewport": DESKTOP} | named))
            contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("requestfailed", lambda request: said.extend(troubles(request, request.failure)))
        page.on("request", lambda request: said.extend(troubles(request)))
        page.goto((made.path.parent / path).as_uri())
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def troubles(request, failure=None):
    """What is wrong with a request; one that was given up for another page is not."""
    if not request.url.startswith(("file:", "data:")):
        yield f"asked: {request.url}"
    if failure not in (None, "net::ERR_ABORTED"):
        yield f"failed: {request.url}, {failure}"


def pages(made):
    """One of each kind."""
    return ["index.html", "units.html", "concepts.html", f"units/{LAYERS[1]}-4.html", "concepts/0.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_kind_of_page_loads_in_silence_and_reads_well(scheme, made, opened):
    for path in pages(made):
        page = opened(path, color_scheme=scheme)
        assert page.evaluate("document.fonts.status") == "loaded"
        poor = page.evaluate(POOR_CONTRAST)
        assert poor == [], (path, poor[:5])


POOR_CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > .99) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.disabled) continue;
    const style = getComputedStyle(element);
    const text = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(parse(text)), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(`${element.outerHTML.slice(0, 80)} ${text} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_is_wider_than_the_screen(viewport, made, opened):
    for path in pages(made):
        page = opened(path, viewport=viewport)
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"], path


def shown(page):
    """(concept, IoU) of the cards."""
    return page.evaluate(
        "[...document.querySelectorAll('#cards .card')].map((card) => [card.querySelector('h3').textContent, "
        "Number(card.querySelector('.iou').textContent)])"
    )


def ids(page):
    """Layer and unit of the cards."""
    texts = page.locator("#cards .card h3 a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    return [text.removeprefix("units/").removesuffix(".html").rpartition("-")[::2] for text in texts]


def test_search_sort_and_filters_show_what_the_table_says(made, opened):
    entries = read_script(made.path.parent / "units.js")
    page = opened()
    by_iou = sorted(entries, key=lambda each: -each[4])
    assert [concept for concept, _ in shown(page)] == [each[2] or "no concept" for each in by_iou[:24]]
    page.fill("#search", "<SCRIPT> Alert")
    wanted = [each for each in by_iou if "<script>" in each[2]]
    assert 0 < len(wanted) < 24 and [concept for concept, _ in shown(page)] == [EVIL] * len(wanted)
    assert f"1 to {len(wanted)} of {len(wanted)} units, of 31 in all" in page.locator("#count").text_content()
    page.fill("#search", f"{LAYERS[1]} unit 12")
    assert ids(page) == [(LAYERS[1], "12")]
    page.fill("#search", "nothing like it")
    assert shown(page) == [] and "No unit fits" in page.locator("#count").text_content()
    page.fill("#search", "")
    page.select_option("#sort", "unit")
    assert ids(page) == [(each[0], str(each[1])) for each in entries[:24]]
    page.select_option("#sort", "concept")
    named = [concept for concept, _ in shown(page)]
    assert named == sorted(named, key=lambda name: (name == "no concept", name)) and len(set(named)) > 2
    page.select_option("#sort", "category")
    page.select_option("#detector", "1")
    page.select_option("#layer", LAYERS[1])
    wanted = [each for each in entries if each[5] and each[0] == LAYERS[1]]
    wanted.sort(key=lambda each: (each[3], -each[4]))
    assert ids(page) == [(each[0], str(each[1])) for each in wanted]
    page.select_option("#category", "colour")
    assert ids(page) == [(each[0], str(each[1])) for each in wanted if each[3] == "colour"]
    page.select_option("#detector", "0")
    wanted = [each for each in entries if not each[5] and each[0] == LAYERS[1] and each[3] == "colour"]
    assert len(ids(page)) == len(wanted)


def test_coming_back_finds_what_was_chosen(made, opened):
    page = opened()
    page.select_option("#sort", "unit")
    page.select_option("#layer", LAYERS[1])
    before = ids(page)
    page.locator("#cards .card h3 a").nth(2).click()
    page.wait_for_url("**/units/**")
    page.go_back()
    page.wait_for_function("document.querySelector('#layer').value !== ''")
    assert ids(page) == before and page.input_value("#sort") == "unit"


def test_everything_goes_by_keys(made, opened):
    page = opened()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("n l m")
    assert page.input_value("#search") == "n l m" and page.locator("#content.labels").count() == 0
    page.fill("#search", "")
    page.keyboard.press("Escape")
    first = ids(page)
    page.keyboard.press("n")
    assert len(ids(page)) == 7 and not set(ids(page)) & set(first)
    page.keyboard.press("n")
    assert len(ids(page)) == 7
    page.keyboard.press("p")
    assert ids(page) == first
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/units/{'-'.join(first[1])}.html")
    page.goto((made.path.parent / "units" / f"{LAYERS[0]}-5.html").as_uri())
    page.keyboard.press("j")
    page.wait_for_url(f"**/{LAYERS[0]}-6.html")
    page.keyboard.press("k")
    page.wait_for_url(f"**/{LAYERS[0]}-5.html")


def test_tab_passes_over_nothing(made, opened):
    page = opened()
    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert seen[0] == "Skip to the content"
    assert [each for each in seen if each in ("search", "sort", "category", "detector", "layer")] == [
        "search",
        "sort",
        "category",
        "detector",
        "layer",
    ]
    assert "Label outlines" in seen and "Masks" in seen


def test_masks_and_label_outlines_are_switched_and_stay_so(made, opened):
    page = opened(f"units/{LAYERS[1]}-4.html")

    def visible(kind, where=page):
        return where.evaluate(f"getComputedStyle(document.querySelector('.gallery .{kind}')).display") != "none"

    assert visible("outside") and not visible("label")
    page.click("[data-action=labels]")
    page.keyboard.press("m")
    assert visible("label") and not visible("outside")
    assert page.get_attribute("[data-action=labels]", "aria-pressed") == "true"
    again = opened(f"units/{LAYERS[1]}-4.html", context=page.context)
    assert visible("label", again) and not visible("outside", again)


def test_the_colours_follow_the_system_until_they_are_chosen(made, opened):
    def ground(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    assert ground(light) == "rgb(255, 255, 255)" != ground(dark)
    light.click("[data-action=theme]")
    assert ground(light) == ground(dark)
    assert light.text_content("[data-action=theme]") == "Light"
    other = opened("concepts.html", context=light.context)
    assert ground(other) == ground(dark)
    other.click("[data-action=theme]")
    assert ground(other) == "rgb(255, 255, 255)"


def test_the_browser_fills_a_mask_as_it_was_counted(run, made, opened):
    result = sd.score(run)
    page = opened(f"units/{LAYERS[0]}-2.html")
    found = page.evaluate(
        """() => [...document.querySelectorAll(".gallery svg")].map((svg) => {
          const box = svg.viewBox.baseVal, path = svg.querySelector(".outside"), rows = [];
          for (let y = 0; y < box.height; y++) rows.push(Array.from({ length: box.width },
            (_, x) => path.isPointInFill(new DOMPoint(x + .5, y + .5))));
          return rows;
        })"""
    )
    rows = result.layers[LAYERS[0]].top_image[2, :10].tolist()
    assert len(found) == len(rows)
    for row, outside in zip(rows, found, strict=True):
        assert_array_equal(~np.array(outside), result.mask(row, LAYERS[0], 2))


def test_pictures_are_there_and_cover_their_drawings(made, opened):
    page = opened(f"units/{LAYERS[0]}-2.html")
    page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth === 48)")
    boxes = page.evaluate(
        "[...document.querySelectorAll('.picture')].map((each) => ['img', 'svg'].map((name) => "
        "Object.values(each.querySelector(name).getBoundingClientRect().toJSON()).map(Math.round)))"
    )
    assert len(boxes) == 10 and all(image == drawing for image, drawing in boxes)


def test_without_scripts_the_best_cards_and_the_table_are_there(made, opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#cards .card").count() == 24
    assert not page.locator("#search").is_visible()
    page.click("text=all of them as a table")
    assert page.locator("tbody tr").count() == 31
