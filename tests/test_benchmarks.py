"""The benchmarks' own machinery: processes, targets, and the marks of documents."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("common", "curves", "reliability", "scaling"):
        sys.modules.pop(name, None)


def reading(common, seconds, peak_mb=0.0):
    return common.Reading(seconds, seconds, peak_mb, 0.0, {})


def test_a_step_is_timed_in_its_own_process_and_says_that_it_failed(module):
    common = module("common")
    with common.step("multiply", n=60) as left, common.step("multiply", n=50) as right:
        took = common.rounds(2, left=(left, ""), right=(right, ""))
        with pytest.raises(RuntimeError, match="exit 1"):
            left.call("no such call")
    assert set(took) == {"left", "right"}
    assert all(0 < each.seconds < common.LONG for each in took.values())
    assert all(each.peak_mb >= each.start_mb > 10 for each in took.values())


def test_targets_are_met_or_missed(module, capsys):
    common = module("common")
    table = common.Table()
    for limit in (common.Limit("ratio", 0.5), common.Limit("ratio", 0.4), None):
        table.add("s", "what", "size", reading(common, 1.0), "other", reading(common, 2.0), limit)
    table.add(
        "s",
        "what",
        "size",
        reading(common, 1, 3),
        "",
        reading(common, 1),
        common.Limit("peak_mb", 2),
    )
    assert [row.met for row in table.rows] == ["met", "MISSED", "", "MISSED"]
    assert table.verdict().startswith("1 of 3 targets met; missed: what (size)")
    assert table.markdown().count("**MISSED**") == capsys.readouterr().out.count("MISSED") == 2


def test_documents_change_between_their_marks_only(module, tmp_path):
    common = module("common")
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n")
    common.write_between(path, "x", "new \\1\n")
    assert path.read_text() == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="0 places marked y"):
        common.write_between(path, "y", "")


@pytest.mark.parametrize(
    "mark", ["machine", "bench", "quoted", "million", "files", "zarr", "shares", "scripts"]
)
def test_the_page_has_the_marks(mark):
    text = (BENCHMARKS.parent / "docs" / "performance.md").read_text()
    assert text.count(f"<!-- {mark} -->\n") == text.count(f"<!-- /{mark} -->") == 1


def test_lines_go_on_in_the_direction_of_their_last_points(module):
    curves = module("curves")
    line = [curves.Point("cells", n, "x", n**1.5, 0.0, 1) for n in (10, 100)]
    beyond = curves.extrapolate(line, (10, 100, 1_000))
    assert [(point.n, point.measured) for point in beyond] == [(1_000, False)]
    assert beyond[0].seconds == pytest.approx(1_000**1.5)
    assert curves.extrapolate(line[:1], (10, 100)) == []


def test_seconds_decide_nothing_on_a_busy_machine(module):
    common = module("common")
    table = common.Table(busy=True)
    for limit in (
        common.Limit("seconds", 0.5),
        common.Limit("seconds", 2),
        common.Limit("ratio", 0.5),
    ):
        table.add("s", "what", "size", reading(common, 1.0), "other", reading(common, 1.0), limit)
    assert [row.met for row in table.rows] == ["machine busy", "met", "MISSED"]
    assert table.verdict().startswith("1 of 3 targets met, 1 not judged on a busy machine; missed")


def test_tests_of_reliability_are_there(module):
    reliability = module("reliability")
    for test in (test for tests in reliability.TRIED.values() for test in tests):
        path, _, name = test.partition("::")
        source = (BENCHMARKS.parent / path).read_text()
        assert not name or f"def {name}(" in source, test


def test_reliability_refuses_tests_that_are_not_there(module):
    with pytest.raises(RuntimeError, match="no_such_test"):
        module("reliability").outcome(("tests/test_fuzz.py::no_such_test",))
