"""What a run would do, and how long it may take."""

from __future__ import annotations

import json

from flashmm.workflow.forecast import Took, forecast, planned_jobs, times_of_rules

PRINTED = """Building DAG of jobs...
Job stats:
job          count
---------  -------
default          1
fit             12
report           1
total           14
"""


def record(folder, name, **fields):
    said = {"rule": "fit", "log": ["a.log"], "starttime": 10.0, "endtime": 14.0} | fields
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said))


def test_jobs_of_a_dry_run():
    assert planned_jobs(PRINTED) == {"fit": 12, "report": 1}
    assert planned_jobs("Nothing to be done (all requested files are present).") == {}


def test_times_of_earlier_jobs(tmp_path):
    record(tmp_path, "one")
    record(tmp_path, "deep/two", endtime=14.1)  # another output of the same job
    record(tmp_path, "three", log=["b.log"], endtime=20.0)
    record(tmp_path, "four", log=["c.log"], endtime=12.0)
    record(tmp_path, "five", log=["d.log"], incomplete=True, endtime=99.0)
    record(tmp_path, "six", rule="test", endtime=None)
    (tmp_path / "seven").write_text("{")
    took = times_of_rules(tmp_path)
    assert list(took) == ["fit"] and took["fit"].jobs == 3
    assert abs(took["fit"].seconds - 4.05) < 0.06


def test_expected_time_of_a_run():
    said = forecast({"fit": 12, "report": 1}, {"fit": Took(3, 50.0), "report": Took(1, 120.0)}, 2)
    assert said.splitlines()[1].split() == ["fit", "12", "50.0", "600"]
    assert said.splitlines()[3].split() == ["total", "13", "720"]
    assert "About 6 minutes with 2 jobs at a time" in said


def test_what_has_never_run_is_said():
    said = forecast({"fit": 2, "report": 1}, {"fit": Took(3, 5.0)}, 1)
    assert (
        "Not known before a first run in this folder: report; the others about 10 seconds" in said
    )
    assert forecast({}, {}, 1) == "Nothing is to be done: all results are there.\n"
