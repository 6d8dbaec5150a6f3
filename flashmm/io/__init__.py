"""Groups, fits and tables as files."""

from flashmm.io.files import (
    join_fits,
    merge_files,
    read_fit,
    read_groups,
    read_kinship_file,
    read_provenance,
    read_table,
    write_fit,
    write_groups,
    write_table,
)

__all__ = [
    "join_fits",
    "merge_files",
    "read_fit",
    "read_groups",
    "read_kinship_file",
    "read_provenance",
    "read_table",
    "write_fit",
    "write_groups",
    "write_table",
]
