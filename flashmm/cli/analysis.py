"""Commands that fit and test: `de` from cells, `test` from groups, `power` from either."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashmm import cells as of_cells
from flashmm import inference, io, plots
from flashmm.cells.inspection import CANNOT
from flashmm.cli import flags
from flashmm.cli.output import in_flags, reported, say, show_json, show_table, step
from flashmm.cli.page import peak_memory_mib, write_recipe
from flashmm.inference.ddf import ddf_method
from flashmm.options import DesignError, InputError
from flashmm.storage.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

    from flashmm.cells import DataCheck, GroupStatistics
    from flashmm.inference import PowerTable, TestTable

Fdr = Annotated[
    float, typer.Option("--fdr", help="False discovery rate of the genes that are said.")
]


@reported
def de(
    cells: flags.Cells,
    out: flags.Out,
    condition: flags.Condition = None,
    subject: flags.Subject = None,
    within: flags.Within = None,
    covariate: flags.Covariates = None,
    reference: flags.Reference = None,
    layer: flags.Layer = None,
    obs: flags.Obs = None,
    gene_names: flags.GeneNames = None,
    duplicate_genes: flags.DuplicateGenes = None,
    transform: flags.Transform = "log2p1",
    missing: flags.Missing = "error",
    ddf: flags.Ddf = None,
    fdr: Fdr = 0.05,
    as_json: flags.Json = False,
) -> None:
    """From cells to tables of differentially expressed genes.

    Leaves groups.h5ad, fit.h5ad, tests.parquet, tests.tsv and notes.txt in the folder; `report`
    makes a page of it. Columns that are not named are found by their usual names, which is said.

    For example:

        flashmm de cells.h5ad --condition condition --subject donor --within cell_type -o out/

        flashmm de cells.h5ad --condition disease --reference healthy --covariate age -o out/

        flashmm de filtered_feature_bc_matrix/ --obs cells.tsv --condition disease -o out/
    """
    reading: dict[str, Any] = {
        "layer": layer,
        "gene_names": gene_names,
        "duplicate_genes": duplicate_genes,
    }
    ddf_method(ddf, "REML")  # refuses one that is not known
    asked = {"condition": condition, "subject": subject, "within": within}
    first = obs[0] if obs else None
    found = _checked(cells[0], transform, asked, reference, obs=first, **reading)
    roles = _roles(found, asked, layer)
    covariates = ["log(libsize)"] if found.has_counts else []
    step("Reading the cells ...")
    groups = of_cells.summarise(
        [str(path) for path in cells],
        by=list(dict.fromkeys([*filter(None, roles.values()), *(covariate or [])])),
        covariates=covariates,
        transform=transform,
        obs=flags.sheets(obs),
        missing=missing,
        **reading,
    )
    io.write_groups(groups, out / "groups.h5ad")
    step(f"Fitting {groups.n_genes} genes ...")
    start = time.perf_counter()
    terms = [*covariates, roles["condition"], *(covariate or [])]
    table = tests_of(
        groups,
        f"~ {' + '.join(filter(None, terms))} + (1 | {roles['subject']})",
        roles["condition"],
        roles["within"],
        ddf,
        _reference(roles["condition"], reference),
    )
    seconds = time.perf_counter() - start
    tested: Any = table.tested
    io.write_fit(tested, out / "fit.h5ad", out / "groups.h5ad")
    write_recipe(
        out,
        cells=[str(path) for path in cells],
        fit="fit.h5ad",
        model=_model_of(table, transform),
        measured={
            "seconds": seconds,
            "peak_memory_mib": peak_memory_mib(),
            "genes": groups.n_genes,
            "cells": groups.n_cells,
        },
    )
    _finish(table, out, fdr, as_json)
    step(f"Next: flashmm explain {out} (genes in words), flashmm report {out} (a page)")


def _model_of(table: TestTable, transform: str) -> dict[str, Any]:
    """What was fitted and tested, in the words of the workflow's methods."""
    from flashmm.within import SIZE_FACTORS

    tested: Any = table.tested
    fit = tested if table.within is None else next(iter(tested.fits.values()))
    asked = fit.stats.require_model()
    return {
        "kind": "model",
        "transform": transform,
        "formulas": {"fixed": asked.fixed, "random": asked.random},
        "within": table.within,
        "size_factors": None if table.within is None else {"method": SIZE_FACTORS},
        "options": asdict(fit.options),
        "ddf": table.ddf,
        "alternative": table.alternative,
    }


