"""Streaming of counts: every layout gives the same entries; what cannot be read is said clearly."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from flashmm.cells.block import Block
from flashmm.cells.counts import CellMatrix, open_counts, read_genes
from flashmm.cells.transforms import TRANSFORMS, find_transform, is_counts
from flashmm.names import text, texts
from flashmm.options import InputError

N_CELLS, N_GENES = 23, 7


def counts_table(n_cells: int = N_CELLS, n_genes: int = N_GENES, seed: int = 0) -> np.ndarray:
    """Counts with empty cells at the start, inside and at the end, and an empty gene."""
    counts = np.random.default_rng(seed).poisson(0.8, (n_cells, n_genes)).astype(float)
    counts[[0, 5, 6, -1]] = 0
    counts[:, 3] = 0
    return counts


def as_adata(values: object, **layers: object) -> ad.AnnData:
    n_cells, n_genes = values.shape  # type: ignore[attr-defined]
    obs = pd.DataFrame(
        {"subject": pd.Categorical(["b", "a"] * n_cells)[:n_cells], "age": np.arange(n_cells)},
        index=[f"c{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"g{j}" for j in range(n_genes)])
    return ad.AnnData(values, obs=obs, var=var, layers=layers)


LAYOUTS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dense": np.asarray,
    "float32": lambda counts: sparse.csr_matrix(counts.astype(np.float32)),
    "integer": lambda counts: sparse.csc_matrix(counts.astype(np.int64)),
    "unsigned": lambda counts: np.asarray(counts, dtype=np.uint16),
}


@pytest.fixture(params=["memory", "file", "gzip", "layer", "view", "backed"])
def place(request: pytest.FixtureRequest) -> str:
    return request.param


def placed(place: str, values: object, folder: Path) -> tuple[ad.AnnData | Path, str | None]:
    """The matrix where `place` says, and the layer to ask for."""
    path = folder / "cells.h5ad"
    if place == "layer":
        as_adata(np.zeros(values.shape), counts=values).write_h5ad(path)  # type: ignore[attr-defined]
        return path, "counts"
    adata = as_adata(values)
    if place == "view":
        return adata[:, :], None
    if place in ("file", "gzip", "backed"):
        adata.write_h5ad(path, compression="gzip" if place == "gzip" else None)
        return (ad.read_h5ad(path, backed="r"), None) if place == "backed" else (path, None)
    return adata, None


def entries(source: CellMatrix, chunk_nnz: int) -> tuple[np.ndarray, list[Block]]:
    blocks = list(source.blocks(chunk_nnz))
    total = np.zeros(source.matrix.shape)
    for block in blocks:
        np.add.at(total, (block.cells, block.genes), block.values)
    return total, blocks


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_hold_every_value_once(layout: str, place: str, tmp_path: Path) -> None:
    counts = counts_table()
    data, layer = placed(place, LAYOUTS[layout](counts), tmp_path)
    with open_counts(data, layer) as source:
        for chunk_nnz in (1, 5, 17, 10**6):
            total, blocks = entries(source, chunk_nnz)
            np.testing.assert_array_equal(total, counts)
            assert list(source.genes) == [f"g{j}" for j in range(N_GENES)]
            assert source.cell_name(3) == "c3"
            assert sum(block.n_read for block in blocks) == source.matrix.size
            if source.matrix.by_cells:
                covered = np.concatenate([np.arange(b.rows.start, b.rows.stop) for b in blocks])
                np.testing.assert_array_equal(covered, np.arange(N_CELLS))
                np.testing.assert_array_equal(
                    np.concatenate([b.totals() for b in blocks]), counts.sum(1)
                )
            np.testing.assert_array_equal(source.totals(chunk_nnz), counts.sum(1))
    if isinstance(data, ad.AnnData) and data.isbacked:
        data.file.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cells_of_a_gene_come_in_ascending_order(layout: str) -> None:
    counts = counts_table(50)
    with open_counts(as_adata(LAYOUTS[layout](counts))) as source:
        blocks = list(source.blocks(11))
    cells = np.concatenate([block.cells for block in blocks])
    genes = np.concatenate([block.genes for block in blocks])
    for gene in range(N_GENES):
        assert (np.diff(cells[genes == gene]) > 0).all()


@pytest.mark.parametrize("chunk_nnz", [8, 40, 100])
def test_the_size_of_blocks_is_bounded(chunk_nnz: int) -> None:
    counts = counts_table(300)
    longest_cell = int(np.count_nonzero(counts, axis=1).max())
    bounds = {"csr": max(chunk_nnz, longest_cell), "csc": chunk_nnz, "dense": chunk_nnz}
    for layout, bound in bounds.items():
        with open_counts(as_adata(LAYOUTS[layout](counts))) as source:
            sizes = [block.n_read for block in source.blocks(chunk_nnz)]
        assert max(sizes) <= bound
        assert len(sizes) < 2 + 2 * (source.matrix.size / chunk_nnz) + N_GENES


def test_blocks_of_a_dense_file_are_whole_chunks(tmp_path: Path) -> None:
    as_adata(counts_table(40)).write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        values = file["X"][:]
        del file["X"]
        file.create_dataset("X", data=values, chunks=(4, N_GENES))
    with open_counts(tmp_path / "cells.h5ad") as source:
        heights = [b.rows.stop - b.rows.start for b in source.blocks(11 * N_GENES)]
    assert heights == [8, 8, 8, 8, 8]


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_memory_does_not_grow_with_the_number_of_cells(layout: str, tmp_path: Path) -> None:
    def peak(n_cells: int) -> int:
        path = tmp_path / f"{n_cells}.h5ad"
        as_adata(LAYOUTS[layout](counts_table(n_cells, 200))).write_h5ad(path)
        with open_counts(path) as source:
            tracemalloc.start()
            for _ in source.blocks(40_000):
                pass
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    peak(500)  # what is imported at the first use is not counted
    few, many = peak(2_000), peak(32_000)
    assert few < 150 * 40_000
    assert many < 1.5 * few  # 16 times the cells


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_a_matrix_without_any_value(layout: str) -> None:
    with open_counts(as_adata(LAYOUTS[layout](np.zeros((4, 3))))) as source:
        (block,) = source.blocks()
    assert (len(block.values), block.rows) == (0, slice(0, 4))
    np.testing.assert_array_equal(block.totals(), np.zeros(4))


def scrambled(matrix: sparse.csr_array | sparse.csc_array) -> sparse.csr_array | sparse.csc_array:
    """The same matrix with entries out of order, and one of them split in two."""
    out = matrix.copy()
    for a, b in zip(out.indptr[:-1], out.indptr[1:], strict=True):
        out.indices[a:b] = out.indices[a:b][::-1]
        out.data[a:b] = out.data[a:b][::-1]
    out.indices = np.append(out.indices, out.indices[-1])
    out.data = np.append(out.data, 1.0)
    out.data[-2] -= 1.0
    out.indptr[out.indptr == out.indptr[-1]] += 1
    return type(matrix)((out.data, out.indices, out.indptr), shape=matrix.shape)


@pytest.mark.parametrize("layout", ["csr_array", "csc_array"])
def test_unsorted_and_repeated_entries_are_put_in_order(layout: str) -> None:
    counts = counts_table(200)
    matrix = scrambled(LAYOUTS[layout](counts))
    assert not matrix.has_canonical_format
    before = matrix.indices.copy()
    with open_counts(as_adata(matrix)) as source:
        for chunk_nnz in (150, 10**6):
            total, blocks = entries(source, chunk_nnz)
            np.testing.assert_array_equal(total, counts)
            assert sum(len(block.values) for block in blocks) == np.count_nonzero(counts)
    np.testing.assert_array_equal(matrix.indices, before)


def test_a_long_unsorted_gene_is_refused_instead_of_cut() -> None:
    with (
        open_counts(as_adata(scrambled(sparse.csc_array(counts_table(200))))) as source,
        pytest.raises(InputError, match=r"not in ascending order.*larger chunk_nnz"),
    ):
        list(source.blocks(10))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("log2p1", lambda y, size: np.log2(1 + y)),
        ("log1p", lambda y, size: np.log(1 + y)),
        ("log1p_cp10k", lambda y, size: np.log(1 + y / size * 10_000)),
        ("none", lambda y, size: y),
    ],
)
def test_transforms(name: str, formula: object) -> None:
    y, size = np.array([0.0, 1.0, 2.0, 1000.0]), np.array([10.0, 20.0, 1e4, 5e3])
    np.testing.assert_allclose(
        TRANSFORMS[name].apply(y, size),
        formula(y, size),  # type: ignore[operator]
        rtol=1e-14,
    )
    assert TRANSFORMS[name].apply(y, size)[0] == 0
    with pytest.raises(InputError, match=r"'log2p1', 'log1p', 'log1p_cp10k', 'none'"):
        find_transform("log")


def test_what_counts_are() -> None:
    assert is_counts(np.array([0.0, 3.0]))
    assert not is_counts(np.array([0.5]))
    assert not is_counts(np.array([-1.0]))


# ---- values that cannot be used


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize(
    ("value", "fault"), [(np.nan, "not a number"), (np.inf, "infinite"), (-np.inf, "infinite")]
)
def test_values_must_be_finite(layout: str, value: float, fault: str) -> None:
    counts = counts_table()
    counts[4, 2] = value
    with (
        open_counts(as_adata(LAYOUTS[layout](counts))) as source,
        pytest.raises(InputError, match=f"cell 'c4' and gene 'g2' is {fault}"),
    ):
        list(source.blocks())


@pytest.mark.parametrize(("value", "fault"), [(-2.0, "negative"), (0.5, "not an integer")])
def test_counts_where_counts_are_needed(value: float, fault: str, tmp_path: Path) -> None:
    counts = counts_table()
    counts[4, 2] = value
    as_adata(counts).write_h5ad(tmp_path / "cells.h5ad")
    with open_counts(tmp_path / "cells.h5ad") as source:
        (block,) = source.blocks()
        with pytest.raises(
            InputError, match=rf"cells\.h5ad', X: .*'c4'.*'g2' is {fault} \({value}"
        ):
            source.require_counts(block, "log1p")


# ---- files that cannot be used


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    as_adata(
        sparse.csr_matrix(counts_table()), counts=sparse.csc_matrix(counts_table())
    ).write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    return tmp_path / "cells.h5ad"


def read_all(path: Path, layer: str | None = None) -> None:
    with open_counts(path, layer) as source:
        source.check_names()
        source.table()
        list(source.blocks())


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file '.*nowhere\.h5ad'"):
        read_all(tmp_path / "nowhere.h5ad")


def test_a_folder_and_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_text("gene,cell\n")
    with pytest.raises(
        InputError, match=r"cells\.h5ad' cannot be read; it is damaged, cut short or"
    ):
        read_all(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="is no file but a folder"):
        read_all(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file(stored: Path, share: float) -> None:
    content = stored.read_bytes()
    stored.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cells\.h5ad' cannot be read"):
        read_all(stored)


def test_a_damaged_chunk(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    as_adata(sparse.csr_matrix(counts_table(500))).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cells\.h5ad' cannot be read"):
        read_all(path)


def test_hdf5_that_is_no_anndata(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["matrix/data"] = np.arange(3)
    with pytest.raises(InputError, match=r"no \.h5ad file"):
        read_all(tmp_path / "other.h5")


def test_a_missing_layer_lists_those_there_are(stored: Path) -> None:
    with pytest.raises(InputError, match=r"no layer 'raw'; it has 'counts'"):
        read_all(stored, "raw")
    with pytest.raises(InputError, match=r"the AnnData has no layer 'raw'; it has none"):
        read_all(as_adata(counts_table()), "raw")  # type: ignore[arg-type]


def test_missing_columns_list_those_there_are(stored: Path) -> None:
    for data in (stored, ad.read_h5ad(stored)):
        with (
            open_counts(data) as source,
            pytest.raises(InputError, match=r"no column 'donor' in obs; it has 'subject', 'age'"),
        ):
            source.columns(["subject", "donor"])


def test_columns_come_with_their_types(stored: Path) -> None:
    with open_counts(stored) as source:
        columns = source.columns(["age", "subject"])
    assert list(columns.columns) == ["age", "subject"]
    assert list(columns["subject"].cat.categories) == ["a", "b"]
    np.testing.assert_array_equal(columns["age"], np.arange(N_CELLS))


def test_a_file_without_values(tmp_path: Path) -> None:
    adata = ad.AnnData(obs=as_adata(counts_table()).obs, var=pd.DataFrame(index=["g"]))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for data in (adata, tmp_path / "cells.h5ad"):
        with pytest.raises(InputError, match="X is empty"):
            read_all(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "what"), [((0, 3), "cells"), ((3, 0), "genes")])
def test_no_cells_and_no_genes(shape: tuple[int, int], what: str, tmp_path: Path) -> None:
    adata = as_adata(sparse.csr_matrix(np.zeros(shape)))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for data in (adata, tmp_path / "cells.h5ad"):
        with pytest.raises(InputError, match=f"has no {what}"):
            read_all(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", ["obs", "var"])
@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_names_given_twice(axis: str, tmp_path: Path) -> None:
    adata = as_adata(sparse.csr_matrix(counts_table()))
    names = getattr(adata, axis).index.to_numpy().copy()
    names[1] = names[0]
    setattr(adata, f"{axis}_names", names)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    what = {"obs": "cells", "var": "genes"}[axis]
    for data in (adata, tmp_path / "cells.h5ad"):
        with pytest.raises(
            InputError, match=f"1 names are given to more than one of the {what}: '"
        ):
            read_all(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "position", "value", "message"),
    [
        ("X/indptr", 2, 10**6, "index arrays do not fit"),
        ("X/indptr", -1, 10**6, "index arrays do not fit"),
        ("X/indptr", 0, 1, "index arrays do not fit"),
        ("X/indices", 3, N_GENES, "positions outside its shape"),
        ("X/indices", 3, -1, "positions outside its shape"),
    ],
)
def test_damaged_index_arrays(
    stored: Path, where: str, position: int, value: int, message: str
) -> None:
    with h5py.File(stored, "r+") as file:
        file[where][np.arange(len(file[where]))[position]] = value
    with pytest.raises(InputError, match=rf"cells\.h5ad', X is damaged: .*{message}"):
        read_all(stored)


def test_tables_that_do_not_fit_the_matrix(stored: Path) -> None:
    with h5py.File(stored, "r+") as file:
        file["X"].attrs["shape"] = [N_CELLS, N_GENES + 1]
    with pytest.raises(InputError, match=r"has 8 genes, their table 7 rows"):
        read_all(stored)


def test_matrices_of_other_kinds(tmp_path: Path) -> None:
    adata = as_adata(counts_table() + 1j)
    with pytest.raises(InputError, match="complex128, not numbers"):
        read_all(adata)  # type: ignore[arg-type]
    as_adata(counts_table()).write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        del file["X"]
        file.create_group("X").attrs["encoding-type"] = "awkward-array"
    with pytest.raises(InputError, match="stored as 'awkward-array'"):
        read_all(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="data is a DataFrame"):
        read_all(pd.DataFrame())  # type: ignore[arg-type]


def test_a_view_of_a_backed_anndata_is_refused(stored: Path) -> None:
    backed = ad.read_h5ad(stored, backed="r")
    with pytest.raises(InputError, match=r"to_memory"):
        read_all(backed[:5])
    backed.file.close()


def test_block_size_must_be_positive(stored: Path) -> None:
    with open_counts(stored) as source, pytest.raises(InputError, match="chunk_nnz=0"):
        list(source.blocks(0))


@pytest.mark.filterwarnings("ignore:Element .* was written without encoding metadata")
def test_tables_of_older_files_keep_their_categories(stored: Path) -> None:
    with h5py.File(stored, "r+") as file:  # as anndata 0.7 wrote them
        obs = file["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        codes, levels = obs["subject/codes"][:], obs["subject/categories"].asstr()[:]
        del obs["subject"]
        obs["subject"] = codes
        obs["__categories/subject"] = levels.astype(h5py.string_dtype())
        obs["__categories/subject"].attrs["ordered"] = False
        obs["subject"].attrs["categories"] = obs["__categories/subject"].ref
    with open_counts(stored) as source:
        subject = source.columns(["subject"])["subject"]
    assert list(subject[:4]) == ["b", "a", "b", "a"]


# ---- a few genes


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_read_genes(layout: str, tmp_path: Path) -> None:
    counts = counts_table() + np.eye(N_CELLS, N_GENES)[:, [0] * N_GENES]
    counts[:, 6] += 1
    as_adata(LAYOUTS[layout](counts)).write_h5ad(tmp_path / "cells.h5ad")
    obs, values = read_genes(tmp_path / "cells.h5ad", ["g5", "g0"], transform="log1p_cp10k")
    expected = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, [5, 0]]
    np.testing.assert_allclose(values, expected, rtol=1e-14)
    assert list(obs.columns) == ["subject", "age", "libsize"]
    assert list(obs.index[:2]) == ["c0", "c1"]
    np.testing.assert_array_equal(obs["libsize"], counts.sum(1))

    with pytest.raises(InputError, match="no gene 'g9'"):
        read_genes(tmp_path / "cells.h5ad", ["g0", "g9"])
    with pytest.raises(InputError, match="'age' is not a positive number in 1 of 23"):
        read_genes(tmp_path / "cells.h5ad", ["g0"], transform="log1p_cp10k", libsize="age")
    _, raw = read_genes(tmp_path / "cells.h5ad", ["g0"], transform="none")
    np.testing.assert_array_equal(raw[:, 0], counts[:, 0])


@pytest.mark.parametrize("names", [[b"a", "b", 3], [b"a", "\u00e9".encode()], ["a", "b"], []])
def test_names_of_files_as_text(names: list[object]) -> None:
    assert texts(names) == [text(name) for name in names]
