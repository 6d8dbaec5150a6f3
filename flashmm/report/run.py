"""Write the report of a run: one HTML page that holds all that it shows, and its figures as files.

The page is made of sections, a section of blocks (text, tables, figures, tables of genes), and the
template draws blocks. Each section below reads the files that it shows and returns its blocks.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.benchmark.evaluation import average_metrics
from flashmm.inference.wald import DEFAULT_DDF
from flashmm.io.files import read_table
from flashmm.options import Status
from flashmm.plots import figures as plots
from flashmm.report import page as blocks
from flashmm.report.subjects import (
    heritability_blocks,
    kinship_blocks,
    multitrait_blocks,
    recovery_cards,
    statuses,
)
from flashmm.storage.files import atomic_path, package_version, reading
from flashmm.storage.provenance import source_digest

PACKAGES = (
    "anndata",
    "formulaic",
    "h5py",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "statsmodels",
    "snakemake",
)
UNITS = {
    "log2p1": "log₂(1 + count)",
    "log1p": "ln(1 + count)",
    "log1p_cp10k": "ln(1 + counts per 10,000)",
    "none": "unit of the input",
}
# Cells read for the figure of a simulation.
SHOWN_CELLS = 5_000
# Volcano plots per data set and method on the page; all are saved as files.
MAX_VOLCANOES = 12
FIRST_ROWS = 25
ACCURACY = (
    "lambda_gc",
    "fpr",
    "fdp",
    "tpr",
    "auc",
    "pauc",
    "missing",
    "tests",
    "de_tests",
    "de_untested",
)
COUNTS = ("missing", "tests", "de_tests", "de_untested")
QUANTITIES = {
    "estimate": "coefficient",
    "std_error": "standard error",
    "statistic": "statistic",
    "p_value": "p-value",
    "theta": "variance component",
    "loglik": "log-likelihood",
}
GENE_COLUMNS = {
    "gene": "Gene",
    "estimate": "Estimate",
    "std_error": "Std. error",
    "statistic": "Statistic",
    "df": "df",
    "p_value": "p-value",
    "adj_p_value": "Adjusted p",
    "status": "Status",
}
NUMERIC = frozenset(GENE_COLUMNS) - {"gene", "status"}
# Sections on models with subjects as rows, by their section of the config.
SUBJECT_SECTIONS = {
    "kinship": kinship_blocks,
    "multitrait": multitrait_blocks,
    "heritability": heritability_blocks,
}


@dataclass(frozen=True)
class Run:
    """One method on one data set, and the files that it left.

    Attributes
    ----------
    dataset, scenario, method : str
        Names; the scenario of real counts is the data set itself.
    replicate : int or None
        Number of the replicate of a simulation; None for real counts.
    counts : list of str
        Paths of the counts.
    model : dict
        `transform, formulas, options, ddf` of the method.
    groups, fit, tests, notes, measured : str
        Paths of the groups, the fit, the tests, the notes, and the measured time and memory.
    reference : str or None
        Path of the time and memory of MixedLM, where it was fitted.
    """

    dataset: str
    scenario: str
    replicate: int | None
    counts: list[str]
    method: str
    model: dict[str, Any]
    groups: str
    fit: str
    tests: str
    notes: str
    measured: str
    reference: str | None = None

    @property
    def simulated(self) -> bool:
        """Whether the truth is known."""
        return self.replicate is not None

    @property
    def ddf(self) -> str:
        """Degrees of freedom asked for, or the default for the likelihood."""
        return str(self.model["ddf"] or DEFAULT_DDF[self.model["options"]["method"]])

    @property
    def unit(self) -> str:
        """Unit of the estimates."""
        return UNITS[self.model["transform"]]


@dataclass(frozen=True)
class Inputs:
    """Everything that a report is made from.

    Attributes
    ----------
    runs : tuple of Run
        What was fitted and tested, in the order of the config.
    tables : mapping
        Name to path of the collected tables of the evaluation.
    scenarios : mapping
        Name to fields of the simulations.
    config : mapping
        The whole config, defaults filled in.
    figures : Path
        Folder for the figures.
    related : mapping
        "kinship", "multitrait" or "heritability" to data set to name to path of the tables of the
        models between subjects; empty where there are none.
    """

    runs: tuple[Run, ...]
    tables: Mapping[str, str]
    scenarios: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]
    figures: Path
    related: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)

    @property
    def simulations(self) -> tuple[Run, ...]:
        """Runs on simulated counts."""
        return tuple(run for run in self.runs if run.simulated)

    @property
    def analyses(self) -> tuple[Run, ...]:
        """Runs on real counts."""
        return tuple(run for run in self.runs if not run.simulated)

    def first_of(self, scenario: str) -> Run:
        """Return the first run of a scenario."""
        return next(run for run in self.runs if run.scenario == scenario)

    @cached_property
    def groups(self) -> dict[str, ad.AnnData]:
        """Groups by path, opened without their values."""
        return {path: _open(path) for path in dict.fromkeys(run.groups for run in self.runs)}

    def table(self, name: str) -> pd.DataFrame:
        """Read a collected table; an empty frame where the run has none."""
        return read_table(self.tables[name]) if name in self.tables else pd.DataFrame()


def write_report(
    path: str | Path,
    figures: str | Path,
    *,
    runs: Sequence[Mapping[str, Any]],
    tables: Mapping[str, str],
    scenarios: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    related: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None,
) -> None:
    """Write the report of a run of the workflow.

    Parameters
    ----------
    path : path
        The HTML page; beside it `provenance.json` says what made it.
    figures : path
        Folder for the figures as SVG and PNG.
    runs : sequence of mapping
        Fields of `Run`.
    tables : mapping
        Name to path of the collected evaluation: `metrics, qq, p_histogram, roc, fdp_tpr` and, with
        MixedLM, `agreement, pairs, attempts`.
    scenarios : mapping
        Name to fields of the simulations.
    config : mapping
        The whole config.
    related : mapping, optional
        Tables of the models between subjects, as in `Inputs`.

    Raises
    ------
    InputError
        A file that cannot be read.
    """
    fitted = tuple(Run(**run) for run in runs)
    inputs = Inputs(fitted, tables, scenarios, config, Path(figures), related or {})
    inputs.figures.mkdir(parents=True, exist_ok=True)
    said = provenance(inputs)
    page = {
        "title": config["report"]["title"],
        "lead": _lead(inputs),
        "cards": _cards(inputs),
        "sections": list(_sections(inputs, said)),
    }
    blocks.render_page(path, page)
    with atomic_path(Path(path).with_name("provenance.json")) as unfinished:
        unfinished.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", "utf-8")


def provenance(inputs: Inputs) -> dict[str, Any]:
    """Say what made a run, as JSON can hold it: config, versions, seed, digests of the inputs."""
    text = json.dumps(inputs.config, sort_keys=True)
    return {
        "flashmm": package_version(),
        "source": source_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "seed": inputs.config["seed"],
        "simulations": {
            run.dataset: json.loads(_said(_open(run.counts[0]), "provenance")[0])
            for run in inputs.simulations
        },
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "config": inputs.config,
        "inputs": {
            run.dataset: json.loads(inputs.groups[run.groups].uns["flashmm"]["provenance"])[
                "inputs"
            ]
            for run in inputs.runs
        },
    }


def _said(data: ad.AnnData, key: str) -> list[str]:
    """Texts that a file of ours says about itself, one or several."""
    return [str(text) for text in np.atleast_1d(data.uns["flashmm"][key])]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _open(path: str) -> ad.AnnData:
    with reading(path):
        return ad.read_h5ad(path, backed="r")


# ----------------------------------------------------------------------------------------------
# The page


def _sections(inputs: Inputs, said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    related = {
        name: make(inputs.related.get(name, {}), inputs.config, inputs.figures)
        for name, make in SUBJECT_SECTIONS.items()
    }
    parts = (
        ("run", "What was run", _what_was_run(inputs)),
        ("results", "Genes found", _results(inputs)),
        ("kinship", "Heritability and tests with a kinship", related["kinship"]),
        ("multitrait", "Cell types together", related["multitrait"]),
        ("heritability", "Known heritabilities, estimated", related["heritability"]),
        ("simulation", "Simulation", _simulation(inputs)),
        ("accuracy", "Accuracy against the truth", _accuracy(inputs)),
        ("agreement", "Agreement with MixedLM", _agreement(inputs)),
        ("fits", "How the fits ended", _fits(inputs)),
        ("performance", "Run time and memory", _performance(inputs)),
        ("notes", "Notes of the run", _notes(inputs)),
        ("provenance", "Provenance", _provenance(said)),
    )
    for name, title, content in parts:
        found = list(content)
        if found:
            yield {"id": name, "title": title, "blocks": found}


def _lead(inputs: Inputs) -> str:
    if not inputs.runs:
        return "Kinship mixed models of simulated traits whose heritability is known."
    parts = []
    if inputs.simulations:
        parts.append("simulations with a known truth")
    if inputs.analyses:
        parts.append(" and ".join(dict.fromkeys(run.dataset for run in inputs.analyses)))
    methods = ", ".join(dict.fromkeys(run.method for run in inputs.runs))
    return (
        f"Linear mixed models, fitted from summary statistics, on {' and on '.join(parts)}. "
        f"Methods: {methods}."
    )


def _cards(inputs: Inputs) -> list[dict[str, str]]:
    values = _run_cards(inputs) if inputs.runs else {}
    values |= recovery_cards(inputs.related.get("heritability", {}))
    return [{"label": label, "value": blocks.cell(value)} for label, value in values.items()]


def _run_cards(inputs: Inputs) -> dict[str, Any]:
    groups = inputs.groups.values()
    status = pd.concat([_status(run) for run in inputs.runs])
    usable = status.isin([Status.OK, Status.BOUNDARY]).mean()
    return {
        "data sets": len({run.dataset for run in inputs.runs}),
        "cells in the largest": max(int(g.obs["n_cells"].sum()) for g in groups),
        "genes in the largest": max(g.n_vars for g in groups),
        "methods": len({run.method for run in inputs.runs}),
        "models fitted": len(status),
        "with estimates": f"{np.floor(1000 * usable) / 10:g} %",
    }


# ----------------------------------------------------------------------------------------------
# What was run


def _what_was_run(inputs: Inputs) -> Iterator[dict[str, Any]]:
    if not inputs.runs:
        return
    yield blocks.table(
        _datasets(inputs), "Data sets", "What was summarised, once, into groups of cells."
    )
    yield blocks.table(_methods(inputs), "Methods", "What was fitted and how it was tested.")


def _provenance(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    versions = {"flashmm": said["flashmm"], "Python": said["python"], **said["packages"]}
    yield blocks.table(
        pd.DataFrame({"Package": list(versions), "Version": list(versions.values())}),
        "Software",
        f"On {said['platform']}; digest of the package's source {said['source']}.",
    )
    yield blocks.text(
        f"Every random number derives from the seed {said['seed']}; those of a simulation from it, "
        "the CRC-32 of the scenario's name, and the replicate. The SHA-256 digest of the config is "
        f"{said['config_sha256']}."
    )
    if said["simulations"]:
        seeds = {name: made["seed"] for name, made in said["simulations"].items()}
        yield blocks.details(
            "Seeds of the simulations", (f"{n}  {seed}" for n, seed in seeds.items())
        )
    digests = (
        f"{record['sha256']}  {record['file']}"
        for records in said["inputs"].values()
        for record in records
    )
    if said["inputs"]:
        yield blocks.details("Digests of the counts (SHA-256)", dict.fromkeys(digests))
    config = json.dumps(said["config"], indent=2, ensure_ascii=False)
    yield blocks.details("The config, defaults filled in", [config])


def _datasets(inputs: Inputs) -> pd.DataFrame:
    rows = []
    for path, groups in inputs.groups.items():
        run = next(run for run in inputs.runs if run.groups == path)
        by = _said(groups, "by")
        levels = groups.obs[list(groups.obs.columns[: len(by)])].nunique()
        rows.append(
            {
                "Data set": run.dataset,
                "Cells": int(groups.obs["n_cells"].sum()),
                "Genes": groups.n_vars,
                "Groups": groups.n_obs,
                "Levels": ", ".join(f"{name} {n}" for name, n in zip(by, levels, strict=True)),
                "Transform": _said(groups, "transform")[0],
                "Counts": "simulated" if run.simulated else ", ".join(run.counts),
            }
        )
    return pd.DataFrame(rows)


def _methods(inputs: Inputs) -> pd.DataFrame:
    rows = []
    for run in inputs.runs:
        formulas, options = run.model["formulas"], run.model["options"]
        rows.append(
            {
                "Method": run.method,
                "Fixed effects": formulas["fixed"],
                "Random effects": ", ".join(formulas["random"] or ["in the formula"]),
                "Likelihood": options["method"],
                "Components": "≥ 0" if options["nonnegative"] else "unbounded",
                "Degrees of freedom": run.ddf,
                "Transform": run.model["transform"],
            }
        )
    return pd.DataFrame(rows).drop_duplicates()


# ----------------------------------------------------------------------------------------------
# Fits


def _status(run: Run) -> pd.Series:
    return _open(run.fit).obs["status"].astype(str)


def _fits(inputs: Inputs) -> Iterator[dict[str, Any]]:
    counts = {(run.dataset, run.method): _status(run).value_counts() for run in inputs.runs}
    counts |= dict(statuses(inputs.related))
    table = pd.DataFrame(counts).T.fillna(0).astype(int)
    order = [str(status) for status in Status if str(status) in table]
    table = table[order].rename_axis(["Data set", "Method"]).reset_index()
    yield blocks.table(table, "Genes by status", "How the fit of every gene ended.")
    meanings = {"Status": order, "Meaning": [Status(name).sentence for name in order]}
    yield blocks.table(pd.DataFrame(meanings), "Statuses", "What the words say.")


# ----------------------------------------------------------------------------------------------
# Simulation


def _simulation(inputs: Inputs) -> Iterator[dict[str, Any]]:
    if not inputs.simulations:
        return
    fields = pd.DataFrame(inputs.scenarios).map(_field).rename_axis("Field").reset_index()
    yield blocks.table(
        fields,
        "Scenarios",
        "Fields of the simulation that were set; variances and log fold changes are on the natural "
        "log scale.",
    )
    for scenario in inputs.scenarios:
        run = inputs.first_of(scenario)
        counts = _open(run.counts[0])
        cells = np.unique(np.linspace(0, counts.n_obs - 1, SHOWN_CELLS).round().astype(int))
        moments = plots.gene_moments(counts[cells].to_memory().X)
        yield blocks.figure(
            inputs.figures,
            plots.simulation_plot(counts.obs, moments),
            f"simulation-{blocks.slug(scenario)}",
            f"Scenario {scenario}",
            "Cells per subject and cell type, library sizes, and the variance of each gene against "
            f"its mean (first replicate{_of_cells(cells, counts.n_obs)}).",
            plots.CAPTIONS["simulation_plot"],
        )


def _of_cells(cells: np.ndarray, n_obs: int) -> str:
    return "" if len(cells) == n_obs else f"; moments of {len(cells):,} of {n_obs:,} cells"


def _field(value: Any) -> str:
    if isinstance(value, float) and np.isnan(value):
        return "default"
    return json.dumps(value) if isinstance(value, dict | list) else blocks.cell(value)


# ----------------------------------------------------------------------------------------------
# Accuracy


def _accuracy(inputs: Inputs) -> Iterator[dict[str, Any]]:
    if not inputs.simulations:
        return
    metrics = inputs.table("metrics")
    metrics = metrics[metrics["scenario"].isin(list(inputs.scenarios))]
    averaged = average_metrics(metrics, ["scenario", "method"])
    for scenario in inputs.scenarios:
        yield blocks.heading(f"Scenario {scenario}")
        part = averaged[averaged["scenario"] == scenario]
        yield from _accuracy_figures(inputs, scenario, part)
        yield blocks.table(
            _accuracy_table(part),
            f"Error rates and power, {scenario}",
            f"Mean over {inputs.config['benchmark']['replicates']} data sets ± its standard error, "
            "all contrasts together.",
        )


def _accuracy_figures(
    inputs: Inputs, scenario: str, metrics: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    yield blocks.row(_qq_figure(inputs, scenario), _fpr_figure(inputs, scenario, metrics))
    yield blocks.figure(
        inputs.figures,
        plots.p_histogram(_curves(inputs, "p_histogram", scenario)),
        f"p_histogram-{blocks.slug(scenario)}",
        f"Histogram of null p-values, {scenario}, first replicate",
        "Density of the p-values of the tests without a true effect.",
        plots.CAPTIONS["p_histogram"],
    )
    roc = _curves(inputs, "roc", scenario)
    if roc:
        yield _roc_figure(inputs, scenario, metrics, roc)
        yield _fdr_figure(inputs, scenario, metrics)


def _qq_figure(inputs: Inputs, scenario: str) -> dict[str, Any]:
    return blocks.figure(
        inputs.figures,
        plots.qq_plot(_curves(inputs, "qq", scenario)),
        f"qq-{blocks.slug(scenario)}",
        f"Null p-values, {scenario}, first replicate",
        "Observed against expected −log₁₀ p of the tests without a true effect.",
        plots.CAPTIONS["qq_plot"],
    )


def _fpr_figure(inputs: Inputs, scenario: str, metrics: pd.DataFrame) -> dict[str, Any]:
    return blocks.figure(
        inputs.figures,
        plots.fpr_plot(metrics),
        f"fpr-{blocks.slug(scenario)}",
        f"False positive rate, {scenario}",
        "Share of the tests without a true effect whose p-value is below the level, with 95 % "
        "intervals.",
        plots.CAPTIONS["fpr_plot"],
    )


def _roc_figure(
    inputs: Inputs, scenario: str, metrics: pd.DataFrame, roc: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    auc = metrics[(metrics["metric"] == "auc") & (metrics["contrast"] == "all")]
    return blocks.figure(
        inputs.figures,
        plots.roc_plot(roc, auc=dict(zip(auc["method"], auc["value"], strict=True))),
        f"roc-{blocks.slug(scenario)}",
        f"ROC curves, {scenario}, first replicate",
        "True against false positive rate as the p-value threshold grows; mean area in the legend.",
        plots.CAPTIONS["roc_plot"],
    )


def _fdr_figure(inputs: Inputs, scenario: str, metrics: pd.DataFrame) -> dict[str, Any]:
    return blocks.figure(
        inputs.figures,
        plots.fdr_tpr_plot(metrics, _curves(inputs, "fdp_tpr", scenario)),
        f"fdr_tpr-{blocks.slug(scenario)}",
        f"Power and false discoveries, {scenario}",
        "True positive rate against the realised false discovery proportion at the nominal levels; "
        "thin lines are the first replicate.",
        plots.CAPTIONS["fdr_tpr_plot"],
    )


def _curves(inputs: Inputs, name: str, scenario: str) -> dict[str, pd.DataFrame]:
    """Method to curve of the first replicate; methods without one are left out."""
    table = inputs.table(name)
    table = table[(table["scenario"] == scenario) & (table["replicate"] == 1)]
    return {str(method): part for method, part in table.groupby("method", sort=False)}


def _accuracy_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows are metrics in words, columns are methods."""
    shown = metrics[
        (metrics["contrast"] == "all") & metrics["metric"].isin(ACCURACY) & metrics["value"].notna()
    ].copy()
    shown.loc[shown["metric"].isin(COUNTS), "std_error"] = np.nan
    shown["text"] = list(map(blocks.with_error, shown["value"], shown["std_error"]))
    order = shown["metric"].map(ACCURACY.index)
    shown = shown.iloc[np.argsort(order.to_numpy(), kind="stable")]
    wide = shown.pivot_table(
        index="label", columns="method", values="text", aggfunc="first", sort=False
    )
    wide = wide[list(dict.fromkeys(metrics["method"]))].fillna("–")
    return wide.rename_axis("", axis=0).rename_axis(None, axis=1).reset_index()


