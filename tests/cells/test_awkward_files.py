"""Files as people have them: each is read to the right value, or says what it is and what to do."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from cell_containers import (
    N_CELLS,
    study,
    write_10x,
    write_mtx,
    write_old_10x,
    write_old_h5ad,
    write_zarr,
)
from scipy import sparse

import flashmm as fm

CELLS = study()
BY = ["subject", "condition"]
EXPECTED = fm.summarise(CELLS, BY, progress=False)

Made = tuple[Any, dict[str, Any]]


def logarithms(scale: float = 1e4, log: Callable[..., Any] = np.log1p) -> ad.AnnData:
    counts = CELLS.X.toarray()
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    return with_values(log(scale * counts / totals))


def with_values(values: np.ndarray) -> ad.AnnData:
    return ad.AnnData(sparse.csr_matrix(values), obs=CELLS.obs, var=CELLS.var)


def with_obs(**columns: Any) -> ad.AnnData:
    return ad.AnnData(CELLS.X, obs=CELLS.obs.assign(**columns), var=CELLS.var)


# ---- read to the right value


def old_h5ad(folder: Path) -> Made:
    write_old_h5ad(CELLS, folder / "old.h5ad")
    return folder / "old.h5ad", {}


def codes_with_labels_in_uns(folder: Path) -> Made:
    data = with_obs(subject=CELLS.obs["subject"].cat.codes.to_numpy())
    data.uns["subject_categories"] = np.array(["P0", "P1", "P2", "P3"])
    data.write_h5ad(folder / "codes.h5ad")
    return folder / "codes.h5ad", {}


def codes_with_labels_in_memory(folder: Path) -> Made:
    return ad.read_h5ad(codes_with_labels_in_uns(folder)[0]), {}


def categories_beside_the_table(folder: Path) -> Made:
    """As SeuratDisk writes them: codes, and labels in obs/__categories."""
    CELLS.write_h5ad(folder / "seurat.h5ad")
    with h5py.File(folder / "seurat.h5ad", "r+") as file:
        codes = file["obs/subject/codes"][:]
        del file["obs/subject"]
        file["obs/subject"] = codes
        file["obs/__categories/subject"] = np.array(["P0", "P1", "P2", "P3"], "S")
    return folder / "seurat.h5ad", {}


def text_nan_is_dropped(folder: Path) -> Made:
    more = ad.concat([CELLS, CELLS[:6]], index_unique="-")
    subject = [*CELLS.obs["subject"].astype(str), *["nan", "NaN", "<NA>"] * 2]
    more.obs["subject"] = pd.Categorical(subject)
    more.obs["condition"] = more.obs["condition"].astype("category")
    return more, {"missing": "drop"}


def a_layer_called_raw_x(folder: Path) -> Made:
    data = logarithms()
    data.raw = CELLS
    data.write_h5ad(folder / "raw.h5ad")
    return folder / "raw.h5ad", {"layer": "raw/X"}


def a_sheet_of_r(folder: Path) -> Made:
    """write.table gives the names of the rows no heading."""
    write_10x(CELLS, folder / "cells.h5")
    lines = CELLS.obs.to_csv(sep="\t").splitlines()
    lines[0] = "\t".join(CELLS.obs.columns)
    (folder / "obs.txt").write_text("\n".join(lines))
    return folder / "cells.h5", {"obs": folder / "obs.txt"}


def a_sheet_of_other_cells_too(folder: Path) -> Made:
    write_10x(CELLS, folder / "cells.h5")
    others = CELLS.obs.set_axis([f"TTTT{i}-1" for i in range(N_CELLS)])
    return folder / "cells.h5", {"obs": pd.concat([others, CELLS.obs])}


def a_sheet_of_some_cells(folder: Path) -> Made:
    more = ad.concat([CELLS, CELLS[:6]], index_unique="-")
    more.var["gene_ids"] = CELLS.var["gene_ids"]
    write_10x(more, folder / "raw.h5")
    sheet = CELLS.obs.set_axis(CELLS.obs_names + "-0")
    return folder / "raw.h5", {"obs": sheet, "missing": "drop"}


def antibodies_beside_genes(folder: Path) -> Made:
    more = ad.AnnData(sparse.csr_matrix(np.hstack([CELLS.X.toarray(), np.full((N_CELLS, 2), 99)])))
    more.obs_names = CELLS.obs_names
    more.var["gene_ids"] = [*CELLS.var["gene_ids"], "CD3", "CD4"]
    write_10x(more, folder / "multi.h5", [*CELLS.var_names, "CD3", "CD4"])
    with h5py.File(folder / "multi.h5", "r+") as file:
        kinds = file["matrix/features/feature_type"][:].astype("S20")
        kinds[-2:] = b"Antibody Capture"
        del file["matrix/features/feature_type"]
        file["matrix/features/feature_type"] = kinds
    return folder / "multi.h5", {"obs": CELLS.obs}


def a_genome_of_two(folder: Path) -> Made:
    write_old_10x(CELLS, folder / "two.h5", ("hg19", "mm10"))
    return folder / "two.h5", {"obs": CELLS.obs, "layer": "hg19"}


def the_path_of_a_matrix(folder: Path) -> Made:
    write_mtx(CELLS, folder, prefix="GSM1_")
    write_mtx(CELLS, folder, prefix="GSM2_")
    return folder / "GSM1_matrix.mtx.gz", {"obs": CELLS.obs}


def a_matrix_by_genes(folder: Path) -> Made:
    """Entries in the order of genes, as tools write that keep cells x genes."""
    write_mtx(CELLS, folder, packed=False)
    head, entries = split_entries((folder / "matrix.mtx").read_text().splitlines())
    entries.sort(key=lambda line: [int(x) for x in line.split()[:2]])
    (folder / "matrix.mtx").write_text("\n".join([*head, *entries]) + "\n")
    return folder, {"obs": CELLS.obs}


def split_entries(lines: list[str]) -> tuple[list[str], list[str]]:
    start = next(i for i, line in enumerate(lines) if not line.startswith("%")) + 1
    return lines[:start], lines[start:]


RIGHT = [
    old_h5ad,
    codes_with_labels_in_uns,
    codes_with_labels_in_memory,
    categories_beside_the_table,
    text_nan_is_dropped,
    a_layer_called_raw_x,
    a_sheet_of_r,
    a_sheet_of_other_cells_too,
    a_sheet_of_some_cells,
    antibodies_beside_genes,
    a_genome_of_two,
    the_path_of_a_matrix,
    a_matrix_by_genes,
]


@pytest.mark.parametrize("make", RIGHT, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning", "ignore:Observation names")
@pytest.mark.filterwarnings("ignore:Element .* was written without encoding metadata")
def test_the_right_value(make: Callable[[Path], Made], tmp_path: Path) -> None:
    data, how = make(tmp_path)
    found = fm.summarise(data, BY, progress=False, **how)
    np.testing.assert_array_equal(found.counts, EXPECTED.counts)
    np.testing.assert_array_equal(found.sum, EXPECTED.sum)
    assert list(found.obs["subject"].astype(str)) == list(EXPECTED.obs["subject"].astype(str))
    assert list(found.genes) == list(EXPECTED.genes)


# ---- refused, with what was found and what to do


def table_of_text(folder: Path) -> Made:
    (folder / "counts.csv").write_text("gene,s1,s2\nA,1,2\n")
    return folder / "counts.csv", {}


def file_of_r(folder: Path) -> Made:
    (folder / "cells.rds").write_bytes(gzip.compress(b"RDX3"))
    return folder / "cells.rds", {}


def mudata(folder: Path) -> Made:
    with h5py.File(folder / "cells.h5mu", "w") as file:
        file.create_group("mod/rna")
    return folder / "cells.h5mu", {}


def loom(folder: Path) -> Made:
    with h5py.File(folder / "cells.loom", "w") as file:
        file["matrix"] = np.zeros((2, 2))
        file.create_group("col_attrs")
    return folder / "cells.loom", {}


def h5seurat(folder: Path) -> Made:
    with h5py.File(folder / "cells.h5seurat", "w") as file:
        file.create_group("assays/RNA")
    return folder / "cells.h5seurat", {}


def empty_folder(folder: Path) -> Made:
    return folder, {}


def folder_of_samples(folder: Path) -> Made:
    write_mtx(CELLS, folder / "lane1")
    write_mtx(CELLS, folder / "lane2")
    return folder, {}


def two_matrices(folder: Path) -> Made:
    write_mtx(CELLS, folder, prefix="GSM1_")
    write_mtx(CELLS, folder, prefix="GSM2_")
    return folder, {}


def mtx_without_barcodes(folder: Path) -> Made:
    write_mtx(CELLS, folder)
    (folder / "barcodes.tsv.gz").unlink()
    return folder, {}


def mtx_of_another_size(folder: Path) -> Made:
    write_mtx(CELLS, folder)
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress(b"a\nb\n"))
    return folder, {}


def mtx_cut_short(folder: Path) -> Made:
    write_mtx(CELLS, folder, packed=False)
    lines = (folder / "matrix.mtx").read_text().splitlines()
    (folder / "matrix.mtx").write_text("\n".join(lines[:-9]) + "\n")
    return folder, {"obs": CELLS.obs}


def mtx_out_of_order(folder: Path) -> Made:
    write_mtx(CELLS, folder, packed=False)
    head, entries = split_entries((folder / "matrix.mtx").read_text().splitlines())
    np.random.default_rng(0).shuffle(entries)
    (folder / "matrix.mtx").write_text("\n".join([*head, *entries]) + "\n")
    return folder, {"obs": CELLS.obs}


def mtx_that_is_an_array(folder: Path) -> Made:
    write_mtx(CELLS, folder, packed=False)
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix array real general\n1 1\n1\n")
    return folder, {}


def two_genomes(folder: Path) -> Made:
    write_old_10x(CELLS, folder / "two.h5", ("hg19", "mm10"))
    return folder / "two.h5", {"obs": CELLS.obs}


def no_sheet(folder: Path) -> Made:
    write_10x(CELLS, folder / "cells.h5")
    return folder / "cells.h5", {}


def barcodes_without_the_ending(folder: Path) -> Made:
    write_10x(CELLS, folder / "cells.h5")
    sheet = CELLS.obs.set_axis(CELLS.obs_names.str.removesuffix("-1"))
    return folder / "cells.h5", {"obs": sheet}


def barcodes_with_a_prefix(folder: Path) -> Made:
    write_10x(CELLS, folder / "cells.h5")
    return folder / "cells.h5", {"obs": CELLS.obs.set_axis("lane1_" + CELLS.obs_names)}


def a_cell_twice_in_the_sheet(folder: Path) -> Made:
    write_10x(CELLS, folder / "cells.h5")
    return folder / "cells.h5", {"obs": pd.concat([CELLS.obs, CELLS.obs[:3]])}


def cells_that_the_sheet_lacks(folder: Path) -> Made:
    write_10x(CELLS, folder / "cells.h5")
    return folder / "cells.h5", {"obs": CELLS.obs[5:]}


def log_normalised(folder: Path) -> Made:
    return logarithms(), {}


def log2_of_millions(folder: Path) -> Made:
    return logarithms(1e6, lambda x: np.log2(1 + x)), {}


def normalised(folder: Path) -> Made:
    return logarithms(1e4, lambda x: x), {}


def logarithms_of_corrected_counts(folder: Path) -> Made:
    """No multiples of a smallest value, but one total."""
    rng = np.random.default_rng(0)
    counts = CELLS.X.toarray() * rng.uniform(0.7, 1, CELLS.shape)
    return with_values(np.log1p(1e4 * counts / counts.sum(1, keepdims=True))), {}


def scaled(folder: Path) -> Made:
    values = np.log1p(CELLS.X.toarray())
    return with_values(values - values.mean(0)), {}


def size_of_logarithms(folder: Path) -> Made:
    return logarithms(), {"transform": "none", "covariates": "log(libsize)"}


def empty_cells(folder: Path) -> Made:
    values = CELLS.X.toarray() * (np.arange(N_CELLS) > 2)[:, None]
    return with_values(values), {"covariates": "log(libsize)"}


def labels_that_were_lost(folder: Path) -> Made:
    subject = CELLS.obs["subject"].astype(object).where(np.arange(N_CELLS) > 4).astype(str)
    return with_obs(subject=subject), {}


def genes_of_one_name(folder: Path) -> Made:
    data = CELLS.copy()
    data.var_names = ["A", "A", *data.var_names[2:]]
    return data, {}


def no_such_column_of_genes(folder: Path) -> Made:
    return CELLS, {"gene_names": "gene_id"}


def an_unknown_rule(folder: Path) -> Made:
    return CELLS, {"duplicate_genes": "first"}


def zarr_that_is_no_anndata(folder: Path) -> Made:
    import zarr

    zarr.open_group(str(folder / "some.zarr"), mode="w").create_group("images")
    return folder / "some.zarr", {}


def zarr_with_a_damaged_chunk(folder: Path) -> Made:
    write_zarr(CELLS, folder / "cells.zarr", 2)
    (folder / "cells.zarr/X/data/0").write_bytes(b"nothing")
    return folder / "cells.zarr", {}


def zarr_of_huge_chunks(folder: Path) -> Made:
    import zarr

    write_zarr(CELLS, folder / "cells.zarr", 2)
    root = zarr.open_group(str(folder / "cells.zarr"), mode="r+", use_consolidated=False)
    del root["X"]
    made = root.create_array("X", shape=CELLS.shape, chunks=(2**14, 2**14), dtype="f4")
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    zarr.consolidate_metadata(str(folder / "cells.zarr"))
    return folder / "cells.zarr", {}


REFUSED = {
    zarr_of_huge_chunks: r"'/X' has chunks of 1074 MB.*Write it with smaller chunks",
    table_of_text: r"it is a table; of samples \(bulk\), read it with flashmm.read_bulk",
    file_of_r: r"it is a file of R; write an \.h5ad there",
    mudata: r"MuData file; give one of its modalities",
    loom: r"loom file; convert it",
    h5seurat: r"h5Seurat file; convert it",
    empty_folder: r"is no file but a folder, and has neither a matrix\.mtx",
    folder_of_samples: r"the folders 'lane1', 'lane2' in it have: give one of them, or a list",
    two_matrices: r"has 2 matrices; give the path of one",
    mtx_without_barcodes: r"there is no barcodes\.tsv or",
    mtx_of_another_size: r"matrix of 9 x 40, and beside it are the names of 9 genes and 2 cells",
    mtx_cut_short: r"is cut short or damaged: it has \d+ entries",
    mtx_out_of_order: r"in the order of neither cells nor genes.*tocsc",
    mtx_that_is_an_array: r"is no matrix of coordinates",
    two_genomes: r"counts of 2 genomes: choose one by layer=, 'hg19', 'mm10'",
    no_sheet: r"no column 'subject', 'condition' in obs; .*Give the columns of the cells with obs=",
    barcodes_without_the_ending: r"no row of the 40 cells .*differ by the ending '-1'",
    barcodes_with_a_prefix: r"no row of the 40 cells .*before or after the barcode",
    a_cell_twice_in_the_sheet: r"several rows of 3 cells",
    cells_that_the_sheet_lacks: r"5 of 40 cells have missing values .*5 cells have no row in obs",
    log_normalised: r"logarithms of normalised counts.*transform='none'",
    log2_of_millions: r"logarithms of normalised counts.*transform='none'",
    normalised: r"look like normalised counts",
    logarithms_of_corrected_counts: r"logarithms of normalised counts.*add up to one total",
    scaled: r"is negative.*look like scaled or centred values",
    size_of_logarithms: r"Library sizes cannot be counted from these.*leave log\(libsize\) out",
    empty_cells: r"3 of 40 cells have no counts at all",
    labels_that_were_lost: r"5 of 40 cells have missing values .*'subject' \(5\) \(the text 'nan'",
    genes_of_one_name: r"1 names are given .*genes: 'A'.*duplicate_genes='sum'.*'gene_ids'",
    no_such_column_of_genes: r"no column 'gene_id' of genes; did you mean 'gene_ids'",
    an_unknown_rule: r"duplicate_genes='first' is not known; use one of 'error', 'sum', 'unique'",
    zarr_that_is_no_anndata: r"has no tables 'obs' and 'var', but 'images'",
    zarr_with_a_damaged_chunk: r"cells\.zarr' cannot be read; it is damaged",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_what_is_refused_says_what_to_do(make: Callable[[Path], Made], tmp_path: Path) -> None:
    data, how = make(tmp_path)
    with pytest.raises(fm.InputError, match=REFUSED[make]):
        fm.summarise(data, BY, progress=False, **how)


# ---- taken, with a note


def soup(values: np.ndarray) -> np.ndarray:
    """A little is taken off every count, as SoupX does."""
    return values * np.random.default_rng(0).uniform(0.8, 1, values.shape)


def shared_reads(values: np.ndarray) -> np.ndarray:
    """Some reads are shared by genes, as alevin does."""
    random = np.random.default_rng(0)
    return values + np.where((random.random(values.shape) < 0.2) & (values > 0), 1 / 3, 0)


NOTES: dict[str, tuple[Callable[[Path], Made], str]] = {
    "soup": (lambda _: (with_values(soup(CELLS.X.toarray())), {}), "counts that are fractional"),
    "shared reads": (
        lambda _: (with_values(shared_reads(CELLS.X.toarray())), {}),
        "counts that are fractional",
    ),
    "codes": (codes_with_labels_in_uns, "numbers of labels, which stand in uns"),
    "other cells": (a_sheet_of_other_cells_too, "has 40 rows of cells that .* does not have"),
    "antibodies": (antibodies_beside_genes, "of 11 features the 9 of the kind 'Gene Expression'"),
}


@pytest.mark.parametrize("kind", NOTES)
def test_what_is_decided_is_said(kind: str, tmp_path: Path) -> None:
    make, note = NOTES[kind]
    data, how = make(tmp_path)
    with pytest.warns(fm.FlashmmWarning, match=note):
        found = fm.summarise(data, BY, progress=False, **how)
    assert len(found.notes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fm.check(data, obs=how.get("obs")).has_counts


def test_antibodies_by_their_name(tmp_path: Path) -> None:
    data, how = antibodies_beside_genes(tmp_path)
    with pytest.warns(fm.FlashmmWarning, match="of 11 features the 2 of the kind 'Antibody"):
        found = fm.summarise(data, BY, layer="Antibody Capture", progress=False, **how)
    assert list(found.genes) == ["CD3", "CD4"]
    np.testing.assert_array_equal(found.counts.sum(0), [99 * N_CELLS] * 2)
