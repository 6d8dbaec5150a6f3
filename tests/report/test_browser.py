"""Pages in a real browser: they open, sort, filter, choose, download, and ask no network."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
from browser import browser, require_browser
from pages import AWKWARD, HOSTILE, METHODS, benchmark_inputs

from flashmm.report import write_report


@pytest.fixture(scope="module")
def pages(tmp_path_factory, request) -> dict[str, Path]:
    require_browser()
    folder = tmp_path_factory.mktemp("benchmark")
    write_report(folder / "report.html", benchmark_inputs(folder))
    return {
        "analysis": request.getfixturevalue("typed_page"),
        "benchmark": folder / "report.html",
    }


@pytest.fixture(scope="module")
def window(pages, tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    with browser(downloads) as driver:
        driver.downloads = downloads
        yield driver


@pytest.fixture
def analysis(window, pages):
    return opened(window, pages["analysis"])


@pytest.fixture
def benchmark(window, pages):
    return opened(window, pages["benchmark"])


def opened(window, path: Path):
    """The page, every chart drawn; logs of what came before are dropped."""
    window.get("about:blank")
    for name in ("browser", "performance"):
        window.get_log(name)
    window.get(path.as_uri())
    window.execute_script("undrawn.forEach(drawChart)")
    return window


def column(window, number: int) -> list[str]:
    """Texts of a column of the table of genes."""
    rows = "[...document.querySelectorAll('.genes tbody tr')]"
    script = f"return {rows}.map(row => row.cells[{number}].textContent)"
    return window.execute_script(script)


def write(window, selector: str, text: str) -> None:
    script = (
        "const box = document.querySelector(arguments[0]); box.value = arguments[1];"
        "box.dispatchEvent(new Event('input'));"
    )
    window.execute_script(script, selector, text)


def click(window, selector: str) -> None:
    window.execute_script("document.querySelector(arguments[0]).click()", selector)


def count(window, selector: str) -> int:
    return window.execute_script("return document.querySelectorAll(arguments[0]).length", selector)


@pytest.mark.parametrize("name", ["analysis", "benchmark"])
def test_pages_open_silently_and_ask_no_network(window, pages, name):
    opened(window, pages[name])
    assert window.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [event["params"]["request"]["url"] for event in sent]
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []
    assert [url for url in asked if url.startswith("file:")] == [pages[name].as_uri()]
    assert count(window, ".interactive svg.chart") >= count(window, ".interactive") > 3
    assert pages[name].stat().st_size < 8_000_000


@pytest.mark.parametrize("name", ["analysis", "benchmark"])
def test_pages_fit_a_telephone(window, pages, name):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(window, pages[name])
        assert window.execute_script("return document.documentElement.scrollWidth") == 390
        small = (
            "return [...document.querySelectorAll('.chart text')]"
            ".filter(t => t.textContent && t.getBoundingClientRect().height < 8).length"
        )
        assert window.execute_script(small) == 0
        stuck = (
            "const box = [...document.querySelectorAll('.scroll')]"
            ".find(b => b.scrollWidth > b.clientWidth + 50);"
            "box.scrollLeft = 50; const cell = box.querySelector('tbody th');"
            "return Math.abs(cell.getBoundingClientRect().left - box.getBoundingClientRect().left)"
        )
        assert window.execute_script(stuck) < 2
    finally:
        window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_genes_are_sorted_by_a_click(analysis):
    click(analysis, ".heads th:nth-child(3) button")
    values = [float(text) for text in column(analysis, 2) if text != "–"]
    assert values == sorted(values) and len(values) > 5
    click(analysis, ".heads th:nth-child(3) button")
    again = [float(text) for text in column(analysis, 2) if text != "–"]
    assert again == sorted(again, reverse=True)


def test_genes_are_searched_and_filtered(analysis):
    write(analysis, ".search", "GENE1")
    assert all("gene1" in name for name in column(analysis, 0)) and column(analysis, 0)
    write(analysis, ".search", "")
    write(analysis, ".filters th:nth-child(2) input", "b <c>")
    assert set(column(analysis, 1)) == {"b <c>, d+"}
    write(analysis, ".filters th:nth-child(3) input", "|x| > 1")
    assert all(abs(float(value)) > 1 for value in column(analysis, 2))
    write(analysis, ".filters th:nth-child(3) input", "one")
    assert count(analysis, ".filters input[aria-invalid=true]") == 1


def test_what_is_shown_is_downloaded(analysis):
    write(analysis, ".filters th:nth-child(2) input", "b <c>")
    click(analysis, ".download")
    path = analysis.downloads / "mine-within-genes.csv"
    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["cell_type"] for row in rows} == {"b <c>, d+"}
    assert {HOSTILE, *AWKWARD} <= {row["gene"] for row in rows}
    assert all(float(row["p_value"]) <= 1 for row in rows if row["p_value"])


def test_a_cell_type_is_chosen_everywhere_at_once(analysis):
    script = (
        "const select = document.querySelector('.interactive select'); select.value = '1';"
        "select.dispatchEvent(new Event('change'));"
        "return [...document.querySelectorAll('.interactive select, .contrast')]"
        ".map(s => s.selectedOptions[0].textContent)"
    )
    assert set(analysis.execute_script(script)) == {"b <c>, d+: treated vs ctrl"}
    assert set(column(analysis, 1)) == {"b <c>, d+"}


def test_a_gene_is_shown_by_subject(analysis):
    for name in (HOSTILE, *AWKWARD):
        write(analysis, ".search", name)
        click(analysis, ".genes tbody tr")
        shown = "return document.querySelector('.gene figcaption strong').textContent"
        assert analysis.execute_script(shown) == name
        assert count(analysis, ".gene svg.chart") == 2  # cell types
        assert count(analysis, ".gene .series path") == 2 * 6  # subjects
        click(analysis, ".gene .plain")
    assert count(analysis, ".gene:not([hidden])") == 0


def test_points_have_names_and_charts_zoom(analysis):
    from selenium.webdriver import ActionChains

    chart = analysis.find_element("css selector", ".interactive svg.chart")
    analysis.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart
    )
    mark = chart.find_elements("css selector", ".series[data-name=up] path")[0]
    ActionChains(analysis).move_to_element(mark).perform()
    tip = chart.find_element("xpath", "following-sibling::div[@class='tip']")
    assert "estimate" in tip.text
    actions = ActionChains(analysis).move_to_element_with_offset(chart, -60, -40)
    actions.click_and_hold().move_by_offset(90, 70).release().perform()
    assert count(analysis, ".panel .reset") == 1
    click(analysis, ".panel .reset")
    assert count(analysis, ".panel .reset") == 0


def test_a_method_is_hidden_in_every_chart_and_table(benchmark):
    def drawn() -> set[str]:
        script = "return [...document.querySelectorAll('.chart .series')].map(g => g.dataset.name)"
        return set(benchmark.execute_script(script))

    rows = "tr[data-method]:not([hidden])"
    before = count(benchmark, rows)
    assert METHODS[1] in drawn()
    click(benchmark, ".chips button:nth-child(2)")
    assert METHODS[1] not in drawn() and METHODS[0] in drawn()
    assert count(benchmark, rows) < before
    click(benchmark, ".chips button:nth-child(2)")
    assert count(benchmark, rows) == before and METHODS[1] in drawn()


def test_ranks_are_sorted_by_a_click(benchmark):
    head = "table.sortable thead th:nth-child(3) button"
    click(benchmark, head)
    script = (
        "return [...document.querySelector('table.sortable').tBodies[0].rows]"
        ".map(r => r.cells[2].dataset.value).filter(Boolean).map(Number)"
    )
    values = benchmark.execute_script(script)
    click(benchmark, head)
    assert benchmark.execute_script(script) == values[::-1] and len(values) == 2


@pytest.mark.parametrize("name", ["analysis", "benchmark"])
def test_hostile_names_are_text(window, pages, name):
    opened(window, pages[name])
    assert count(window, "img[src=x]") == 0
    assert count(window, "main b") == 0
    assert count(window, "body > script") == 1  # nothing ended the page's own script
    text = window.execute_script("return document.body.innerText")
    assert "A <title>" in text
    assert (METHODS[1] if name == "benchmark" else AWKWARD[0]) in text


def test_what_was_chosen_is_printed(analysis, tmp_path):
    write(analysis, ".search", "gene1")
    analysis.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        kept = "return getComputedStyle(document.querySelector('.search')).display"
        assert analysis.execute_script(kept) != "none"
        assert all("gene1" in name for name in column(analysis, 0))
        assert count(analysis, "figure.drawn") > 3
    finally:
        analysis.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_method_that_was_switched_off_is_not_printed(benchmark):
    click(benchmark, ".chips button")
    benchmark.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = "return [...document.querySelectorAll('.chips button')].map(b => b.offsetWidth > 0)"
        first, *others = benchmark.execute_script(shown)
        assert not first and any(others)
        scrolls = "return [...document.querySelectorAll('.scroll')].map(s => getComputedStyle(s)"
        assert set(benchmark.execute_script(f"{scrolls}.overflowX)")) == {"visible"}
    finally:
        benchmark.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_pages_are_read_without_a_script(window, pages):
    window.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        window.get(pages["analysis"].as_uri())
        images = window.find_elements("css selector", "figure > img")
        assert images and all(image.is_displayed() for image in images)
        assert "gene" in window.find_element("css selector", ".genes tbody").text
    finally:
        window.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