# ----------------------------------------------------------------------------------------------
# Agreement with MixedLM


def _agreement(inputs: Inputs) -> Iterator[dict[str, Any]]:
    pairs = inputs.table("pairs")
    if pairs.empty:
        return
    genes = pairs.groupby("dataset")["gene"].nunique().max()
    yield blocks.text(
        f"statsmodels MixedLM fitted the same models to up to {genes} genes per data set, from the "
        "cells themselves. Where the two differ, the higher log-likelihood is the better fit."
    )
    for method, part in pairs.groupby("method", sort=False):
        run = next(run for run in inputs.runs if run.method == method)
        yield blocks.figure(
            inputs.figures,
            plots.agreement_plot(part, unit=run.unit),
            f"agreement-{blocks.slug(str(method))}",
            f"flashmm against MixedLM, method {method}",
            "One point per gene and number; standard errors are compared without the small-sample "
            "correction, which MixedLM does not have.",
            plots.CAPTIONS["agreement_plot"],
        )
    table = inputs.table("agreement")
    yield blocks.table(
        _differences(table),
        "Differences",
        "Absolute differences, and the largest one on the scale that the last column names.",
    )
    yield blocks.table(
        _race(table),
        "Whose log-likelihood is higher",
        "By more than 10⁻⁶, of the same model on the same gene; a gain is the largest difference.",
    )
    optimisers = inputs.config["benchmark"]["reference"]["optimisers"]
    yield blocks.table(
        _failures(inputs.table("attempts"), optimisers),
        "Failures of MixedLM, by optimiser",
        "Genes on which an optimiser gave no usable fit, so that the next one was tried, of "
        f"{', '.join(optimisers)}; those not listed were not needed.",
    )


