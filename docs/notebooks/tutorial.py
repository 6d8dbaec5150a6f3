# %% [markdown]
# # Tutorial: from a file to genes
#
# Sixteen people, half of them treated; a few thousand cells of three types. Which genes differ between the *people* of the two
# groups, and in which cell type? This page goes from the file to a list of genes and says how to read it. The data are
# simulated by the package, so that everything here runs on your machine as it stands, and so that we know the truth.

# %%
import flashmm as fm

spec = fm.SimulationSpec(
    n_genes=200,
    n_cells=4000,
    n_subjects=16,
    n_cell_types=3,
    n_de_genes=40,
    min_log_fc=0.5,
    max_log_fc=1.2,
    subject_variance=0.08,
    marker_fraction=0.3,
    cells_cv=0.5,
)
sim = fm.simulate_counts(spec, seed=3)
adata = sim.adata
del adata.obs["libsize"]  # a file of counts has none: it is their sum
adata.write_h5ad("cells.h5ad")
adata.obs.head()

# %% [markdown]
# Your own file has the same shape: an `.h5ad` with raw counts (in `X`, a layer, or `.raw`), and columns of `obs` that name
# the subject, the cell type and what is compared.
#
# ## 1. What can this file be asked?
#
# `check` reads the table of cells and a first block of counts, and says how many subjects stand on each side in each cell type.

# %%
found = fm.check("cells.h5ad", reference="A")
found.design

# %%
for sentence in found.findings:
    print(sentence)

# %% [markdown]
# The number to look at is `df`, the degrees of freedom to expect. They count **subjects**: 16 people in two groups leave 14,
# however many cells each of them has. (The default test lets genes learn from each other and has more in the table.)
# A test that counted cells would take thousands of them for evidence.
#
# ## 2. Test
#
# One model per cell type: the counts on the scale log₂(1 + count), the library size, the condition, and an effect of each
# subject. Everything else has a default that suits this question ([which test when](../methods.md)).

# %%
table = fm.de(
    "cells.h5ad",
    "~ log(libsize) + condition + (1 | subject)",
    ("condition", "B", "A"),
    within="cell_type",
)
table

# %% [markdown]
# Three numbers belong to each gene and cell type: `log2_fc` is how much the mean count changes, with its interval, `p_value`
# is the evidence, and `adj_p_value` what remains of it when all genes of the cell type are looked at.

# %%
table.top(8, details=True)[
    ["cell_type", "gene", "log2_fc", "log2_fc_low", "log2_fc_high", "p_value", "adj_p_value"]
]

# %%
table.plot.volcano(level="type1")

# %% [markdown]
# ## 3. Understand one gene
#
# `explain` says in words what a row of the table says in numbers, and whether one subject carries the result.

# %%
gene = table.top(1)["gene"].item()
print(table.explain(gene))

# %% [markdown]
# Every dot below is a person. If a finding is real, it is seen here: the two groups differ, and no single dot does it alone.

# %%
table.plot.expression(gene)

# %% [markdown]
# ## 4. How far to trust the list
#
# The p-values of genes that do not change should be spread evenly; those of the others pile up near zero.

# %%
table.plot.qq()

# %% [markdown]
# Here the truth is known. Of the genes that were called at a false discovery rate of 5 %, how many are wrong, and how many of
# the true ones were found?

# %%
metrics = fm.evaluate(table.to_frame(), sim.truth).metrics
metrics.query("contrast == 'all' and metric in ['fdp', 'tpr']")

# %% [markdown]
# ## 5. Keep it
#
# The table as text, the results in the AnnData, and the groups, from which any other model is fitted without reading a cell
# again.

# %%
table.write("tests.tsv")
groups = table.tested["type1"].stats.groups
groups

# %% [markdown]
# In a shell the same analysis is
#
# ```sh
# flashmm check cells.h5ad
# flashmm de cells.h5ad --condition condition --subject subject --within cell_type -o out/
# flashmm report out/
# ```
#
# and ends in one page, `out/report.html`. How many people would the next study need? [How many subjects](../how-to/how-many-subjects.md).