@reported
def test(
    groups: Annotated[Path, typer.Argument(help="A file of groups of `summarise` or `merge`.")],
    out: flags.Out,
    formula: Annotated[
        str, typer.Option("--formula", help="Model, random terms in bars: '~ x + (1 | subject)'.")
    ],
    contrast: Annotated[
        list[str] | None,
        typer.Option("--contrast", help="Column or expression to test; default all."),
    ] = None,
    within: flags.Within = None,
    reference: Annotated[
        list[str] | None, typer.Option("--reference", help="Reference level, column=level.")
    ] = None,
    ddf: flags.Ddf = None,
    fdr: Fdr = 0.05,
    as_json: flags.Json = False,
) -> None:
    """Fit and test a model from groups, without reading a cell again.

    For example:

        flashmm test groups.h5ad --formula '~ log(libsize) + condition + (1 | subject)' -o out/
    """
    levels = dict(_pair(given) for given in reference or [])
    table = tests_of(io.read_groups(groups), formula, contrast or None, within, ddf, levels)
    _finish(table, out, fdr, as_json)


@reported
def plan(
    cells: Annotated[
        Path,
        typer.Argument(help="Cells of a pilot: an .h5ad, a zarr store, a .h5 or folder of 10x."),
    ],
    out: flags.Out,
    condition: flags.Condition = None,
    subject: flags.Subject = None,
    within: flags.Within = None,
    reference: flags.Reference = None,
    layer: flags.Layer = None,
    obs: flags.ObsOfOne = None,
    gene_names: flags.GeneNames = None,
    duplicate_genes: flags.DuplicateGenes = None,
    missing: flags.Missing = "error",
    subjects: Annotated[
        str, typer.Option("--subjects", help="Subjects per condition (or pairs), with commas.")
    ] = "3,4,6,8,10,15,20,30",
    cells_of: Annotated[
        str | None, typer.Option("--cells", help="Cells per subject; default as in the pilot.")
    ] = None,
    log2_fc: Annotated[str, typer.Option("--log2-fc", help="Log2 fold changes.")] = "0.5,1",
    alpha: Annotated[float, typer.Option("--alpha", help="Level of the tests.")] = 0.05,
    rate: Annotated[
        float | None,
        typer.Option("--fdr", help="False discovery rate, instead of a level of the tests."),
    ] = None,
    changed: Annotated[
        float, typer.Option("--changed", help="With --fdr: share of the genes that change.")
    ] = 0.1,
    target: Annotated[float, typer.Option("--power", help="Power that is wanted.")] = 0.8,
    as_json: flags.Json = False,
) -> None:
    """How many subjects a study needs, from the variances of a pilot.

    Leaves power.parquet, power.tsv and a figure for each level of --within in the folder.

    For example:

        flashmm power pilot.h5ad --condition condition --subject donor --within cell_type -o out/

        flashmm power filtered_feature_bc_matrix/ --obs cells.tsv --condition disease -o out/
    """
    reading: dict[str, Any] = {
        "layer": layer,
        "obs": obs,
        "gene_names": gene_names,
        "duplicate_genes": duplicate_genes,
    }
    named = {"condition": condition, "subject": subject, "within": within}
    checked = _checked(cells, "log2p1", named, reference, **reading)
    roles = _roles(checked, named, layer)
    sizes = flags.numbers(subjects, "--subjects"), flags.numbers(log2_fc, "--log2-fc")
    each = None if cells_of is None else flags.numbers(cells_of, "--cells")
    step("Reading and fitting the pilot ...")
    groups = of_cells.summarise(
        str(cells),
        by=list(filter(None, roles.values())),
        covariates=["log(libsize)"],
        missing=missing,
        **reading,
    )
    formula = f"~ log(libsize) + {roles['condition']} + (1 | {roles['subject']})"
    levels = _reference(roles["condition"], reference)
    table = tests_of(groups, formula, roles["condition"], roles["within"], reference=levels)
    asked: dict[str, Any] = {"subjects": sizes[0], "cells": each, "log2_fc": sizes[1]}
    found = inference.power(table, **asked, alpha=alpha, fdr=rate, changed=changed)
    _write_power(found, out, target)
    needed = found.needed(target)
    if as_json:
        show_json({"power": found.frame, "needed": needed, "paired": found.paired})
        return
    unit = "pairs" if found.paired else "subjects per condition"
    show_table(needed, f"{unit} for a mean power of {target:.0%} at {found.criterion}")
    say([f"{out}: power.tsv, power.parquet, figures"])


def _write_power(found: PowerTable, out: Path, target: float) -> None:
    frame = found.to_frame()
    io.write_table(frame, out / "power.parquet", out / "power.tsv")
    unit = "Pairs" if found.paired else "Subjects per condition"
    levels = [None] if found.within is None else list(frame[found.within].unique())
    for number, level in enumerate(levels, start=1):
        drawn = plots.study_size_plot(
            frame, within=found.within, level=level, target=target, unit=unit
        )
        plots.save_figure(
            drawn, out / "figures" / ("power" if level is None else f"power-{number}")
        )


