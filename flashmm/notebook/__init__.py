"""What a notebook does with a table of tests: figures, words, and AnnData.

`TestTable` has these as attributes (`table.plot.volcano()`, `table.explain(gene)`), attached by
name (`flashmm.shown.attached`), as figures and files come after the tests that they show.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.notebook.export import to_anndata, write
    from flashmm.notebook.figures import TablePlots
    from flashmm.notebook.scores import scores, write_ranks
    from flashmm.notebook.words import explain

__all__ = ["TablePlots", "explain", "scores", "to_anndata", "write", "write_ranks"]

on_demand(__name__)
