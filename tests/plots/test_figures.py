"""Figures: what they show, that they are labelled, harmless to global state, and reproducible."""

from __future__ import annotations

import inspect
import subprocess
import sys

import group_designs
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import sparse, stats

import flashmm as fm
from flashmm import plots
from flashmm.benchmark import control_table, evaluate, pair_fits
from flashmm.kinship.fit import fit_kinship_lmm
from flashmm.kinship.rotation import rotate_by_kinship
from flashmm.kinship.simulation import simulate_kinship_traits
from flashmm.options import InputError
from flashmm.plots import style
from flashmm.plots.agreement import _short_number
from flashmm.plots.style import MARKERS, MAX_VECTOR_POINTS, PALETTE
from flashmm.plots.volcano import _spread

TYPES = ("B cells", "T cells")
CONTRASTS = tuple(f"cell_type[{name}]:condition[T.stim]" for name in TYPES)
METHODS = ("kenward-roger", "residual")


def truth_and_genes(n=80):
    genes = [f"Gene{i}" for i in range(n)]
    pairs = [(g, t) for t in TYPES for g in genes[: n // 8]]
    return pd.DataFrame(pairs, columns=["gene", "cell_type"]).assign(log_fc=1.0), genes


def simulated_tests(inflation: float, seed=0) -> pd.DataFrame:
    truth, genes = truth_and_genes()
    table = control_table(truth, genes, CONTRASTS, "random", seed)
    shift = np.where(table.gene.isin(set(truth.gene)), 3.0, 0.0)
    z = inflation * table.statistic + shift * np.where(np.arange(len(table)) % 2, 1, -1)
    p = 2 * stats.norm.sf(np.abs(z))
    adjusted = table.assign(p=p).groupby("contrast").p.transform(stats.false_discovery_control)
    return table.assign(
        estimate=0.1 * z, statistic=z, p_value=p, log10_p=np.log10(p), adj_p_value=adjusted
    )


@pytest.fixture(scope="module")
def evaluations():
    truth, _ = truth_and_genes()
    return {name: evaluate(simulated_tests(1 + 0.4 * i), truth) for i, name in enumerate(METHODS)}


def metrics_of(evaluations) -> pd.DataFrame:
    return pd.concat([ev.metrics.assign(method=name) for name, ev in evaluations.items()])


def curves_of(evaluations, name) -> dict[str, pd.DataFrame]:
    return {method: ev.curves[name] for method, ev in evaluations.items()}


def agreement_pairs(noise=0.01, genes=12) -> pd.DataFrame:
    def frames(scale):
        rng = np.random.default_rng(3)
        names = [f"g{i}" for i in range(genes)]
        error = scale * np.random.default_rng(4).normal(size=genes)
        tests = pd.DataFrame(
            {
                "gene": names,
                "contrast": "x",
                "estimate": rng.normal(size=genes) + error,
                "std_error": rng.gamma(5, 0.02, genes),
            }
        )
        fits = pd.DataFrame({"gene": names, "loglik": -rng.gamma(5, 500, genes) + np.abs(error)})
        return [tests, fits.assign(**{"theta:subject": 0.1, "theta:residual": rng.gamma(5, 0.1)})]

    return pair_fits(frames(noise), frames(0))


def cost_records() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": ["flashmm"] * 2 + ["MixedLM"] * 3,
            "seconds": [0.05, 0.06, 0.2, 0.3, 0.4],
            "genes": [500, 500, 1, 1, 1],
            "peak_memory_mib": [200.0, 210.0, 300.0, 310.0, 305.0],
        }
    )


def cells(n=400) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(1)
    subject = rng.integers(0, 6, n)
    obs = pd.DataFrame(
        {
            "subject": [f"S{i}" for i in subject],
            "condition": np.array(["ctrl", "stim"])[subject % 2],
            "cell_type": pd.Categorical(rng.choice(TYPES, n)),
            "libsize": rng.lognormal(8, 0.4, n),
        }
    )
    counts = sparse.csr_matrix(rng.negative_binomial(2, 0.4, (n, 30)))
    return obs, plots.gene_moments(counts)


