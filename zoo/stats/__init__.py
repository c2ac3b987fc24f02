"""The statistics of the tables: small pure functions on float64 arrays.

Shape letters: S seeds, I evaluation items, M methods, T tasks, B replicates. A fixed model (student, teacher) has items but no seeds. Items
are shared by all seeds and methods, so their noise does not average out over seeds, and differences are paired. Nothing is filled in: a
missing score is an error here. Contrasts between entries are in `zoo.stats.contrasts`, simulated coverage in `zoo.stats.coverage`.
"""

from zoo.stats.aggregates import average_rank, gap_closed, iqm, optimality_gap, probability_of_improvement, win_rate
from zoo.stats.bootstrap import REPLICATES, bootstrap_t, paired_bootstrap
from zoo.stats.estimates import (
    MIN_SEEDS,
    Array,
    Estimate,
    Items,
    aligned,
    aligned_arrays,
    binomial_stderr,
    comparable,
    crossed_mean,
    mean_stderr,
    paired_difference,
)
from zoo.stats.intervals import Spread, crossed_detectable, crossed_interval, crossed_p_value, paired_interval, spread
from zoo.stats.rankings import Agreement, kendall_tau_b, order_scores, rank_agreement, spearman_rho, tau_interval
from zoo.stats.testing import holm, minimum_detectable_effect, p_value

__all__ = [
    "MIN_SEEDS",
    "REPLICATES",
    "Agreement",
    "Array",
    "Estimate",
    "Items",
    "Spread",
    "aligned",
    "aligned_arrays",
    "average_rank",
    "binomial_stderr",
    "bootstrap_t",
    "comparable",
    "crossed_detectable",
    "crossed_interval",
    "crossed_mean",
    "crossed_p_value",
    "gap_closed",
    "holm",
    "iqm",
    "kendall_tau_b",
    "mean_stderr",
    "minimum_detectable_effect",
    "optimality_gap",
    "order_scores",
    "p_value",
    "paired_bootstrap",
    "paired_difference",
    "paired_interval",
    "probability_of_improvement",
    "rank_agreement",
    "spearman_rho",
    "spread",
    "tau_interval",
    "win_rate",
]
