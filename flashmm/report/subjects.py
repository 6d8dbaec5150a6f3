"""Sections of the report on models with subjects as rows, and on known heritabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from flashmm import plots
from flashmm.io.tables import read_table
from flashmm.report import page as blocks
from flashmm.subject_level.models import INTERCEPT

#: data set -> name of a table -> its path
Results: TypeAlias = Mapping[str, Mapping[str, str]]
#: section -> the table with a status per fit
_FITS = {"kinship": "heritability", "multitrait": "fits", "heritability": "estimates"}


def statuses(related: Mapping[str, Results]) -> Iterator[tuple[tuple[str, str], pd.Series]]:
    """Numbers of fits by status, of each data set and section."""
    for section, results in related.items():
        for dataset, files in results.items():
            status = read_table(files[_FITS[section]])["status"].astype(str)
            yield (dataset, section), status.value_counts()


def recovery_cards(results: Results) -> dict[str, int]:
    """Numbers of a study of known heritabilities, for the head of the page."""
    values = {}
    for files in results.values():
        summary = read_table(files["summary"])
        values["simulated traits"] = int(summary["traits"].sum())
        values["true heritabilities"] = len(summary)
        values["fitted by both optimisers"] = int(summary["compared"].sum())
    return values


def kinship_blocks(
    results: Results, config: Mapping[str, Any], folder: Path
) -> Iterator[dict[str, Any]]:
    """Heritability of every gene and cell type, and tests of the covariates."""
    for dataset, files in results.items():
        given = config["kinship"]
        yield blocks.heading(f"{dataset}: covariates {given['covariates']}, {given['method']}")
        heritability = read_table(files["heritability"])
        yield blocks.text(
            "Every gene has one value per subject and cell type, the mean of the subject's cells. "
            "Its variance is split into a part that relatives share, as far as they are related, "
            "and the rest; the heritability h² is the share of the first part."
        )
        yield blocks.table(
            _by_cell_type(heritability, config["report"]["fdr"]),
            f"Heritability of expression, {dataset}",
            "Genes with heritability have an adjusted p-value of h² = 0 (likelihood ratio) up to "
            f"{config['report']['fdr']:g} within the cell type.",
        )
        if heritability["h2"].notna().any():
            yield blocks.figure(
                folder,
                plots.heritability_strips(heritability, "cell_type"),
                f"kinship-{blocks.slug(dataset)}",
                f"Estimated heritabilities, {dataset}",
                "One dot per gene; the box holds the middle half, the thick line is the median.",
                "Good: most dots inside the range. Where they pile up at 0 and at 1 alike, there "
                "are too few subjects, or too few related ones, to tell; the intervals below say "
                "how much is known.",
            )
            yield _profile_figure(folder, files, heritability, dataset)
            yield blocks.table(
                _top_heritabilities(heritability),
                f"Smallest p-values of h² = 0, {dataset}",
                f"The interval is the 95 % profile-likelihood interval. All in {_as_tsv(files)}.",
            )
        tests = read_table(files["tests"])
        if len(tests):
            yield blocks.table(
                _kinship_tests(tests, config["report"]["fdr"]),
                f"Tests of the covariates, {dataset}",
                "Kenward-Roger (REML) or Satterthwaite (ML) degrees of freedom, adjusted within "
                f"cell type and contrast. All in {_as_tsv(files, 'tests')}.",
            )


def _as_tsv(files: Mapping[str, str], name: str = "heritability") -> str:
    return files[name].replace(".parquet", ".tsv")


def _by_cell_type(table: pd.DataFrame, fdr: float) -> pd.DataFrame:
    rows = []
    for cell_type, part in table.groupby("cell_type", sort=False):
        fitted = part[part["h2"].notna()]
        rows.append(
            {
                "Cell type": cell_type,
                "Subjects": int(part["n_individuals"].max()),
                "Genes": len(part),
                "Fitted": len(fitted),
                "Median h²": fitted["h2"].median(),
                "At 0": int((fitted["h2"] == 0).sum()),
                "At 1": int((fitted["h2"] == 1).sum()),
                "Median width of interval": (fitted["h2_upper"] - fitted["h2_lower"]).median(),
                "With heritability": int((fitted["adj_p_value"] <= fdr).sum()),
            }
        )
    return pd.DataFrame(rows)


def _top_heritabilities(table: pd.DataFrame, most: int = 15) -> pd.DataFrame:
    top = table[table["p_value"].notna()].sort_values(["p_value", "gene"], kind="stable")[:most]
    return pd.DataFrame(
        {
            "Gene": top["gene"],
            "Cell type": top["cell_type"],
            "h²": top["h2"],
            "Std. error": top["h2_std_error"],
            "Interval": list(map(_interval, top["h2_lower"], top["h2_upper"])),
            "p-value": top["p_value"],
            "Adjusted p": top["adj_p_value"],
            "Status": top["status"],
        }
    )


def _interval(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}"


def _profile_figure(
    folder: Path, files: Mapping[str, str], table: pd.DataFrame, dataset: str
) -> dict[str, Any]:
    profiles = read_table(files["profiles"])
    if "gene" in table:
        table = table.assign(trait=table["gene"] + " in " + table["cell_type"])
    if "true_h2" in table:
        known = {row.trait: f"{row.trait}, true {row.true_h2:g}" for row in table.itertuples()}
        table, profiles = (t.assign(trait=t["trait"].map(known)) for t in (table, profiles))
    return blocks.figure(
        folder,
        plots.heritability_plot(profiles, table),
        f"profiles-{blocks.slug(dataset)}",
        f"Log-likelihood over the heritability, {dataset}",
        "A few of them, with the maximum and its 95 % interval.",
        plots.CAPTIONS["heritability_plot"],
    )


def _kinship_tests(tests: pd.DataFrame, fdr: float) -> pd.DataFrame:
    rows = []
    for (cell_type, contrast), part in tests.groupby(["cell_type", "contrast"], sort=False):
        best = part[part["p_value"].notna()].nsmallest(1, "log10_p")
        rows.append(
            {
                "Cell type": cell_type,
                "Contrast": contrast,
                "Genes tested": int(part["p_value"].notna().sum()),
                "Found": int((part["adj_p_value"] <= fdr).sum()),
                "Median df": part["df"].median(),
                "Smallest p": best["p_value"].min(),
                "of gene": ", ".join(best["gene"]) or "–",
            }
        )
    return pd.DataFrame(rows)


def multitrait_blocks(
    results: Results, config: Mapping[str, Any], folder: Path
) -> Iterator[dict[str, Any]]:
    """Joint models of the cell types of some genes."""
    for dataset, files in results.items():
        given = config["multitrait"]
        fits, covariances = read_table(files["fits"]), read_table(files["covariances"])
        alike = f"column {given['column']}" if "column" in given else given["file"]
        yield blocks.heading(f"{dataset}: covariates {given['covariates']}, {given['method']}")
        yield blocks.text(
            "One model per gene for all its cell types at once: how much of what two cell types "
            "share goes with what makes subjects alike, and how much with everything else. "
            f"{len(fits)} genes, {fits['n_traits'].iloc[0]} cell types, and the "
            f"{fits['n_subjects'].iloc[0]} subjects that have cells of all of them. What makes "
            f"subjects alike comes from {alike}; its covariance between cell types, C₀, has rank "
            f"{given['rank']} at most."
        )
        yield blocks.figure(
            folder,
            plots.trait_correlation_plot(covariances),
            f"multitrait-{blocks.slug(dataset)}",
            f"Correlations between cell types, {dataset}",
            "Median over the genes, of what goes with the relatedness of the subjects and of "
            "everything else.",
            plots.CAPTIONS["trait_correlation_plot"],
        )
        yield blocks.table(
            _joint_fits(fits, covariances),
            f"Joint fits, {dataset}",
            "Per cell type, the share of the variance that goes with the relatedness. "
            f"Covariances are in {_as_tsv(files, 'covariances')}.",
        )
        effects = read_table(files["effects"])
        if (effects["coefficient"] != INTERCEPT).any():
            yield blocks.table(
                _joint_effects(effects),
                f"Effects per cell type, {dataset}",
                "Estimate ± standard error, given the estimated covariances.",
            )
        refused = fits[fits["reason"] != ""]
        if len(refused):
            lines = (f"{row.gene}: {row.reason}" for row in refused.itertuples())
            yield blocks.details(f"Genes without a fit ({len(refused)})", lines)


def _joint_fits(fits: pd.DataFrame, covariances: pd.DataFrame) -> pd.DataFrame:
    share = covariances[covariances["heritability"].notna()].pivot_table(
        index="gene", columns="cell_type", values="heritability", sort=False
    )
    wide = fits.merge(share, left_on="gene", right_index=True, how="left")
    names = {"gene": "Gene", "status": "Status", "loglik": "Log-likelihood"}
    return wide[[*names, *share.columns]].rename(columns=names)


def _joint_effects(effects: pd.DataFrame) -> pd.DataFrame:
    shown = effects[effects["coefficient"] != INTERCEPT].copy()
    shown["text"] = list(map(blocks.with_error, shown["estimate"], shown["std_error"]))
    wide = shown.pivot_table(
        index=["gene", "coefficient"],
        columns="cell_type",
        values="text",
        aggfunc="first",
        sort=False,
    )
    names = {"gene": "Gene", "coefficient": "Coefficient"}
    return wide.rename_axis(columns=None).reset_index().rename(columns=names)


def heritability_blocks(
    results: Results, config: Mapping[str, Any], folder: Path
) -> Iterator[dict[str, Any]]:
    """Whether known heritabilities were found again."""
    for name, files in results.items():
        given = config["heritability"]
        summary, estimates = read_table(files["summary"]), read_table(files["estimates"])
        yield blocks.text(
            f"{given['individuals']} individuals in families of {given['family_size']}, their "
            f"kinship from {given['markers']:,} simulated markers; {given['traits']} traits per "
            "heritability, with an effect of sex, fitted by REML."
        )
        yield blocks.figure(
            folder,
            plots.heritability_strips(estimates, "true_h2", "true_h2"),
            "heritability",
            "Estimated and true heritability",
            "One dot per trait; the box holds the middle half of the estimates, the thick line is "
            "their median, the triangle above it the truth.",
            plots.CAPTIONS["heritability_strips"],
        )
        yield from _recovery_tables(summary, files)
        yield blocks.figure(
            folder,
            plots.dense_agreement_plot(read_table(files["dense"])),
            "heritability-dense",
            "Two optimisers of one likelihood",
            "One mark per trait that both fitted.",
            plots.CAPTIONS["dense_agreement_plot"],
        )
        yield _profile_figure(folder, files, estimates, name)


def _recovery_tables(summary: pd.DataFrame, files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    yield blocks.table(
        _recovery_table(summary),
        "Estimates",
        "Bias with its Monte Carlo standard error, standard deviation of the estimates, and "
        "the mean of the standard errors reported with them. Estimates cannot leave 0 to 1, "
        "so where the truth is at an end their mean lies inside. All traits are in "
        f"{_as_tsv(files, 'estimates')}.",
    )
    yield blocks.table(
        _coverage_table(summary),
        "Intervals and tests",
        "Share of the 95 % profile-likelihood intervals that hold the truth, and of the "
        "likelihood ratio tests that reject h² = 0 at level 0.05, ± Monte Carlo standard "
        "error. Good: 0.95, and for a true h² of zero at most 0.05 rejected; at the ends 0 "
        "and 1 an interval has one side only and covers more often.",
    )
    yield blocks.table(
        _dense_table(summary),
        "Agreement with a dense optimiser",
        "The same restricted likelihood from dense matrices, maximised by scipy (bounded "
        "search, and both ends); largest differences over the traits that both fitted. A "
        "gain is our log-likelihood minus that of the dense optimiser.",
    )


def _recovery_table(summary: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "True h²": _truth(summary),
            "Traits": summary["traits"],
            "Fitted": summary["fitted"],
            "Mean": summary["mean"],
            "Bias": list(map(blocks.with_error, summary["bias"], summary["bias_error"])),
            "SD": summary["sd"],
            "Mean std. error": summary["mean_std_error"],
            "Share at 0": summary["at_zero"],
            "Share at 1": summary["at_one"],
        }
    )


def _truth(summary: pd.DataFrame) -> list[str]:
    return [f"{h2:g}" for h2 in summary["true_h2"]]


def _coverage_table(summary: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "True h²": _truth(summary),
            "Coverage": list(
                map(blocks.with_error, summary["coverage"], summary["coverage_error"])
            ),
            "h² = 0 rejected": list(
                map(blocks.with_error, summary["rejected"], summary["rejected_error"])
            ),
        }
    )


def _dense_table(summary: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "True h²": _truth(summary),
            "Traits compared": summary["compared"],
            "Largest difference in h²": summary["h2_difference"],
            "Smallest gain": summary["gain_min"],
            "Largest gain": summary["gain_max"],
        }
    )
