# %% [markdown]
# # Many cell types, several sites
#
# An atlas: twenty people, cells of six types, prepared at two sites in files of their own. Each file is read once, in
# bounded memory; the sums of groups are added; and every cell type gets a model of its own. The counts are simulated.

# %%
import flashmm as fm

spec = fm.SimulationSpec(
    n_genes=200,
    n_cells=6000,
    n_subjects=20,
    n_cell_types=6,
    n_de_genes=60,
    min_log_fc=0.6,
    max_log_fc=1.3,
    subject_variance=0.08,
    marker_fraction=0.5,
    cells_cv=0.8,
)
sim = fm.simulate_counts(spec, seed=7)
adata = sim.adata
del adata.obs["libsize"]
number = adata.obs["subject"].str[1:].astype(int)
adata.obs["site"] = number.map(lambda i: "north" if i <= 5 else "south")
for site in ("north", "south"):
    adata[adata.obs["site"] == site].copy().write_h5ad(f"{site}.h5ad")
adata.obs.groupby(["site", "condition"], observed=True)["subject"].nunique().unstack()

# %% [markdown]
# ## Summarise each file, merge
#
# What leaves a site are sums over groups of cells, a row for each person, type and condition, and never a cell.

# %%
by = ["subject", "cell_type", "condition", "site"]
parts = [fm.summarise(f"{site}.h5ad", by, ["log(libsize)"]) for site in ("north", "south")]
groups = fm.merge(parts)
groups

# %% [markdown]
# ## A model for each cell type
#
# The site is a fixed effect: people of one site were prepared in the same way. Types whose cells are too few for a gene say so
# in the status of that gene.

# %%
fits = fm.fit_within(groups, "cell_type", "~ log(libsize) + site + condition", ["subject"])
table = fm.contrast_tests(fits, ("condition", "B", "A"))
table

# %%
frame = table.to_frame()
frame.groupby(["cell_type", "status"]).size().unstack(fill_value=0)

# %% [markdown]
# ## Genes across types
#
# `wide` has a row per gene. Genes found in one type are shown with their fold change in all of them.

# %%
changes = table.wide("log2_fc")
changes.loc[table.found()[:8]].round(2)

# %%
table.plot.forest(table.top(1)["gene"].item())

# %% [markdown]
# ## Is the change of one type larger than that of another?
#
# "Significant here and not there" is no answer. A joint model with a variance between people for each type compares the two
# changes directly.

# %%
stats = fm.summary_statistics(
    groups,
    "~ 0 + log(libsize) + cell_type + site + cell_type:condition",
    ["subject", "0 + cell_type || subject"],
    size_factors="tmm",
)
joint = fm.fit_lmm(stats)
difference = "cell_type[type1]:condition[T.B] - cell_type[type2]:condition[T.B]"
between = fm.contrast_tests(joint, {"type1 - type2": difference}, ddf="kenward-roger-2")
between.top(5)[["gene", "estimate", "std_error", "p_value", "adj_p_value"]]

# %% [markdown]
# ## Sets of genes
#
# A set is tested with the correlation between its genes taken into account (camera). Here one set is made of the genes that
# the simulation has changed upwards in any type, another of genes at random.

# %%
truth = sim.truth
up = truth.query("log_fc > 0")["gene"].tolist()
sets = {"changed upwards": up, "every tenth gene": list(adata.var_names[::10])}
fm.gene_set_tests(table, sets).query("cell_type in ['type1', 'type2']")

# %% [markdown]
# Files that are larger than the memory, shards and clusters: [scaling](../scaling.md). Sites that may not share cells, nor groups
# of few: [cohorts](../how-to/cohorts.md).
