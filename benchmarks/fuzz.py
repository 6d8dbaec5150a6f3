"""Random small designs: fits against a dense likelihood that shares no code with them.

python benchmarks/fuzz.py                     # 3,000 designs from seed 0
python benchmarks/fuzz.py --designs 100 --seed 7
python benchmarks/fuzz.py --docs              # and write docs/reliability.md anew

A run that was killed goes on where it stopped, as long as the code is the same.

A design has 6 to 60 cells, one to three components (crossed, nested, a variance for each type,
slopes, and in every eighth design correlated intercepts and slopes, `(1 + x | g)`), unequal groups,
columns of X that are nearly or quite collinear, and responses with components at zero and far from
it. Every engine that takes it fits it, by REML or ML, bounded or not, and what it reports is held
against `fuzz_reference`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd
import reliability
from fuzz_reference import Best, Dense, best_of_pair, best_optimum

import flashmm as fm
from flashmm.storage.files import atomic_path
from flashmm.storage.provenance import source_digest

Array = np.ndarray

DOCUMENT = common.ROOT / "docs" / "reliability.md"
ENGINES = ("auto", "spectral", "dense", "eliminated")
FITTED = ("ok", "boundary")
# Every so many designs the effects correlate, at this rest of the seed.
CORRELATED = (8, 7)
# Worst log-likelihood units below the best point, and wrong by, that pass.
LOWER = 1e-4
WRONG = 1e-5


@dataclass(frozen=True, eq=False)
class Design:
    """What is fitted, and what kind of design it is."""

    kind: str
    fixed: str
    X: Array
    Z: tuple[Array, ...]
    Y: Array
    noise: str
    reml: bool
    nonnegative: bool
    correlated: bool = False

    @property
    def sizes(self) -> list[int]:
        """Columns of Z per component; a covariance has none."""
        return [block.shape[1] for block in self.Z] + [0] * self.correlated

    @property
    def case(self) -> dict[str, Any]:
        """What a line of the table is for."""
        return {
            "components": len(self.sizes),
            "bounded": "yes" if self.nonnegative else "no",
            "design": self.kind,
            "X": self.fixed,
            "noise": self.noise,
            "method": "REML" if self.reml else "ML",
        }


# ---- designs -------------------------------------------------------------------------------------


def random_design(seed: int) -> Design:
    """A design of one seed."""
    if seed % CORRELATED[0] == CORRELATED[1]:
        return correlated_design(seed)
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 61))
    kind = str(rng.choice(list(KINDS)))
    Z = KINDS[kind](rng, n)
    fixed, X = _fixed(rng, n, Z[0])
    noise = str(rng.choice(list(NOISE), p=[0.9, 0.1]))
    return Design(
        kind,
        fixed,
        X,
        tuple(Z),
        _responses(rng, X, Z, NOISE[noise](rng)),
        noise,
        bool(rng.random() < 0.6),
        bool(rng.random() < 0.7),
    )


def correlated_design(seed: int) -> Design:
    """Intercepts and slopes that correlate, by one or not; Γ positive semidefinite."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 61))
    first = _levels(rng, n)
    covariate = rng.normal(rng.choice([0.0, 3.0]), 1.0, size=(n, 1))
    if rng.random() < 0.5:
        covariate = covariate.round()
    Z = (first, first * covariate)
    fixed, X = _fixed(rng, n, first)
    # the third has effects with a correlation of one
    blocks = [*Z, Z[0] + rng.normal() * Z[1]]
    noise = str(rng.choice(list(NOISE), p=[0.9, 0.1]))
    Y = _responses(rng, X, blocks, NOISE[noise](rng))
    reml = bool(rng.random() < 0.6)
    return Design("correlated", fixed, X, Z, Y, noise, reml, True, correlated=True)