def _differences(table: pd.DataFrame) -> pd.DataFrame:
    names = {
        "dataset": "Data set",
        "method": "Method",
        "quantity": "Quantity",
        "n": "Compared",
        "reference_only": "Missing here",
        "ours_only": "Missing in MixedLM",
        "median": "Median",
        "max": "Largest",
        "scaled_max": "Largest, scaled",
        "unit": "Scale",
    }
    shown = table[table["quantity"].isin(QUANTITIES)]
    return shown[list(names)].replace({"quantity": QUANTITIES}).rename(columns=names)


def _race(table: pd.DataFrame) -> pd.DataFrame:
    race = table[table["quantity"] == "loglik"]
    return pd.DataFrame(
        {
            "Data set": race["dataset"],
            "Method": race["method"],
            "Genes": race["n"],
            "flashmm higher": race["ours_higher"],
            "MixedLM higher": race["reference_higher"],
            "Equal": race["n"] - race["ours_higher"] - race["reference_higher"],
            "Gain of flashmm": race["ours_gain"],
            "Gain of MixedLM": race["reference_gain"],
        }
    )


def _failures(attempts: pd.DataFrame, optimisers: Sequence[str]) -> pd.DataFrame:
    rows = []
    for (dataset, method), part in attempts.groupby(["dataset", "method"], sort=False):
        for optimiser in (name for name in optimisers if (part["optimiser"] == name).any()):
            tried = part[part["optimiser"] == optimiser]
            reasons = tried.loc[~tried["accepted"], "reason"].value_counts()
            rows.append(
                {
                    "Data set": dataset,
                    "Method": method,
                    "Optimiser": optimiser,
                    "Tried": len(tried),
                    "Failed": int((~tried["accepted"]).sum()),
                    "Why": "; ".join(f"{reason} ({n})" for reason, n in reasons.items()) or "–",
                }
            )
    return pd.DataFrame(rows)


