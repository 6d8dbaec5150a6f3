# %% [markdown]
# # Visits over time, in two arms of a trial
#
# Twelve patients, six on the drug and six on placebo, seen at weeks 0, 4 and 8. The question is not whether arms differ, nor
# whether time passes, but whether the *course* differs: the interaction. The counts are simulated; the drug acts at week 8.

# %%
import numpy as np
import pandas as pd

import flashmm as fm

rng = np.random.default_rng(1)
patients = pd.DataFrame(
    {"subject": [f"P{i:02d}" for i in range(1, 13)], "arm": ["placebo", "drug"] * 6}
)
visits = patients.merge(pd.DataFrame({"week": [0, 4, 8]}), how="cross")
cells = visits.loc[visits.index.repeat(60)].reset_index(drop=True)
cells["cell_type"] = "monocyte"
acts = (cells["arm"] == "drug") & (cells["week"] == 8)
cells["condition"] = np.where(acts, "on", "off")  # where the simulated effects act
spec = fm.SimulationSpec(
    metadata=cells,
    n_genes=200,
    n_de_genes=25,
    min_log_fc=0.5,
    max_log_fc=1.2,
    subject_variance=0.1,
    treated="on",
)
sim = fm.simulate_counts(spec, seed=2)
adata = sim.adata
adata.obs["arm"] = pd.Categorical(adata.obs["arm"], ["placebo", "drug"])
adata.obs["visit"] = adata.obs["week"].astype(str).astype("category")
adata.obs.groupby(["arm", "week"], observed=True)["subject"].nunique().unstack()

# %% [markdown]
# ## Time as a line
#
# Cells are reduced to groups once; every model below is fitted from these groups. A patient's visits share the effect of the
# patient, and each visit has one of its own (cells of one sample were prepared together).

# %%
groups = fm.summarise(adata, by=["subject", "arm", "week", "visit"], covariates=["log(libsize)"])
random = ["subject", "subject:visit"]
line = fm.fit_lmm(fm.summary_statistics(groups, "~ log(libsize) + arm * week", random))
slopes = fm.contrast_tests(line, "arm[T.drug]:week")
slopes

# %% [markdown]
# `arm[T.drug]:week` is how much more the gene changes per week on the drug than on placebo.

# %%
slopes.top(5)[["gene", "estimate", "std_error", "df", "p_value", "adj_p_value"]]

# %% [markdown]
# ## Time as visits
#
# Nothing says that a response is a line. With a level for each visit, two differences of differences are asked at once by an F
# test, or one by one. (One variance is taken for all visits; were those of the visits to differ, a note would say so, and
# `0 + visit || subject` gives each its own.)

# %%
steps = fm.fit_lmm(fm.summary_statistics(groups, "~ log(libsize) + arm * visit", random))
asked = {
    "week 4": "arm[T.drug]:visit[T.4]",
    "week 8": "arm[T.drug]:visit[T.8]",
    "any": ["arm[T.drug]:visit[T.4]", "arm[T.drug]:visit[T.8]"],
}
courses = fm.contrast_tests(steps, asked)
frame = courses.to_frame()
frame[frame["adj_p_value"] < 0.05].groupby("contrast").size().reindex(asked, fill_value=0)

# %% [markdown]
# At week 4 nothing has happened yet, and the tests say so. What is found at week 8, compared with the truth:

# %%
hits = set(frame.query("contrast == 'week 8' and adj_p_value < 0.05")["gene"])
true = set(sim.truth["gene"])
print(f"{len(hits & true)} of {len(true)} changed genes found, {len(hits - true)} others")

# %%
courses.plot.volcano("week 8")

# %% [markdown]
# ## Do patients have courses of their own?
#
# `week || subject` gives each patient an own level and an own slope. The test says for how many genes slopes vary: here the
# simulation has none.

# %%
own = fm.fit_lmm(fm.summary_statistics(groups, "~ log(libsize) + arm * week", ["week || subject"]))
fm.variance_tests(own).to_frame().head()

# %% [markdown]
# [Courses over time](../how-to/time-course.md) says which of these models to take when.