def heritabilities(n_traits=4) -> tuple[pd.DataFrame, pd.DataFrame]:
    sim = simulate_kinship_traits(100, n_traits, n_markers=200, seed=1)
    fit = fit_kinship_lmm(rotate_by_kinship(sim.K, sim.Y, sim.X))
    return fit.profile_frame(), fit.to_frame()


def empirical_bayes(paired=False):
    """A fit with one random term or two, and its tests with a prior."""
    obs = group_designs.crossed(6, paired=paired)
    groups = group_designs.groups_of(obs, genes=220, sd=(0.3, 0.15), seed=3)
    random = ("subject", "subject:condition") if paired else ("subject",)
    fit = group_designs.fit_groups(groups, "~ condition", random)
    return fit, fm.contrast_tests(fit, "condition", "empirical-bayes")


def planned_studies() -> pd.DataFrame:
    """Power of studies of 4 to 12 subjects and two numbers of cells."""
    rows = [(1.0, cells, n) for cells in (50, 200) for n in (4, 8, 12)]
    table = pd.DataFrame(rows, columns=["log2_fc", "cells", "subjects"])
    power = table["subjects"] / 14 * (table["cells"] / 200) ** 0.2
    return table.assign(power=power, power_low=power - 0.05, power_high=power + 0.05)


def draw_all(evaluations) -> dict[str, Figure]:
    metrics = metrics_of(evaluations)
    fit, tests = empirical_bayes()
    return {
        "qq_plot": plots.qq_plot(curves_of(evaluations, "qq")),
        "p_histogram": plots.p_histogram(curves_of(evaluations, "p_histogram")),
        "fpr_plot": plots.fpr_plot(metrics),
        "roc_plot": plots.roc_plot(curves_of(evaluations, "roc")),
        "fdr_tpr_plot": plots.fdr_tpr_plot(metrics, curves_of(evaluations, "fdp_tpr")),
        "agreement_plot": plots.agreement_plot(agreement_pairs()),
        "time_memory_plot": plots.time_memory_plot(cost_records()),
        "heritability_plot": plots.heritability_plot(*heritabilities()),
        "dense_agreement_plot": plots.dense_agreement_plot(both_optimisers()),
        "heritability_strips": plots.heritability_strips(strips(), "true_h2", "true_h2"),
        "trait_correlation_plot": plots.trait_correlation_plot(trait_pairs()),
        "prior_plot": plots.prior_plot(tests),
        "posterior_plot": plots.posterior_plot(fm.posterior_of(fit, tests, "g1")),
        "study_size_plot": plots.study_size_plot(planned_studies()),
        "volcano_plot": plots.volcano_plot(simulated_tests(1.0), CONTRASTS[0]),
        "simulation_plot": plots.simulation_plot(*cells()),
    }


