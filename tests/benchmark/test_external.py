"""Methods from elsewhere: their commands, what they are given, and what is made of their tables."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from flashmm.benchmark.comparison import (
    Comparison,
    cells_file,
    comparison_of,
    design_table,
    groups_files,
    matrix_files,
)
from flashmm.benchmark.external import (
    checked_tests,
    no_tests,
    parse_command,
    placeholders_of,
    run_command,
)
from flashmm.cells.sparse_counts import read_sparse
from flashmm.cells.summary import summarise
from flashmm.inference.table import adjust_p_values
from flashmm.options import DesignError, InputError, Status
from flashmm.simulate.counts import SimulationSpec, simulate_counts
from flashmm.storage.processes import SKIPPED_CODE, Limits

GENES = pd.Index(["g1", "g2", "g3"])
ASKED = Comparison("arm", ("ctrl", "stim"), "donor", "kind", ("B", "T"), GENES)
ALONE = replace(ASKED, types=("B",))


def table(**columns) -> pd.DataFrame:
    """Text, as a file has it: all genes in one cell type."""
    given = {"gene": list(GENES), "p_value": ["0.1", "0.2", "0.3"]} | columns
    return pd.DataFrame({key: value for key, value in given.items() if value is not None})


# --- commands -------------------------------------------------------------------------------------


def test_a_command_is_split_without_a_shell():
    words = parse_command("Rscript 'my method.R' {groups} --seed={seed} {out} ; rm $HOME")
    assert words == (
        "Rscript",
        "my method.R",
        "{groups}",
        "--seed={seed}",
        "{out}",
        ";",
        "rm",
        "$HOME",
    )
    assert placeholders_of(words) == ("groups", "out", "seed")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("Rscript 'a.R {out}", "cannot be split into arguments: No closing quotation"),
        ("Rscript a.R {group} {out}", r"\{group\} is not known; did you mean 'groups'"),
        ("Rscript a.R {} {out}", r"\{\} is not known"),
        ("Rscript a.R {0} {out}", r"\{0\} is not known"),
        ("Rscript a.R {out.__class__}", r"\{out.__class__\} is not known"),
        ("Rscript a.R {groups}", r"needs \{out\}"),
        ("Rscript a.R {groups {out}", "brace of .* not closed"),
        ("Rscript a.R groups} {out}", "brace of .* not closed"),
        ("{out}", "begins with the program"),
        ("   ", "begins with the program"),
    ],
)
def test_a_command_that_cannot_be_run(command, said):
    with pytest.raises(InputError, match=said):
        parse_command(command)


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_gets_the_columns_of_all_methods():
    found, notes = checked_tests(table(log2_fc=["1", "-1", "NA"], extra=["x"] * 3), ALONE)
    assert list(found)[:4] == ["gene", "kind", "contrast", "estimate"]
    assert set(found["contrast"]) == {"arm[T.stim]"} and set(found["kind"]) == {"B"}
    np.testing.assert_allclose(found["adj_p_value"], adjust_p_values(np.array([0.1, 0.2, 0.3])))
    np.testing.assert_allclose(found["log10_p"], np.log10([0.1, 0.2, 0.3]))
    np.testing.assert_array_equal(found["estimate"], [1, -1, np.nan])
    assert set(found["status"]) == {"ok"} and notes == ()
    assert list(no_tests(ALONE)) == list(found)


def test_tests_that_are_not_reported_have_a_row():
    given = table(cell_type=["B", "T", "T"], gene=["g3", "g1", "g2"], p_value=["0", "NA", "1"])
    found, notes = checked_tests(given, ASKED)
    assert len(found) == 6 and notes == ("4 of 6 tests were not reported by the method.",)
    p = found.set_index(["kind", "gene"])["p_value"]
    assert p["B", "g3"] == 0 and p["T", "g2"] == 1 and p.isna().sum() == 4
    assert (found["status"] == str(Status.NOT_REPORTED)).sum() == 4
    # adjusted within each cell type, of the tests that there are
    np.testing.assert_allclose(found["adj_p_value"].dropna(), [0, 1])


def test_numbers_that_parquet_has_and_columns_by_the_name_of_the_data():
    given = pd.DataFrame({"gene": GENES, " kind": "T", "p_value": [0.1, np.nan, 0.3]})
    found, _ = checked_tests(given, ASKED)
    assert found["p_value"].notna().sum() == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, r"wrote no table to \{out\}"),
        (table(p_value=None), "no column 'p_value'; its columns are 'gene'"),
        (table(gene=None, p_value=["0.1"]), "no column 'gene'"),
        (table().iloc[:0], "no rows"),
        (table(gene=["g1", "g2", "g9"]), "gene: 1 are not in the data, for example 'g9'"),
        (table(gene=["g1", "g2", "g1"]), "1 rows are there twice, for example that of 'g1'"),
        (table(p_value=["0.1", "1.5", "0"]), "p_value: 1.5 of gene 'g2' is outside"),
        (table(p_value=["0.1", "-0.1", "0"]), "p_value: -0.1 of gene 'g2' is outside"),
        (table(p_value=["0.1", "inf", "0"]), "p_value: inf of gene 'g2' is outside"),
        (table(p_value=["0.1", "low", "0"]), "p_value: some values are no numbers"),
        (table(log2_fc=["0.1", "up", "0"]), "log2_fc: some values are no numbers"),
        (table(cell_type=["B", "B", "b"]), "kind: 1 are not in the data, for example 'b'"),
        (table(contrast=["arm[T.stim]"] * 2 + ["stim"]), "contrast: 1 are not in the data"),
        (table().set_axis(["gene", "gene"], axis=1), "two columns of one name"),
    ],
)
def test_nonsense_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        checked_tests(given, ALONE)


def test_what_may_not_be_left_out_where_there_is_a_choice():
    with pytest.raises(InputError, match="no column 'cell_type', and there are 2 cell types"):
        checked_tests(table(), ASKED)
    three = replace(ALONE, levels=("ctrl", "low", "high"))
    with pytest.raises(InputError, match=r"no column 'contrast', and there are 2: 'arm\[T\.low\]'"):
        checked_tests(table(), three)


# --- how a command ends ---------------------------------------------------------------------------


def script(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-S", "-c", "import sys; " + code, *arguments]


def run(code: str, *arguments: str, **more):
    limits = Limits(**{"seconds": 60, **more})
    return run_command(script(code, *arguments, "{out}"), ALONE, {}, limits=limits, seed=7)


WRITE = (
    "open(sys.argv[-1], 'w').write("
    "'gene,p_value\\n' + ''.join(g + ',0.5\\n' for g in ['g1', 'g2', 'g3']))"
)


def test_a_command_that_works():
    verdict = run(f"print('hello', sys.argv[1]); {WRITE}", "{seed}")
    assert (verdict.status, verdict.message, verdict.log) == ("ok", "", ("hello 7",))
    assert len(verdict.tests) == 3
    assert verdict.costs["seconds"] > 0 and np.isnan(verdict.costs["baseline_memory_mib"])


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("sys.exit('it broke')", "failed", "exit code 1; it broke"),
        ("import os; os.kill(os.getpid(), 11)", "failed", "ended by signal 11"),
        ("print('done')", "invalid", "wrote no table"),
        ("open(sys.argv[-1], 'w').write('x\\ny\\n')", "invalid", "no column 'gene', 'p_value'"),
        ("open(sys.argv[-1], 'wb').write(b'\\xff\\xfe')", "invalid", "cannot be read as a table"),
        (f"print('R has no package x.'); sys.exit({SKIPPED_CODE})", "skipped", "no package x"),
        (f"{WRITE}; sys.exit(2)", "failed", "exit code 2; it printed nothing"),
    ],
)
def test_a_command_that_does_not(code, status, said):
    verdict = run(code)
    assert verdict.status == status and said in verdict.message
    assert verdict.tests.empty and list(verdict.tests) == list(no_tests(ALONE))


def test_limits_are_said_in_the_words_of_the_sheet():
    verdict = run("import time; time.sleep(60)", seconds=0.3)
    assert (verdict.status, verdict.message) == (
        "timed-out",
        "stopped after 0.005 minutes (timeout)",
    )
    verdict = run_command(["no-such-program", "{out}"], ALONE, {})
    assert verdict.status == "skipped" and "no such program" in verdict.message


def test_the_time_of_all_genes_is_said():
    verdict = run_command(script(WRITE, "{out}"), ALONE, {}, genes_total=3000)
    assert "3 of 3,000 genes were tested" in verdict.notes[-1]
    assert "seconds at this pace" in verdict.notes[-1]


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated():
    spec = SimulationSpec(n_genes=30, n_cells=300, n_subjects=6, n_cell_types=2, n_de_genes=4)
    adata = simulate_counts(spec, seed=4).adata
    adata.obs = adata.obs.rename(columns={"subject": "donor", "condition": "arm"})
    adata.obs["site"] = adata.obs["donor"].astype(str).str[-1]
    groups = summarise(
        adata, ["donor", "cell_type", "arm", "site"], ["log(libsize)"], progress=False
    )
    return adata, groups


def test_what_is_compared(simulated):
    _, groups = simulated
    fixed = "~ log(libsize) + site + arm"
    asked = comparison_of(groups, "arm", subject="donor", fixed=fixed)
    assert asked.levels == ("A", "B") and asked.contrasts == ("arm[T.B]",)
    assert asked.adjust == ("site",) and not asked.paired
    assert comparison_of(groups, "site", subject="cell_type", cell_type=None).paired
    rows = design_table(asked, seed=3, threads=2).groupby("key")["value"].agg(list)
    assert rows["level"] == ["A", "B"] and rows["seed"] == ["3"] and rows["fixed"] == [fixed]
    assert set(rows["column"]) == {"subject=donor", "condition=arm", "cell_type=cell_type"}
    with pytest.raises(InputError, match="have no column 'dose'"):
        comparison_of(groups, "dose", subject="donor")
    one = groups.subset((groups.obs["arm"] == "A").to_numpy())
    with pytest.raises(DesignError, match="has one level, 'A'"):
        comparison_of(one, "arm", subject="donor")


def test_sums_for_programs_are_those_of_the_cells(simulated):
    adata, groups = simulated
    asked = comparison_of(groups, "arm", subject="donor")
    asked = replace(asked, genes=asked.genes[[3, 11]])
    files = groups_files(groups, asked)
    table, counts = files["groups"].set_index("group"), files["counts"].set_index("gene")
    assert list(table)[:3] == ["subject", "cell_type", "condition"]
    assert list(counts.index) == list(asked.genes)
    for name, row in table.iterrows():
        here = (adata.obs["donor"] == row["subject"]) & (adata.obs["cell_type"] == row["cell_type"])
        cells = adata[here.to_numpy()]
        assert row["n_cells"] == cells.n_obs and row["libsize"] == cells.X.sum()
        for gene in asked.genes:
            assert counts.loc[gene, name] == cells[:, gene].X.sum()


def test_cells_for_programs(simulated):
    adata, groups = simulated
    asked = replace(comparison_of(groups, "arm", subject="donor"), genes=groups.genes[[2, 5]])
    cells = read_sparse([adata], list(asked.columns), genes=asked.genes)
    np.testing.assert_array_equal(cells.values.toarray(), adata[:, asked.genes].X.toarray())
    # library sizes are of all genes
    np.testing.assert_allclose(cells.obs["libsize"], adata.obs["libsize"])
    files = matrix_files(cells, asked)
    np.testing.assert_array_equal(files["matrix"].toarray(), cells.values.toarray().T)
    assert list(files["cells"]) == ["cell", "subject", "cell_type", "condition", "libsize"]
    assert list(cells_file(cells, asked).obs) == ["subject", "cell_type", "condition", "libsize"]


def test_cells_of_several_files_and_cells_without_a_value(simulated):
    adata, _ = simulated
    whole = read_sparse([adata], ["donor"])
    halves = read_sparse([adata[:100].copy(), adata[100:].copy()], ["donor"])
    np.testing.assert_array_equal(halves.values.toarray(), whole.values.toarray())
    assert list(halves.obs.index) == list(whole.obs.index)
    gaps = adata.copy()
    gaps.obs["donor"] = gaps.obs["donor"].astype(str).where(np.arange(adata.n_obs) > 4)
    fewer = read_sparse([gaps], ["donor"])
    assert fewer.values.shape[0] == adata.n_obs - 5
    with pytest.raises(InputError, match="have other genes"):
        read_sparse([adata[:50].copy(), adata[50:, :10].copy()], ["donor"])