def tests_of(
    groups: GroupStatistics,
    formula: str,
    contrasts: Any,
    within: str | None,
    ddf: str | None = None,
    reference: dict[str, str] | None = None,
) -> TestTable:
    """Tests of a model of groups, as `de` makes them; subjects replicate what varies in them."""
    from flashmm.de import with_subject_terms
    from flashmm.design.from_groups import summary_statistics
    from flashmm.lmm import fit_lmm
    from flashmm.within import fit_within, without_rare_genes

    fixed, random, notes = with_subject_terms(groups, formula, None)
    if within is None:
        stats = summary_statistics(groups, fixed, random, None, reference)
        fit = without_rare_genes(fit_lmm(stats), groups, fixed, random)
        table = inference.contrast_tests(fit, contrasts, ddf)
    else:
        fits = fit_within(groups, within, fixed, random, reference=reference)
        table = inference.contrast_tests(fits, contrasts, ddf)
    return replace(table, notes=(*groups.notes, *notes, *table.notes))


def _checked(
    cells: Path,
    transform: str,
    asked: dict[str, str | None],
    reference: str | None,
    **reading: Any,
) -> DataCheck:
    """What the cells are, if nothing stands in the way of an analysis."""
    found = of_cells.check(cells, **asked, reference=reference, **reading)
    for problem in found.problems_for(transform):
        raise InputError(problem)
    # without within=, the design is looked at by a column that the models will not be of
    told = asked["within"] is not None or found.roles["within"] is None
    if told and (found.design["can_be_asked"] == CANNOT).all():
        subject, condition = found.roles["subject"], found.roles["condition"]
        raise DesignError(
            f"No comparison of {condition!r} can be asked: there are too few {subject}s, so that "
            f"they and what is compared are one thing. `flashmm check` shows how many stand where."
        )
    return found


def _roles(
    found: DataCheck, asked: dict[str, str | None], layer: str | None
) -> dict[str, str | None]:
    """The columns that were named, or found; `within` has to be named."""
    for role in ("condition", "subject"):
        if asked[role] is None:
            step(f"--{role} {found.roles[role]}, taken by its name")
    within = asked["within"]
    if within is None and found.roles["within"] is not None:
        step(f"One model of all cells; --within {found.roles['within']} has one for each.")
    if layer is None and found.layer is not None:
        held = found.matrices[next(iter(found.matrices))]
        raise InputError(
            f"X holds {held}; the counts are in another matrix: layer={found.layer!r}."
        )
    roles = {"subject": found.roles["subject"], "within": within}
    return {**roles, "condition": found.roles["condition"]}


def _reference(condition: str | None, level: str | None) -> dict[str, str] | None:
    return None if condition is None or level is None else {condition: level}


def _pair(given: str) -> tuple[str, str]:
    column, sign, level = given.partition("=")
    if not sign:
        raise InputError(f"--reference is column=level, such as condition=ctrl; found {given!r}.")
    return column, level


def _finish(table: TestTable, out: Path, fdr: float, as_json: bool) -> None:
    """Write the tables and say what was found."""
    frame = table.to_frame(intervals=True, details=True)
    io.write_table(frame, out / "tests.parquet", out / "tests.tsv")
    notes = [in_flags(text) for text in dict.fromkeys(table.notes)]
    with atomic_path(out / "notes.txt") as unfinished:
        unfinished.write_text("".join(f"{line}\n" for line in notes))
    found = found_genes(frame, table.within, fdr)
    if as_json:
        show_json({"found": found, "notes": notes, "folder": str(out)})
        return
    # "stim vs ctrl" says what "condition[T.stim]" means
    if "comparison" in found and found["comparison"].fillna("").ne("").all():
        found = found.drop(columns="contrast")
    show_table(found, f"Genes found at a false discovery rate of {fdr:.0%}")
    say([f"{out}: tests.tsv, tests.parquet, notes.txt"])


def found_genes(frame: pd.DataFrame, within: str | None, fdr: float) -> pd.DataFrame:
    """Genes found, up and down, by level and contrast, with the first of them."""
    import pandas as pd

    keys = [*([] if within is None else [within]), "contrast"]
    rows = []
    for labels, part in frame.groupby(keys, sort=False, observed=True):
        hits = part[part["adj_p_value"] <= fdr].sort_values("p_value")
        rows.append(
            {
                **dict(zip(keys, labels, strict=True)),
                **({"comparison": part["comparison"].iloc[0]} if "comparison" in part else {}),
                "tested": int(part["p_value"].notna().sum()),
                "up": int((hits["estimate"] > 0).sum()),
                "down": int((hits["estimate"] < 0).sum()),
                "first": ", ".join(hits["gene"].head(3)),
            }
        )
    return pd.DataFrame(rows)