@pytest.fixture(scope="module")
def figures(evaluations):
    """Every figure, not laid out: what is in it is asked, and its bytes, not where it stands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style.STYLE, "figure.constrained_layout.use", False)
        return draw_all(evaluations)


def texts_of(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


# --- every figure ------------------------------------------------------------------------------


def test_every_figure_has_a_caption_of_what_good_looks_like(figures):
    drawing = {
        name
        for name, f in inspect.getmembers(plots, inspect.isfunction)
        if inspect.signature(f).return_annotation == "Figure"
        # the page of a calibration study has its own captions
        and f.__module__ != "flashmm.plots.calibration"
    }
    assert set(plots.CAPTIONS) == set(figures) == drawing
    for caption in plots.CAPTIONS.values():
        assert caption.startswith("Good: ") and caption.endswith(".")


def test_axes_are_labelled(figures):
    for name, figure in figures.items():
        assert isinstance(figure, Figure)
        shared = bool(figure.get_supxlabel()) and bool(figure.get_supylabel())
        heatmap = name == "simulation_plot"
        axes = figure.axes[1:] if heatmap else figure.axes
        for ax in axes:
            bar = ax.get_label() == "<colorbar>"
            assert shared or (ax.get_ylabel() if bar else ax.get_xlabel()), name
        assert shared or axes[0].get_ylabel() or name == "time_memory_plot", name


def test_units_are_said(figures):
    said = {name: texts_of(figure) for name, figure in figures.items()}
    assert "log₂(1 + count)" in said["volcano_plot"]
    assert "log₂(1 + count)" in said["agreement_plot"]
    assert "(ms)" in said["time_memory_plot"] and "(MiB)" in said["time_memory_plot"]
    assert "counts per cell" in said["simulation_plot"]
    assert "−log₁₀" in said["qq_plot"]


def test_saved_bytes_are_the_same_every_time(figures, evaluations, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "PNG_DPI", 40)
    monkeypatch.setitem(style.STYLE, "figure.constrained_layout.use", False)
    stored = []
    for folder, drawn in (("one", figures), ("two", draw_all(evaluations))):
        contents = {}
        for name, figure in drawn.items():
            svg, png = plots.save_figure(figure, tmp_path / folder / name)
            contents[name] = (svg.read_bytes(), png.read_bytes())
        stored.append(contents)
    assert stored[0] == stored[1]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        f"{name}{ending}" for name in plots.CAPTIONS for ending in (".svg", ".png")
    )
    for svg, png in stored[0].values():
        assert svg.startswith(b"<?xml") and b"<dc:date>" not in svg and b"http://mat" not in svg
        assert png.startswith(b"\x89PNG") and b"Software" not in png


def test_a_failed_save_leaves_nothing(figures, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(figures["qq_plot"], "draw", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(figures["qq_plot"], tmp_path / "figures" / "qq")
    assert not list((tmp_path / "figures").iterdir())


def test_settings_of_the_caller_do_not_matter_and_are_not_touched(evaluations, tmp_path):
    plain = plots.save_figure(plots.qq_plot(curves_of(evaluations, "qq")), tmp_path / "plain")
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": None}):
        before = dict(mpl.rcParams)
        odd = plots.save_figure(plots.qq_plot(curves_of(evaluations, "qq")), tmp_path / "odd")
        assert dict(mpl.rcParams) == before
    assert [p.read_bytes() for p in plain] == [p.read_bytes() for p in odd]


def test_pyplot_is_never_imported():
    code = "import sys, flashmm.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_colours_are_distinct_and_follow_the_order_of_methods():
    colours = plots.method_colours(["b", "a", "b", "c"])
    assert list(colours) == ["b", "a", "c"]
    assert list(colours.values()) == list(PALETTE[:3])
    assert len(set(PALETTE)) == len(PALETTE) == len(set(MARKERS))


# --- each figure -------------------------------------------------------------------------------


def test_qq_shows_every_method_and_the_band(evaluations):
    figure = plots.qq_plot(curves_of(evaluations, "qq"))
    ax = figure.axes[0]
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["95 % band", *METHODS] or labels == [*METHODS, "95 % band"]
    points = next(line for line in ax.lines if line.get_label() == METHODS[0])
    curve = evaluations[METHODS[0]].curves["qq"].query("contrast == 'all'")
    np.testing.assert_allclose(points.get_ydata(), curve.observed)


def test_qq_keeps_the_scale_when_a_method_is_far_off():
    truth, genes = truth_and_genes()
    table = control_table(truth, genes, CONTRASTS, "random", 1).drop(columns="log10_p")
    table.loc[5, "p_value"] = 1e-200
    table["adj_p_value"] = table.p_value
    qq = evaluate(table, truth.iloc[:0]).curves["qq"]
    ax = plots.qq_plot({"m": qq}).axes[0]
    assert ax.get_ylim()[1] < 20
    arrows = [line for line in ax.lines if line.get_marker() == "^"]
    assert len(arrows) == 1 and len(arrows[0].get_xdata()) == 1


def test_histogram_has_a_panel_per_method(evaluations):
    figure = plots.p_histogram(curves_of(evaluations, "p_histogram"))
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(METHODS)
    heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
    expected = evaluations[METHODS[0]].curves["p_histogram"].query("contrast == 'all'").density
    np.testing.assert_allclose(heights, expected)


def test_rate_of_zero_is_shown(evaluations):
    metrics = metrics_of(evaluations)
    zero = (metrics.metric == "fpr") & (metrics.method == METHODS[0]) & (metrics.level == 0.001)
    metrics.loc[zero, ["value", "std_error"]] = 0.0
    figure = plots.fpr_plot(metrics)
    ax = figure.axes[0]
    assert ax.get_yscale() == "log"
    rates = metrics[(metrics.metric == "fpr") & (metrics.contrast == "all")].value
    assert [text.get_text() for text in ax.texts] == ["0"] * (rates == 0).sum()
    nominal = sorted(line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--")
    assert nominal == [0.001, 0.01, 0.05]


def test_roc_says_the_auc_and_zooms(evaluations):
    auc = {name: ev.value("auc") for name, ev in evaluations.items()}
    figure = plots.roc_plot(curves_of(evaluations, "roc"), auc=auc, zoom=0.2)
    assert f"AUC {auc[METHODS[0]]:.3f}" in texts_of(figure)
    assert figure.axes[1].get_xlim() == (0, 0.2)


@pytest.mark.parametrize("adjustment", ["local", "global"])
def test_fdp_marks_are_filled_where_the_rate_is_controlled(evaluations, adjustment):
    metrics = metrics_of(evaluations)
    suffix = "" if adjustment == "local" else "_global"
    fdp = metrics.metric == f"fdp{suffix}"
    metrics.loc[fdp, "std_error"] = 0.0
    metrics.loc[fdp, "value"] = np.where(metrics[fdp].method == METHODS[0], 0.01, 0.5)
    ax = plots.fdr_tpr_plot(metrics, adjustment=adjustment).axes[0]
    marks = [c for c in ax.collections if isinstance(c, PathCollection)]
    fills = [{to_hex(colour) for colour in mark.get_facecolors()} for mark in marks]
    assert fills == [{PALETTE[0].lower()}, {"#ffffff"}]


def test_agreement_says_the_largest_difference():
    pairs = agreement_pairs()
    said = texts_of(plots.agreement_plot(pairs, labels=("ours", "theirs")))
    largest = pairs[pairs.quantity == "estimate"].scaled.max()
    assert _short_number(largest) in said
    assert "ours: 12 genes" in said and "theirs: 0 genes" in said
    assert "0 of the total variance" in said


def test_agreement_leaves_out_pairs_with_a_missing_number():
    pairs = agreement_pairs()
    pairs.loc[pairs.quantity == "loglik", "ours"] = np.nan
    pairs.loc[pairs.index[0], "reference"] = np.nan
    said = texts_of(plots.agreement_plot(pairs))
    assert "nothing to compare" in said and "11 pairs" in said


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (4.3e-7, "4.3·10⁻⁷"), (4.21, "4.2"), (0.05, "0.05"), (2500.0, "2.5·10³")],
)
def test_short_numbers(value, text):
    assert _short_number(value) == text


def test_cost_is_per_gene():
    figure = plots.time_memory_plot(cost_records())
    said = texts_of(figure)
    assert "300" in said  # median of MixedLM, ms per gene
    assert "0.11" in said  # median of flashmm, ms per gene
    assert all(ax.get_xscale() == "log" for ax in figure.axes)


def test_volcano_names_the_top_genes():
    table = simulated_tests(1.0)
    figure = plots.volcano_plot(table, CONTRASTS[0], top=4, fdr=0.1)
    part = table[(table.contrast == CONTRASTS[0]) & (table.adj_p_value <= 0.1)]
    named = {text.get_text() for text in figure.axes[0].texts}
    assert named == set(part.nsmallest(4, "p_value").gene)
    assert f"{(part.estimate > 0).sum()} up" in texts_of(figure)


def test_volcano_takes_the_logarithm_where_p_underflows():
    table = simulated_tests(1.0)[lambda t: t.contrast == CONTRASTS[0]].reset_index(drop=True)
    table.loc[0, ["p_value", "log10_p", "adj_p_value"]] = 0.0, -380.0, 0.0
    assert plots.volcano_plot(table).axes[0].get_ylim()[1] > 380


def test_volcano_needs_one_contrast_with_a_direction():
    table = simulated_tests(1.0)
    with pytest.raises(InputError, match="choose one"):
        plots.volcano_plot(table)
    with pytest.raises(InputError, match="nope"):
        plots.volcano_plot(table, "nope")
    with pytest.raises(InputError, match="joint"):
        plots.volcano_plot(table.assign(estimate=np.nan), CONTRASTS[0])


def test_volcano_without_a_discovery_or_a_p_value():
    table = simulated_tests(1.0)[lambda t: t.contrast == CONTRASTS[0]].assign(adj_p_value=1.0)
    assert not plots.volcano_plot(table).axes[0].texts
    empty = plots.volcano_plot(table.assign(p_value=np.nan, log10_p=np.nan))
    assert "0 up" in texts_of(empty)


def test_spread_names_do_not_touch_and_keep_their_order():
    heights = np.array([5.0, 4.99, 4.98, 1.0, 0.05])
    placed = _spread(heights, gap=0.5, bottom=0.2)
    assert (np.diff(placed) <= -0.5 + 1e-12).all()
    assert placed[0] == 5.0 and placed[-1] == 0.2


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_gene_moments(layout):
    counts = np.random.default_rng(2).poisson(3.0, (50, 7))
    moments = plots.gene_moments(layout(counts))
    np.testing.assert_allclose(moments["mean"], counts.mean(0))
    np.testing.assert_allclose(moments["variance"], counts.var(0, ddof=1))


def test_simulation_shows_cells_per_subject_and_type():
    obs, moments = cells()
    figure = plots.simulation_plot(obs, moments, reference=moments * 1.1)
    heat = figure.axes[0]
    counts = pd.crosstab([obs.condition, obs.subject], obs.cell_type).to_numpy()
    shown = [int(text.get_text().replace(",", "")) for text in heat.texts]
    assert shown == counts.ravel().tolist()
    assert heat.get_yticklabels()[0].get_text() == "S0 · ctrl"
    assert figure.axes[2].get_legend_handles_labels()[1] == ["genes", "reference", "Poisson"]


def test_simulation_without_types_and_conditions():
    obs, moments = cells()
    figure = plots.simulation_plot(obs[["subject", "libsize"]], moments)
    assert figure.axes[0].get_xticklabels()[0].get_text() == "all cells"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.fpr_plot(pd.DataFrame({"metric": []})), "metrics: columns"),
        (lambda: plots.qq_plot({}), "no method"),
        (lambda: plots.time_memory_plot(pd.DataFrame({"method": []})), "records"),
        (lambda: plots.volcano_plot(pd.DataFrame({"gene": []})), "table: columns"),
        (lambda: plots.simulation_plot(pd.DataFrame({"subject": []}), pd.DataFrame()), "libsize"),
    ],
)
def test_missing_columns_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_many_points_become_pixels_and_stay_reproducible(tmp_path):
    rng = np.random.default_rng(6)
    n = MAX_VECTOR_POINTS + 1
    moments = pd.DataFrame({"mean": rng.gamma(1, 1, n), "variance": rng.gamma(2, 1, n)})
    obs, _ = cells()
    saved = [
        plots.save_figure(plots.simulation_plot(obs, moments), tmp_path / name)[0].read_bytes()
        for name in ("one", "two")
    ]
    assert saved[0] == saved[1]
    assert saved[0].count(b"<image") > 1  # the heat map, and the points of the genes


# --- heritability ------------------------------------------------------------------------------


def test_heritability_shows_maximum_and_interval():
    profiles, estimates = heritabilities()
    figure = plots.heritability_plot(profiles, estimates)
    drawn = [ax for ax in figure.axes if ax.axison]
    assert len(drawn) == 4
    for ax, row in zip(drawn, estimates.itertuples(), strict=True):
        assert ax.get_title(loc="left").startswith(f"{row.trait}: {row.h2:.2f} [")
        mark = ax.lines[-1]
        assert mark.get_xdata()[0] == row.h2
        curve = ax.lines[-2]
        assert curve.get_ydata().max() == pytest.approx(0, abs=1e-9)
        inside = curve.get_ydata() >= -stats.chi2.ppf(0.95, 1) / 2
        h2 = curve.get_xdata()
        assert h2[inside].min() == pytest.approx(row.h2_lower, abs=0.01)
        assert h2[inside].max() == pytest.approx(row.h2_upper, abs=0.01)


def test_heritability_needs_traits_that_were_fitted():
    profiles, estimates = heritabilities(1)
    assert len([ax for ax in plots.heritability_plot(profiles, estimates).axes if ax.axison]) == 1
    with pytest.raises(InputError, match="no trait is there"):
        plots.heritability_plot(profiles.iloc[:0], estimates)
    with pytest.raises(InputError, match="columns 'loglik' are missing"):
        plots.heritability_plot(profiles.drop(columns="loglik"), estimates)


def strips() -> pd.DataFrame:
    """Estimates around two known heritabilities, one of them missing."""
    rng = np.random.default_rng(4)
    truth = np.repeat([0.0, 0.7], 30)
    h2 = np.clip(truth + rng.normal(0, 0.1, 60), 0, 1)
    h2[0] = np.nan
    return pd.DataFrame({"true_h2": truth, "h2": h2})


def test_strips_show_every_estimate_its_median_and_the_truth():
    table = strips()
    (ax,) = plots.heritability_strips(table, "true_h2", "true_h2").axes
    dots = [collection.get_offsets() for collection in ax.collections]
    assert [len(points) for points in dots] == [29, 30]
    np.testing.assert_allclose(dots[1][:, 0], table["h2"][30:])
    triangles = [line for line in ax.lines if line.get_marker() == "v"]
    assert [float(line.get_xdata()[0]) for line in triangles] == [0.0, 0.7]
    medians = [line for line in ax.lines if line.get_color() == PALETTE[1]]
    np.testing.assert_allclose(
        [line.get_xdata()[0] for line in medians], table.groupby("true_h2")["h2"].median()
    )
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "0.7"]
    with pytest.raises(InputError, match="no heritability"):
        plots.heritability_strips(table.assign(h2=np.nan), "true_h2")


def both_optimisers() -> pd.DataFrame:
    """Two true heritabilities, two traits each, fitted twice."""
    return pd.DataFrame(
        {
            "trait": list("abcd"),
            "true_h2": [0.0, 0.7, 0.0, 0.7],
            "h2": [0.0, 0.6, 0.1, 0.8],
            "dense_h2": [0.0, 0.6, 0.1, 0.5],
            "loglik": [-100.0, -90.0, -80.0, -70.0],
            "dense_loglik": [-100.0, -90.0, -80.0, -71.0],
        }
    )


def test_what_two_optimisers_found_and_what_one_missed():
    identity, rest = plots.dense_agreement_plot(both_optimisers()).axes
    marks = np.vstack([c.get_offsets() for c in identity.collections])
    np.testing.assert_allclose(marks, [[0, 0], [0.1, 0.1], [0.6, 0.6], [0.5, 0.8]])
    gains = np.vstack([c.get_offsets() for c in rest.collections])[:, 1]
    np.testing.assert_allclose(gains, [0, 0, 0, 1])
    assert [c.get_label() for c in identity.collections] == ["true h² = 0", "true h² = 0.7"]


def test_a_long_name_stands_above_its_interval():
    profiles, estimates = heritabilities()
    names = {name: f"gene {name} in an uncommon cell type" for name in estimates["trait"]}
    for table in (profiles, estimates):
        table["trait"] = table["trait"].map(names)
    figure = plots.heritability_plot(profiles, estimates)
    assert all("cell" in ax.get_title("left") for ax in figure.axes if ax.lines)
    assert all(
        len(line) < 36
        for ax in figure.axes
        if ax.lines
        for line in ax.get_title("left").splitlines()
    )


def trait_pairs() -> pd.DataFrame:
    """Two genes, three cell types, one correlation that is not defined."""
    one = pd.DataFrame(
        {
            "cell_type": list("aaabbc"),
            "other": list("abcbcc"),
            "correlation0": [1, -1, np.nan, 1, np.nan, np.nan],
            "correlation1": [1, 0.4, 0.2, 1, 0.6, 1],
        }
    )
    return pd.concat([one, one.assign(correlation1=one["correlation1"] - 0.2)])


def test_correlations_are_medians_in_both_triangles():
    figure = plots.trait_correlation_plot(trait_pairs())
    with_relatedness, without = (ax.images[0].get_array() for ax in figure.axes[:2])
    np.testing.assert_allclose(without, [[0.9, 0.3, 0.1], [0.3, 0.9, 0.5], [0.1, 0.5, 0.9]])
    assert with_relatedness[0, 1] == with_relatedness[1, 0] == -1
    assert with_relatedness.mask[2].all() and with_relatedness.mask[0, 2]


# --- priors of variance ratios ------------------------------------------------------------------


def test_a_prior_has_a_dot_for_each_weight():
    _, table = empirical_bayes()
    figure = plots.prior_plot(table)
    (ax,) = figure.axes
    frame = table.prior.to_frame()
    frame = frame[frame["weight"] > 1e-4]
    (dots,) = (c for c in ax.collections if isinstance(c, PathCollection))
    area = dots.get_sizes()
    np.testing.assert_allclose(area / area.max(), frame["weight"] / frame["weight"].max())
    x, stratum = dots.get_offsets().T
    np.testing.assert_array_equal(stratum, frame["stratum"])
    positive = (frame["ratio:subject"] > 0).to_numpy()
    np.testing.assert_allclose(x[positive], frame["ratio:subject"][positive])
    # zero has a place of its own
    assert ax.get_xticklabels()[0].get_text() == "0"
    assert (x[~positive] == ax.get_xticks()[0]).all() and (x[~positive] < x[positive].min()).all()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == len(table.prior.weights) and labels[0].startswith("below ")


def test_two_terms_have_a_panel_each_with_sums():
    fit, table = empirical_bayes(paired=True)
    titles = [ax.get_title("left") for ax in plots.prior_plot(table).axes]
    assert titles == list(fit.components[:-1])
    posterior = fm.posterior_of(fit, table, "g4")
    figure = plots.posterior_plot(posterior)
    assert len(figure.axes) == 2 and "g4" in texts_of(figure)
    for ax in figure.axes:
        for line in (line for line in ax.lines if line.get_marker() == "o"):
            # what is not drawn is below 1e-4 a point
            assert line.get_ydata().sum() == pytest.approx(1, abs=0.01)


def test_what_has_no_prior_is_not_drawn():
    fit, _ = empirical_bayes()
    plain = fm.contrast_tests(fit, "condition", "kenward-roger")
    with pytest.raises(InputError, match="have no prior"):
        plots.prior_plot(plain)
    with pytest.raises(InputError, match="columns 'posterior' are missing"):
        plots.posterior_plot(pd.DataFrame({"gene": ["g"], "prior": [1.0]}))
    with pytest.raises(InputError, match="no column begins with 'ratio:'"):
        plots.posterior_plot(pd.DataFrame({"gene": ["g"], "prior": [1.0], "posterior": [1.0]}))
