"""Commands and functions in the sheet of methods: what the plan makes of them, and mistakes."""

from __future__ import annotations

import copy

import pytest

from flashmm.benchmark.functions import FUNCTIONS
from flashmm.workflow.plan import Plan
from flashmm.workflow.sheets import ConfigError

from .test_plan import ROOT, plan, plan_of

MODEL = {"fixed": "~ log(libsize) + condition", "random": "subject", "within": "cell_type"}
COMMAND = {"command": "Rscript --vanilla workflow/methods/edger.R {groups} {design} {out}"}


def other(method, **changes) -> dict:
    found: Plan = plan_of(method, **changes)
    return found.methods_of("small-1")["m"]


def test_a_command_and_its_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the scripts are found in the project all the same
    model = other(COMMAND | {"genes": 5, "memory": 800})
    assert model["kind"] == "command" and (model["groups"], model["cells"]) == (True, False)
    run = model["run"]
    assert run["command"][:3] == ["Rscript", "--vanilla", "workflow/methods/edger.R"]
    assert (run["factor"], run["subject"], run["cell_type"]) == (
        "condition",
        "subject",
        "cell_type",
    )
    assert (run["genes"], run["timeout"], run["memory"]) == (5, 60.0, 800)
    assert model["files"] == [
        str(ROOT / "workflow/methods/edger.R"),
        str(ROOT / "workflow/methods/common.R"),
    ]


def test_what_is_read_depends_on_the_placeholders():
    assert other({"command": "x {matrix} {out}"})["cells"]
    assert not other({"command": "x {design} {out}"})["groups"]
    assert other({"function": "wilcoxon"})["cells"]
    assert other({"function": "truth"})["truth"]


def test_settings_of_functions():
    run = other({"function": "permuted-labels", **MODEL})["run"]
    assert run["function"]["within"] == "cell_type" and run["cell_type"] == "cell_type"
    run = other({"function": "wilcoxon", "within": "cell_type"})["run"]
    assert "within" not in run["function"]
    whole = other({"function": "wilcoxon"}, by=["subject", "condition"])
    assert whole["run"]["cell_type"] is None and whole["within"] is None


def test_the_rule_asks():
    found = plan_of(COMMAND | {"timeout": 5})
    assert found.others.names == ["m"] and found.others.models == []
    assert (
        found.others.minutes("small-1", "m") == 15 and found.others.memory("small-1", "m") == 5000
    )
    assert found.others.truth("small-1", "m") == [] == found.cells_for("small-1", "m")
    assert set(found.others.job("small-1", "m")) >= {"method", "reference", "layer", "seed"}
    truth = plan_of({"function": "truth"})
    assert truth.others.truth("small-1", "m") == "results/simulations/small-1.truth.tsv"
    cells = plan_of({"function": "wilcoxon"})
    assert cells.cells_for("small-1", "m") == ["results/simulations/small-1.h5ad"]
    report = found.report_runs()[0]
    assert report["fit"] is None and "benchmarks/method/small-1/m.json" in report["measured"]