def _levels(rng: np.random.Generator, n: int, most: int = 10) -> Array:
    """Indicators of unequal groups, (n, levels)."""
    levels = int(rng.integers(2, max(3, min(most, n // 2) + 1)))
    shares = rng.dirichlet(np.full(levels, rng.choice([0.5, 3.0, 50.0])))
    codes = np.r_[np.arange(levels), rng.choice(levels, n - levels, p=shares)]
    return np.eye(levels)[codes]


def _shuffled(rng: np.random.Generator, Z: Array) -> Array:
    return Z[rng.permutation(len(Z))]


def _within(rng: np.random.Generator, outer: Array) -> Array:
    """Indicators of two or three groups in each level."""
    pair = outer.argmax(1) * 3 + rng.integers(0, int(rng.integers(2, 4)), len(outer))
    groups, codes = np.unique(pair, return_inverse=True)
    return np.eye(len(groups))[codes]


def _one(rng: np.random.Generator, n: int) -> list[Array]:
    return [_levels(rng, n)]


def _crossed(rng: np.random.Generator, n: int) -> list[Array]:
    return [_levels(rng, n), _shuffled(rng, _levels(rng, n, 6))]


def _nested(rng: np.random.Generator, n: int) -> list[Array]:
    outer = _levels(rng, n, 6)
    return [outer, _within(rng, outer)]


def _by_type(rng: np.random.Generator, n: int) -> list[Array]:
    """A variance for each of two or three cell types."""
    outer, types = _levels(rng, n, 6), int(rng.integers(2, 4))
    kind = np.r_[np.arange(types), rng.integers(0, types, n - types)]
    blocks = [outer * (kind == k)[:, None] for k in range(types)]
    return [block[:, block.any(0)] for block in blocks]


def _slopes(rng: np.random.Generator, n: int) -> list[Array]:
    outer = _levels(rng, n, 6)
    return [outer, outer * rng.normal(size=(n, 1))]


def _three_crossed(rng: np.random.Generator, n: int) -> list[Array]:
    return [*_crossed(rng, n), _shuffled(rng, _levels(rng, n, 4))]


def _nested_and_crossed(rng: np.random.Generator, n: int) -> list[Array]:
    return [*_nested(rng, n), _shuffled(rng, _levels(rng, n, 4))]


KINDS = {
    "one": _one,
    "crossed": _crossed,
    "nested": _nested,
    "by type": _by_type,
    "slopes": _slopes,
    "three crossed": _three_crossed,
    "nested, crossed": _nested_and_crossed,
}


def _fixed(rng: np.random.Generator, n: int, subject: Array) -> tuple[str, Array]:
    """Columns of X: covariates, kinds of cells, columns of subjects; some nearly collinear."""
    columns = [np.ones(n)] if rng.random() < 0.9 else [rng.normal(size=n)]
    for _ in range(int(rng.integers(0, max(1, min(4, n // 4))))):
        columns.append(
            [
                rng.normal(size=n),
                (rng.random(n) < 0.4).astype(float),
                subject @ (rng.random(subject.shape[1]) < 0.5),
            ][int(rng.integers(3))]
        )
    kind = str(rng.choice(["plain", "collinear", "aliased"], p=[0.7, 0.2, 0.1]))
    mixed = np.column_stack(columns) @ rng.normal(size=len(columns))
    if kind == "collinear":
        columns.append(mixed + 10.0 ** rng.uniform(-3.5, -1.0) * rng.normal(size=n))
    elif kind == "aliased":
        columns.append(mixed)
    return kind, np.column_stack(columns).astype(float)


# Standard deviation of the residuals: with hardly any the responses lie in the span of X and Z.
NOISE = {"some": lambda rng: 1.0, "hardly any": lambda rng: 10.0 ** rng.uniform(-7, -2)}


def _responses(
    rng: np.random.Generator, X: Array, Z: Sequence[Array], noise: float, genes: int = 2
) -> Array:
    """Responses with components from zero to far above the residual variance, (n, genes)."""
    Y = noise * rng.normal(size=(len(X), genes)) + X @ rng.normal(size=(X.shape[1], genes))
    for block in Z:
        sd = rng.choice([0.0, 0.3, 1.0, 5.0, 100.0], size=genes, p=[0.3, 0.25, 0.25, 0.15, 0.05])
        Y += block @ rng.normal(size=(block.shape[1], genes)) * sd
    return np.asarray(Y * 10.0 ** rng.integers(-3, 4, genes))


# ---- one design ----------------------------------------------------------------------------------


def check(design: Design, seed: int, engines: Sequence[str] = ENGINES) -> Iterator[dict[str, Any]]:
    """A row for every engine and response: what was reported, and how far from the truth it is."""
    best: dict[int, Best | None] = {}
    bounded = design.nonnegative
    for engine in engines:
        try:
            fit = fitted(design, engine)
        except (fm.DesignError, fm.InputError) as error:
            refused = "no such engine" if isinstance(error, fm.InputError) else "refused"
            yield design.case | {"seed": seed, "engine": engine, "status": refused}
            continue
        kept = np.isin(fit.coefficients, fit.aliased, invert=True)
        for g in range(fit.n_genes):
            X = design.X[:, kept]
            dense = Dense(design.Y[:, g], X, design.Z, design.reml, design.correlated)
            row = design.case | {"seed": seed, "gene": g, "engine": engine, "status": fit.status[g]}
            if fit.status[g] not in ("all_zero", "perfect_fit", "no_within_variance"):
                if g not in best:
                    pair = design.correlated
                    best[g] = best_of_pair(dense) if pair else best_optimum(dense, bounded)
                row |= compared(fit, g, dense, best[g], kept)
            yield row


def fitted(design: Design, engine: str) -> fm.LMMFit:
    """The fit of one engine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = fm.summary_statistics_from_matrices(
            design.Y, design.X, np.hstack(design.Z), design.sizes
        )
        method = "REML" if design.reml else "ML"
        return fm.fit_lmm(stats, method=method, nonnegative=design.nonnegative, engine=engine)


def compared(
    fit: fm.LMMFit, gene: int, dense: Dense, best: Best | None, kept: Array
) -> dict[str, Any]:
    """Units of log-likelihood below the best point, and errors of it and of β̂ (in SE)."""
    theta = fit.theta[gene]
    gamma = theta[:-1] / theta[-1]
    f = dense.value(gamma)
    row = {
        "gamma": gamma.round(6).tolist(),
        "best": None if best is None else best.gamma.round(6).tolist(),
        "below": np.nan if best is None else (f - best.f) / 2,
        "wrong": abs(fit.loglik[gene] - dense.log_likelihood(f)),
    }
    if fit.status[gene] in FITTED and np.isfinite(f):
        beta, se = dense.coefficients(gamma)
        row["beta"] = float(np.max(np.abs(fit.coef[gene, kept] - beta) / se))
    return row


# ---- all of them ---------------------------------------------------------------------------------


def rows_of(seed: int, parts: Path | None = None) -> list[dict[str, Any]]:
    """All rows of one design; those of a folder of parts are read, others are added to it."""
    if parts is None:
        return list(check(random_design(seed), seed))
    part = parts / f"{seed}.json"
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(part) as unfinished:
            unfinished.write_text(json.dumps(rows_of(seed), default=float))
    rows: list[dict[str, Any]] = json.loads(part.read_text())
    return rows


def run(seeds: Sequence[int], jobs: int = 1, parts: Path | None = None) -> pd.DataFrame:
    """All rows of many designs, in processes side by side."""
    made = partial(rows_of, parts=parts)
    if jobs == 1:
        return pd.DataFrame(row for seed in seeds for row in made(seed))
    with get_context("spawn").Pool(jobs) as pool:
        found = pool.imap(made, seeds, chunksize=10)
        return pd.DataFrame(row for rows in found for row in rows)


def parts_of_this_code() -> Path:
    """Where rows are kept, so that a run that was killed goes on; other code has another folder."""
    return common.RESULTS / "fuzz" / source_digest(__file__)


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of fits that are below a better point, or whose reported numbers are wrong."""
    fits = rows[rows.status.isin(FITTED)]
    plain = fits.noise == "some"
    wrong = (fits.wrong > WRONG) | (fits.beta > WRONG)
    return fits[(fits.below > LOWER) | (plain & wrong)]


def by_case(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Counts and the worst differences for each value of some columns, as text."""
    fits = rows[rows.status.isin(FITTED)]
    groups = fits.groupby(list(columns))
    frame = groups.agg(
        designs=("seed", "nunique"),
        fits=("seed", "size"),
        below=("below", "max"),
        wrong=("wrong", "max"),
        beta=("beta", "max"),
    ).reset_index()
    lower = groups["below"].apply(lambda below: int((below > LOWER).sum()))
    frame.insert(len(columns) + 3, "lower", lower.to_numpy())
    for column in ("below", "wrong", "beta"):
        frame[column] = frame[column].clip(lower=0.0).map("{:.1g}".format)
    return frame.rename(columns=HEADINGS).astype(str)


HEADINGS = {
    "lower": f"fits more than {LOWER:g} below",
    "below": "furthest below",
    "wrong": "error of log L",
    "beta": "error of β̂ in SE",
}


def outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """How fits ended, by noise and bounds: counts of every status."""
    asked = rows[rows.status != "no such engine"]
    bounded = asked.bounded.map({"yes": "bounded", "no": "not bounded"})
    columns = asked.noise + " residual variance, " + bounded
    lost = (asked.status == "not_converged") & asked.best.notna()
    status = asked.status.mask(lost, "not_converged, though there is an optimum")
    return pd.crosstab(status, columns).reset_index(names="status").astype(str)


def table_of(frame: pd.DataFrame) -> str:
    """A table of the page."""
    return common.markdown_table(list(frame.columns), frame.to_numpy().tolist())


def summary(rows: pd.DataFrame) -> str:
    """The tables of the page."""
    some, hardly = (rows[rows.noise == noise] for noise in NOISE)
    parts = [
        f"{rows.seed.nunique():,} designs, seeds {rows.seed.min()} to {rows.seed.max()}.",
        table_of(by_case(some, "components", "bounded", "design")),
        table_of(by_case(some, "engine", "X")),
        "With hardly any residual variance (10⁻⁷ to 10⁻² of that between levels):",
        table_of(by_case(hardly, "components", "engine")),
        "How fits ended:",
        table_of(outcomes(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run, print, and write the page where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--docs", action="store_true", help="write docs/reliability.md anew")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.designs)
    rows = run(seeds, options.jobs, parts_of_this_code())
    print(summary(rows))
    failed = failures(rows)
    if len(failed):
        print(failed.sort_values("below").to_string())
    if options.docs:
        common.write_between(DOCUMENT, "fuzz", summary(rows))
        common.write_between(DOCUMENT, "tried", reliability.table())
    sys.exit(bool(len(failed)))


if __name__ == "__main__":
    main()
