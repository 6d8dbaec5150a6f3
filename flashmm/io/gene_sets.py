"""Files of gene sets."""

from __future__ import annotations

from flashmm.options import InputError, checked
from flashmm.storage.files import PathLike, reading


@checked
def read_gmt(path: PathLike) -> dict[str, tuple[str, ...]]:
    """Read gene sets from a GMT file, as the Molecular Signatures Database has them.

    Parameters
    ----------
    path : path
        A line per set, separated by tabs: its name, a description, its genes.

    Returns
    -------
    dict of str to tuple of str
        Name of each set to its genes, each once, for `flashmm.gene_set_tests`.

    Raises
    ------
    InputError
        There is no such file, a line has no genes, or a name comes twice; the line is named.
    """
    sets: dict[str, tuple[str, ...]] = {}
    with reading(path), open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip("\r\n").split("\t")
            if fields == [""]:
                continue
            name, genes = fields[0], tuple(dict.fromkeys(gene for gene in fields[2:] if gene))
            if not name or not genes:
                raise InputError(
                    f"'{path}', line {number}: a set is a name, a description and genes, separated "
                    f"by tabs; found {len(fields)} field(s)."
                )
            if name in sets:
                raise InputError(f"'{path}', line {number}: there are two sets named '{name}'.")
            sets[name] = genes
    if not sets:
        raise InputError(f"'{path}' holds no gene sets.")
    return sets