def test_costs_of_the_steps():
    def steps(found: Plan) -> dict:
        made: dict = {}
        names, files = found.collected()["costs"], found.parts()["costs"]
        for name, path in zip(names, files, strict=True):
            if name["dataset"] == "small-1":
                made.setdefault((name["method"], name["step"]), []).append(path)
        return made

    place = "results/benchmarks"
    assert steps(plan_of(MODEL)) == {
        ("m", "summarise"): [f"{place}/summarise/small-1.json"],
        ("m", "fit"): [f"{place}/fit/small-1/m.json"],
    }
    split = steps(plan_of(MODEL, shards={"cells": 2, "genes": 2}))
    assert len(split["m", "summarise"]) == len(split["m", "fit"]) == 3
    assert split["m", "test"] == [f"{place}/test/small-1/m.json"]
    assert steps(plan_of({"command": "x {matrix} {out}"})) == {
        ("m", "method"): [f"{place}/method/small-1/m.json"]
    }
    assert ("subject", "reference") in steps(plan())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"command": "Rscript x.R {groups} {out}"}, "m: command: x.R: no such file"),
        ({"command": "x {group} {out}"}, r"m: command: \{group\} is not known; did you mean"),
        ({"command": "x {groups}"}, r"m: command: it needs \{out\}"),
        ({"command": "x 'a {out}"}, "m: command: .* No closing quotation"),
        ({"command": "x {out"}, "m: command: a brace .* is not closed"),
        ({"command": ""}, "m: 'command': '' is not allowed; expected a program"),
        ({"command": ["x", "{out}"]}, "m: 'command': .* is not allowed; expected a program"),
        (COMMAND | {"function": "ols"}, "m: `command` and `function` are both given"),
        (COMMAND | {"ddf": "residual"}, "m: a command has no use for 'ddf'"),
        (COMMAND | {"random": "subject"}, "m: a command has no use for 'random'"),
        (COMMAND | {"method": "ML"}, "m: a command has no use for 'method'"),
        (COMMAND | {"timeout": 0}, "'timeout': 0 is not allowed; expected the number of minutes"),
        (COMMAND | {"timeout": "long"}, "'timeout': 'long' is not allowed"),
        (COMMAND | {"memory": -5}, "'memory': -5 is not allowed; expected the number of MB"),
        (COMMAND | {"genes": 0}, "'genes': 0 is not allowed; expected the number of genes"),
        (COMMAND | {"genes": 2.5}, "'genes': 2.5 is not allowed"),
        (COMMAND | {"conda": "no.yaml"}, "m: conda: no.yaml: no such file"),
        (COMMAND | {"subject": "donor"}, "m: subject: .* 'donor'"),
        (COMMAND | {"within": "celltype"}, "m: within: .* did you mean 'cell_type'"),
        (COMMAND | {"within": "condition"}, "m: within: 'condition' is the column that is tested"),
        (COMMAND | {"subject": "condition"}, "m: subject: 'condition' is the column that is"),
        (COMMAND | {"timeot": 3}, "unknown key 'timeot'; did you mean 'timeout'"),
        ({"function": "wilcoxn"}, "m: function: 'wilcoxn' is not known; did you mean 'wilcoxon'"),
        ({"function": "wilcoxon", "ddf": "residual"}, "m: the function 'wilcoxon' has no use for"),
        ({"function": "ols", "random": "subject"}, "'ols' has no use for 'random'"),
        ({"function": "truth", "genes": 5}, "'truth' has no use for 'genes'"),
        ({"function": "permuted-labels"}, "m: the test 'permuted_labels' needs 'random' or"),
        ({"function": "permuted-labels", **MODEL, "ddf": "kr"}, "'ddf': 'kr' is not allowed"),
        ({}, "m: 'fixed' missing; a method has a formula"),
        (MODEL | {"timeout": 5}, "m: 'timeout' belongs to a `command` or `function`"),
        (MODEL | {"alternative": "up"}, "'alternative': 'up' is not allowed; expected one of"),
        (MODEL | {"lfc": -1}, "'lfc': -1 is not allowed; expected the least effect"),
    ],
)
def test_mistakes_are_said_in_the_words_of_the_sheet(method, said):
    with pytest.raises(ConfigError, match=said):
        plan_of(method)


def test_what_is_compared_is_a_column():
    for test in ("cell_type[type1]:condition[T.B]", None, ["condition"], "cell_types"):
        with pytest.raises(ConfigError, match="m: a command compares the levels of a column"):
            plan_of(COMMAND, test=test)
    with pytest.raises(ConfigError, match="m: functions are two-sided, and the alternative is"):
        plan_of({"function": "ols"}, alternative="less")


def test_one_name_is_one_kind_of_method(tmp_path):
    (tmp_path / "a.h5ad").touch()
    own = {"counts": str(tmp_path / "a.h5ad"), "methods": {"m": COMMAND}}
    with pytest.raises(ConfigError, match="'m' is a model of one data set and a command"):
        plan_of(MODEL, datasets={"x": own})


def test_mixedlm_is_not_compared_with_a_command():
    from .test_plan import TEST_CONFIG

    benchmark = copy.deepcopy(TEST_CONFIG["benchmark"]) | {"reference": {"methods": ["m"]}}
    with pytest.raises(ConfigError, match="reference: methods: 'm' is no model"):
        plan_of(COMMAND, benchmark=benchmark)


def test_direction_and_least_effect_of_a_model():
    model = other(MODEL | {"alternative": "greater", "lfc": 0.5})
    assert (model["alternative"], model["lfc"]) == ("greater", 0.5)
    assert other(MODEL, alternative="less")["alternative"] == "less"


@pytest.mark.parametrize("sheet", ["methods.tsv", "methods.peers.tsv"])
def test_shipped_sheets(sheet, monkeypatch):
    monkeypatch.chdir(ROOT)
    changes = {"methods": f"config/{sheet}", "covariates": ["log(libsize)", "libsize"]}
    methods = plan_of({}, **changes).methods_of("small-1")
    kinds = {model["kind"] for model in methods.values()}
    assert kinds == {"model", "function"} | ({"command"} if "peers" in sheet else set())
    used = {m["run"]["function"]["function"] for m in methods.values() if m["kind"] == "function"}
    assert {"truth", "permuted-labels", "wilcoxon", "ols"} <= used <= set(FUNCTIONS)
