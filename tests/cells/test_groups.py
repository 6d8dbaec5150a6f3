"""Group statistics: moments, subsets, and merges against sums over the cells themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmm.cells.groups import GroupStatistics, group_rows, merge, merge_levels, moment_names
from flashmm.options import FlashmmWarning, InputError

BY = ("subject", "age", "treated")
COVARIATES = ("x", "log(z)")
GENES = pd.Index(["A", "B", "C", "D"])


def cells_table(n: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Cells with a categorical, a numeric and a boolean column, and counts."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical(rng.choice(["s2", "s10", "s1"], n), ["s10", "s2", "s1"]),
            "age": rng.choice([31, 47], n),
            "treated": rng.choice([True, False], n),
            "x": rng.normal(size=n),
            "log(z)": rng.normal(size=n),
        }
    )
    return obs, rng.poisson(2.0, (n, len(GENES))).astype(float)


def summed(obs: pd.DataFrame, counts: np.ndarray, genes: pd.Index = GENES) -> GroupStatistics:
    """Group statistics straight from their definition, one group after another."""
    y = np.log2(1 + counts)
    keys = obs[list(BY)].drop_duplicates().sort_values(list(BY))
    rows = [
        (obs[list(BY)] == list(key)).all(axis=1).to_numpy() for key in keys.itertuples(index=False)
    ]
    moments = {"n_cells": [int(row.sum()) for row in rows]}
    for x in COVARIATES:
        moments[f"sum:{x}"] = [obs.loc[row, x].sum() for row in rows]
    for x, z in [("x", "x"), ("x", "log(z)"), ("log(z)", "log(z)")]:
        moments[f"sum:{x}*{z}"] = [(obs.loc[row, x] * obs.loc[row, z]).sum() for row in rows]
    table = keys.assign(**moments)
    table["subject"] = table["subject"].cat.remove_unused_categories()
    table.index = ["|".join(map(str, key)) for key in keys.itertuples(index=False)]
    return GroupStatistics(
        obs=table,
        genes=genes,
        sum=np.array([y[row].sum(0) for row in rows]),
        sumsq=np.array([(y[row] ** 2).sum(0) for row in rows]),
        covariate_sums={
            x: np.array([obs.loc[row, x].to_numpy() @ y[row] for row in rows]) for x in COVARIATES
        },
        counts=np.array([counts[row].sum(0) for row in rows]),
        by=BY,
        covariates=COVARIATES,
        transform="log2p1",
        provenance={"inputs": [{"n_cells": len(obs)}]},
        expressing=np.array([(counts[row] > 0).sum(0, dtype=float) for row in rows]),
    )


def assert_same(a: GroupStatistics, b: GroupStatistics, rtol: float = 1e-12) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs, rtol=rtol, atol=rtol)
    assert list(a.genes) == list(b.genes)
    assert list(a.gene_sums()) == list(b.gene_sums())
    for name, values in a.gene_sums().items():
        np.testing.assert_allclose(values, b.gene_sums()[name], rtol=rtol, atol=rtol, err_msg=name)


def changed(groups: GroupStatistics, **changes: object) -> GroupStatistics:
    fields = {name: getattr(groups, name) for name in groups.__dataclass_fields__}
    return GroupStatistics(**(fields | changes))


def with_genes(groups: GroupStatistics, names: list[str]) -> GroupStatistics:
    """The same statistics with only these genes, in this order."""
    columns = groups.genes.get_indexer(names)
    return changed(
        groups,
        genes=pd.Index(names),
        sum=groups.sum[:, columns],
        sumsq=groups.sumsq[:, columns],
        covariate_sums={x: v[:, columns] for x, v in groups.covariate_sums.items()},
        counts=None if groups.counts is None else groups.counts[:, columns],
        expressing=None if groups.expressing is None else groups.expressing[:, columns],
    )


@pytest.fixture
def whole() -> GroupStatistics:
    return summed(*cells_table(60))


@pytest.fixture
def halves() -> list[GroupStatistics]:
    obs, counts = cells_table(60)
    return [summed(obs[:25], counts[:25]), summed(obs[25:], counts[25:])]


def test_columns_of_the_table_of_groups(whole: GroupStatistics) -> None:
    assert list(whole.obs.columns) == [
        *("subject", "age", "treated", "n_cells", "sum:x", "sum:log(z)"),
        *("sum:x*x", "sum:x*log(z)", "sum:log(z)*log(z)"),
    ]
    assert moment_names(()) == ["n_cells"]
    assert (whole.n_groups, whole.n_genes, whole.n_cells) == (len(whole.obs), 4, 60)


def test_moments_and_cross_sums_by_number(whole: GroupStatistics) -> None:
    np.testing.assert_array_equal(whole.moment(0, 0), whole.obs["n_cells"])
    np.testing.assert_array_equal(whole.moment(0, 2), whole.obs["sum:log(z)"])
    np.testing.assert_array_equal(whole.moment(2, 1), whole.obs["sum:x*log(z)"])
    np.testing.assert_array_equal(whole.moment(2, 1), whole.moment(1, 2))
    assert whole.moment(0, 0).dtype == np.float64
    assert whole.cross_sum(0) is whole.sum
    assert whole.cross_sum(2) is whole.covariate_sums["log(z)"]


def test_group_rows_counts_levels_in_their_order() -> None:
    keys = pd.DataFrame(
        {
            "type": pd.Categorical(["T", "B", "T", "B"], ["T", "unused", "B"]),
            "age": [50.5, 7.0, 6.0, 7.0],
        }
    )
    codes, table = group_rows(keys)
    assert list(codes) == [1, 2, 0, 2]
    assert list(table.index) == ["T|6.0", "T|50.5", "B|7.0"]
    assert list(table["type"].cat.categories) == ["T", "B"]


def test_group_names_must_differ() -> None:
    keys = pd.DataFrame({"a": pd.Categorical(["x|y", "x"]), "b": pd.Categorical(["z", "y|z"])})
    with pytest.raises(InputError, match=r"'x\|y\|z'.*separator '\|'"):
        group_rows(keys)


@settings(max_examples=10, deadline=None)
@given(
    n_cells=st.integers(1, 40),
    labels=st.lists(st.integers(0, 3), min_size=40, max_size=40),
    seed=st.integers(0, 99),
)
@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_merge_of_any_split_is_the_whole(n_cells: int, labels: list[int], seed: int) -> None:
    obs, counts = cells_table(n_cells, seed)
    obs["subject"] = pd.Categorical(obs["subject"], ["s1", "s10", "s2"])  # sorted, as by default
    label = np.array(labels[:n_cells])
    parts = [summed(obs[label == k], counts[label == k]) for k in np.unique(label)]
    merged = merge(parts)
    assert_same(merged, summed(obs, counts))
    pairwise = parts[0]
    for part in parts[1:]:
        pairwise = pairwise + part
    assert_same(pairwise, merged)
    assert pairwise.provenance == merged.provenance
    assert sum(entry["n_cells"] for entry in merged.provenance["inputs"]) == n_cells


def test_merge_keeps_its_parts_as_they_were(halves: list[GroupStatistics]) -> None:
    before = [(half.obs.copy(), half.sum.copy()) for half in halves]
    halves[0] + halves[1]
    for half, (obs, total) in zip(halves, before, strict=True):
        pd.testing.assert_frame_equal(half.obs, obs)
        np.testing.assert_array_equal(half.sum, total)


def test_merge_puts_genes_in_the_order_of_the_first(
    halves: list[GroupStatistics], whole: GroupStatistics
) -> None:
    other = with_genes(halves[1], ["C", "A", "D", "B"])
    assert_same(halves[0] + other, whole)
    assert_same(other + halves[0], with_genes(whole, ["C", "A", "D", "B"]))


def test_merge_refuses_other_genes_and_says_which(halves: list[GroupStatistics]) -> None:
    other = changed(with_genes(halves[1], ["A", "B", "C"]), genes=pd.Index(["A", "new", "C"]))
    with pytest.raises(InputError, match=r"part 2 .* lacks 2 of 4 \('B', 'D'\).* 1 others \('new'"):
        halves[0] + other


def test_merge_over_the_genes_that_parts_share(
    halves: list[GroupStatistics], whole: GroupStatistics
) -> None:
    other = with_genes(halves[1], ["D", "B"])
    with pytest.warns(FlashmmWarning, match="2 genes that are not in all parts"):
        merged = merge([halves[0], other], genes="intersection")
    assert_same(merged, with_genes(whole, ["B", "D"]))
    assert len(merged.notes) == 1

    with pytest.raises(InputError, match="share no gene"):
        merge([with_genes(halves[0], ["A"]), other], genes="intersection")
    with pytest.raises(InputError, match="genes='union'"):
        merge(halves, genes="union")


@pytest.mark.parametrize(
    ("field", "value"),
    [("by", ("subject", "age")), ("covariates", ("x",)), ("transform", "log1p")],
)
def test_merge_refuses_parts_made_in_another_way(
    whole: GroupStatistics, field: str, value: object
) -> None:
    changes = {field: value}
    if field == "covariates":
        changes["covariate_sums"] = {"x": whole.covariate_sums["x"]}
    with pytest.raises(InputError, match=f"different '{field}'"):
        whole + changed(whole, **changes)


def test_merge_refuses_columns_of_another_kind(whole: GroupStatistics) -> None:
    other = changed(
        whole, obs=whole.obs.assign(age=whole.obs["age"].astype(str).astype("category"))
    )
    with pytest.raises(InputError, match="'age' is numeric and categorical"):
        whole + other


def test_merge_of_one_and_of_none(whole: GroupStatistics) -> None:
    assert_same(merge([whole]), whole, rtol=0)
    with pytest.raises(InputError, match="nothing to merge"):
        merge([])
    with pytest.raises(TypeError):
        whole + 1


def test_counts_need_all_parts(halves: list[GroupStatistics], whole: GroupStatistics) -> None:
    with pytest.warns(FlashmmWarning, match="raw counts are left out"):
        merged = halves[0] + changed(halves[1], counts=None)
    assert merged.counts is None
    np.testing.assert_allclose(merged.sum, whole.sum, rtol=1e-12)
    assert (changed(halves[0], counts=None) + changed(halves[1], counts=None)).counts is None


def test_numbers_of_expressing_cells_need_all_parts(halves: list[GroupStatistics]) -> None:
    with pytest.warns(FlashmmWarning, match="Numbers of expressing cells are left out"):
        merged = changed(halves[0], expressing=None) + halves[1]
    assert merged.expressing is None
    assert merged.counts is not None


@pytest.mark.parametrize(
    ("orders", "merged"),
    [
        (["ab", "ab"], "ab"),
        (["ba", "b"], "ba"),
        (["b", "cba", "ca"], "cba"),
        (["ba", "c"], "abc"),
        (["ba", "ab"], "ab"),
        (["ba", "abc"], "abc"),
    ],
)
def test_levels_of_a_merge(orders: list[str], merged: str) -> None:
    assert list(merge_levels([pd.Index(list(order)) for order in orders])) == list(merged)


def test_levels_of_different_types_have_no_order() -> None:
    with pytest.raises(InputError, match=r"'int', 'str'"):
        merge_levels([pd.Index(["a"]), pd.Index([1])])


def part_of(levels: list[str]) -> GroupStatistics:
    """One group for each level of a condition, in the order given."""
    values = np.ones((len(levels), 4))
    return GroupStatistics(
        obs=pd.DataFrame({"condition": pd.Categorical(levels, levels), "n_cells": 1}, index=levels),
        genes=GENES,
        sum=values,
        sumsq=values,
        covariate_sums={},
        counts=values,
        by=("condition",),
        covariates=(),
        transform="log1p",
        provenance={},
    )


def test_the_reference_level_is_said_where_it_is_decided() -> None:
    with pytest.warns(FlashmmWarning, match="reference levels now: condition 'ctrl'"):
        merged = part_of(["stim"]) + part_of(["ctrl"])
    assert list(merged.obs["condition"].cat.categories) == ["ctrl", "stim"]
    assert list(merged.obs.index) == ["ctrl", "stim"]
    assert len(merged.notes) == 1
    with pytest.warns(FlashmmWarning, match="condition 'ctrl'"):
        part_of(["stim"]) + part_of(["ctrl", "stim"])


def test_nothing_is_said_where_the_reference_is_clear() -> None:
    merged = part_of(["stim", "ctrl"]) + part_of(["stim"])
    assert list(merged.obs["condition"].cat.categories) == ["stim", "ctrl"]
    assert list(merged.obs["n_cells"]) == [2, 1]
    assert merged.notes == ()


@pytest.mark.parametrize("how", ["mask", "positions", "names", "slice", "series"])
def test_subset(whole: GroupStatistics, how: str) -> None:
    chosen = (whole.obs["subject"] == "s2").to_numpy()
    argument = {
        "mask": chosen,
        "positions": np.flatnonzero(chosen),
        "names": list(whole.obs.index[chosen]),
        "slice": slice(np.flatnonzero(chosen)[0], np.flatnonzero(chosen)[-1] + 1),
        "series": whole.obs["subject"] == "s2",
    }[how]
    part = whole.subset(argument)
    obs, counts = cells_table(60)
    kept = (obs["subject"] == "s2").to_numpy()
    assert_same(part, summed(obs[kept], counts[kept]))
    assert list(part.obs["subject"].cat.categories) == ["s2"]
    assert list(whole.obs["subject"].cat.categories) == ["s10", "s2", "s1"]


def test_subset_of_nothing_and_errors(whole: GroupStatistics) -> None:
    assert whole.subset([]).n_groups == 0
    with pytest.raises(InputError, match="mask of shape"):
        whole.subset(np.ones(2, dtype=bool))
    with pytest.raises(InputError, match="no group 'nobody'"):
        whole.subset(["nobody"])


def test_a_record_checks_its_shapes(whole: GroupStatistics) -> None:
    with pytest.raises(InputError, match="'sumsq' has the shape"):
        changed(whole, sumsq=whole.sumsq[:, :2])
    with pytest.raises(InputError, match=r"lacks the column\(s\) 'sum:x'"):
        changed(whole, obs=whole.obs.drop(columns="sum:x"))
    with pytest.raises(InputError, match="their sums with the genes are given for 'x'"):
        changed(whole, covariate_sums={"x": whole.sum})