# ----------------------------------------------------------------------------------------------
# Genes found in real counts


def _results(inputs: Inputs) -> Iterator[dict[str, Any]]:
    metrics = inputs.table("metrics")
    for run in inputs.analyses:
        tests = read_table(run.tests)
        yield blocks.heading(f"{run.dataset}, method {run.method}")
        yield from _found(inputs, run, tests, metrics)
        yield from _volcanoes(inputs, run, tests)
        yield _gene_table(inputs, run, tests)


def _found(
    inputs: Inputs, run: Run, tests: pd.DataFrame, metrics: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    fdr = inputs.config["report"]["fdr"]
    inflation = metrics[
        (metrics["metric"] == "lambda_gc")
        & (metrics["dataset"] == run.dataset)
        & (metrics["method"] == run.method)
    ].set_index("contrast")["value"]
    rows = []
    for contrast, part in tests.groupby("contrast", sort=False):
        found = part["adj_p_value"] <= fdr
        joint = part["estimate"].isna().all()  # F tests have no direction
        rows.append(
            {
                "Contrast": contrast,
                "Genes tested": int(part["p_value"].notna().sum()),
                "Found": int(found.sum()),
                "Up": np.nan if joint else (found & (part["estimate"] > 0)).sum(),
                "Down": np.nan if joint else (found & (part["estimate"] < 0)).sum(),
                "Median df": part["df"].median(),
                "Inflation λ": inflation.get(contrast, np.nan),
            }
        )
    yield blocks.table(
        pd.DataFrame(rows),
        "Genes found",
        f"Adjusted p-value (Benjamini-Hochberg, per contrast) up to {fdr:g}. λ compares the median "
        "p-value with that of no effects at all; many true effects raise it too.",
    )


def _volcanoes(inputs: Inputs, run: Run, tests: pd.DataFrame) -> Iterator[dict[str, Any]]:
    single = tests[tests["estimate"].notna()]
    stem = f"volcano-{blocks.slug(run.dataset)}-{blocks.slug(run.method)}"
    figures = [
        blocks.figure(
            inputs.figures,
            plots.volcano_plot(part, fdr=inputs.config["report"]["fdr"], unit=run.unit),
            f"{stem}-{number}-{blocks.slug(str(contrast))[:60]}",
            f"Volcano plot of {contrast}",
            f"Estimate in {run.unit} against −log₁₀ p; one point per gene.",
        )
        for number, (contrast, part) in enumerate(single.groupby("contrast", sort=False), start=1)
    ]
    if figures:
        yield blocks.row(*figures[:MAX_VOLCANOES], good=plots.CAPTIONS["volcano_plot"])
    if len(figures) > MAX_VOLCANOES:
        left = len(figures) - MAX_VOLCANOES
        yield blocks.text(f"The volcano plots of {left} more contrasts are in {inputs.figures}.")


def _gene_table(inputs: Inputs, run: Run, tests: pd.DataFrame) -> dict[str, Any]:
    fdr, top = inputs.config["report"]["fdr"], inputs.config["report"]["top_genes"]
    contrasts: list[dict[str, Any]] = [
        {
            "name": str(contrast),
            "total": int(part["p_value"].notna().sum()),
            "found": int((part["adj_p_value"] <= fdr).sum()),
            "rows": _gene_rows(part, top),
        }
        for contrast, part in tests.groupby("contrast", sort=False)
    ]
    shown = [
        [blocks.cell(value) for value in row[:-1]] for row in contrasts[0]["rows"][:FIRST_ROWS]
    ]
    return {
        "kind": "genes",
        "id": f"genes-{blocks.slug(run.dataset)}-{blocks.slug(run.method)}",
        "title": f"Top genes of {run.dataset}, {run.method}",
        "caption": f"Estimates in {run.unit}; click a heading to sort.",
        "path": run.tests.replace(".parquet", ".tsv"),
        "shown": shown,
        "data": {
            "fdr": fdr,
            "columns": [
                {"key": key, "label": label, "numeric": key in NUMERIC}
                for key, label in GENE_COLUMNS.items()
            ],
            "contrasts": contrasts,
        },
    }


def _gene_rows(tests: pd.DataFrame, top: int) -> list[list[Any]]:
    """Rows of smallest p-value as JSON can hold them; the last number, log10 p, is for sorting."""
    ranked = tests.sort_values(["log10_p", "gene"], kind="stable").head(top)
    return [
        [_plain(value) for value in row]
        for row in ranked[[*GENE_COLUMNS, "log10_p"]].astype(object).to_numpy()
    ]


def _plain(value: Any) -> Any:
    """Numbers to five digits, infinite or missing ones as None."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value


# ----------------------------------------------------------------------------------------------
# Time and memory


def _performance(inputs: Inputs) -> Iterator[dict[str, Any]]:
    if not inputs.runs:
        return
    records = pd.DataFrame(list(_measured(inputs)))
    yield blocks.figure(
        inputs.figures,
        plots.time_memory_plot(records),
        "time_memory",
        "Time and memory",
        "Fitting time per gene, and the peak memory of the process that fitted (interpreter and "
        "libraries included); one point per data set.",
        plots.CAPTIONS["time_memory_plot"],
    )
    records["per_gene"] = 1e3 * records["seconds"] / records["genes"]
    names = {
        "dataset": "Data set",
        "method": "Method",
        "genes": "Genes",
        "seconds": "Seconds",
        "per_gene": "Milliseconds per gene",
        "peak_memory_mib": "Peak memory (MiB)",
    }
    yield blocks.table(
        records[list(names)].rename(columns=names),
        "Time and memory",
        "Measured inside the process, around the fits alone; one thread.",
    )


def _measured(inputs: Inputs) -> Iterator[dict[str, Any]]:
    for run in inputs.runs:
        files = {run.method: run.measured, f"MixedLM ({run.method})": run.reference}
        for method, path in files.items():
            if path is not None:
                with reading(path):
                    found = json.loads(Path(path).read_text("utf-8"))
                yield {"dataset": run.dataset, "method": method, **found}


# ----------------------------------------------------------------------------------------------
# Notes


def _notes(inputs: Inputs) -> Iterator[dict[str, Any]]:
    where: dict[str, list[str]] = {}
    for run in inputs.runs:
        with reading(run.notes):
            lines = Path(run.notes).read_text("utf-8").splitlines()
        for line in dict.fromkeys(
            [*_simulation_notes(run), *_said(inputs.groups[run.groups], "notes"), *lines]
        ):
            where.setdefault(line, []).append(f"{run.dataset}/{run.method}")
    for section, results in inputs.related.items():
        for dataset, files in results.items():
            with reading(files["notes"]):
                lines = Path(files["notes"]).read_text("utf-8").splitlines()
            for line in lines:
                where.setdefault(line, []).append(f"{dataset}/{section}")
    if where:
        yield blocks.text("What was decided on the way, and what to keep in mind.")
        entries = [{"where": _listed(runs), "text": text} for text, runs in where.items()]
        yield {"kind": "notes", "entries": entries}


def _simulation_notes(run: Run) -> list[str]:
    if not run.simulated:
        return []
    return _said(_open(run.counts[0]), "notes")


def _listed(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more + ":"
