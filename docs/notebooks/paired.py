# %% [markdown]
# # Before and after: paired samples
#
# Eight donors, whose cells were measured untreated and treated. Each donor is its own control: what makes donors different
# from each other cancels, and only what makes donors *respond* differently is left as noise. The counts are simulated.

# %%
import flashmm as fm

spec = fm.SimulationSpec(
    n_genes=200,
    n_cells=4000,
    n_subjects=8,
    n_cell_types=2,
    nested=False,
    n_de_genes=30,
    min_log_fc=0.3,
    max_log_fc=0.9,
    subject_variance=0.3,
    subject_condition_variance=0.02,
    marker_fraction=0.2,
)
sim = fm.simulate_counts(spec, seed=5)
adata = sim.adata
del adata.obs["libsize"]
fm.check(adata).design

# %% [markdown]
# All donors are pairs. The formula is that of two groups; that the condition varies within donors is seen from the data, and
# the model gets a second random effect, of each donor in each condition. The note says so.

# %%
formula = "~ log(libsize) + condition + (1 | subject)"
table = fm.de(adata, formula, ("condition", "B", "A"), within="cell_type")
for sentence in table.notes:
    print(sentence)

# %%
table

# %% [markdown]
# Why the second effect? Without it, cells of a donor would count as independent repetitions of the *difference* between the
# conditions, and the difference of every gene in which donors respond differently would look significant.
#
# ## What pairing is worth
#
# The same donors, analysed as if treated and untreated samples came from different people:

# %%
adata.obs["sample"] = adata.obs["subject"].astype(str) + adata.obs["condition"].astype(str)
unpaired = fm.de(
    adata, "~ log(libsize) + condition + (1 | sample)", ("condition", "B", "A"), within="cell_type"
)
print(len(table.found()), "genes found with pairs,", len(unpaired.found()), "without")

# %% [markdown]
# ## One gene
#
# Lines join the two samples of a donor. Donors start at different heights and go the same way, which is what a paired model sees.

# %%
gene = table.top(1)["gene"].item()
table.plot.expression(gene)

# %%
table.plot.forest(gene)

# %% [markdown]
# ## How much do donors differ?
#
# Shares of the variance of each gene, on average over genes: between donors, between a donor's responses, and between cells.

# %%
shares = fm.variance_explained(table.tested["type1"]).to_frame()
shares.groupby("term", sort=False)["fraction"].mean().round(3)

# %% [markdown]
# In a shell: `flashmm de cells.h5ad --condition condition --subject subject --within cell_type -o out/`, the same command as for two
# groups of people. [Paired samples](../how-to/paired.md) has the questions that come up.
