"""The package's own files: statistics of groups and fits as `.h5ad`, tables as Parquet and text.

Files are written whole or not at all, carry what made them, and are read with errors that name
them. Formats of other programs' counts are not read here but in `flashmm.cells`.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.io.cells import write_cells
    from flashmm.io.fits import join_fits, read_fit, write_fit
    from flashmm.io.gene_sets import read_gmt
    from flashmm.io.groups import merge_files, read_groups, read_size_factors, write_groups
    from flashmm.io.kinship import read_kinship_file
    from flashmm.io.tables import read_provenance, read_table, write_table

__all__ = [
    "join_fits",
    "merge_files",
    "read_fit",
    "read_gmt",
    "read_groups",
    "read_kinship_file",
    "read_provenance",
    "read_size_factors",
    "read_table",
    "write_cells",
    "write_fit",
    "write_groups",
    "write_table",
]

on_demand(__name__)
