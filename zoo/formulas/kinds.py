"""Each kind's formula: LaTeX in which `<field>` stands for a field's value and `<p>`, `<q>` for the student's and the teacher's law.

A kind of another package brings its own as a class attribute, `formula = r"..."`; one without any is written as its name with the fields
that differ from their defaults.
"""

from __future__ import annotations

KL = r"\mathrm{KL}(%s \| %s)"

DIVERGENCES = {
    "forward_kl": KL % ("<q>", "<p>"),
    "reverse_kl": KL % ("<p>", "<q>"),
    "generalized_jsd": r"<beta>\, \mathrm{KL}(<q> \| m) + (1 - <beta>)\, \mathrm{KL}(<p> \| m),\; m = <beta> <q> + (1 - <beta>) <p>",
    "skew_forward_kl": r"\mathrm{KL}(<q> \| <skew> <q> + (1 - <skew>) <p>)",
    "skew_reverse_kl": r"\mathrm{KL}(<p> \| (1 - <skew>) <q> + <skew> <p>)",
    "k1": r"d,\; d = \log <p>(y_t) - \log <q>(y_t)",
    "k2": r"\frac{1}{2} d^2,\; d = \log <p>(y_t) - \log <q>(y_t)",
    "k3": r"\exp(-d) - 1 + d,\; d = \log <p>(y_t) - \log <q>(y_t)",
    "bounded_k2": r"\log 2 - \log(1 + \exp(-\frac{d^2}{2 \cdot <tau>})),\; d = \log <p>(y_t) - \log <q>(y_t)",
    "total_variation": r"\frac{1}{2} \sum_v |<q>_v - <p>_v|",
    "squared_hellinger": r"\sum_v (\sqrt{<q>_v} - \sqrt{<p>_v})^2",
    "pearson_chi2": r"\sum_v \frac{(<q>_v - <p>_v)^2}{<p>_v}",
    "alpha": r"D_{\alpha}(<q> \| <p>),\; \alpha = <alpha>",
    "alpha_beta": r"D_{AB}(<q> \| <p>),\; \alpha = <alpha>,\; \beta = <beta>",
    "adaptive_kl": r"g_h\, \mathrm{KL}(<q> \| <p>) + g_t\, \mathrm{KL}(<p> \| <q>),\; g_h + g_t = 1,\; g_h \text{ the share of the gap on the head}",
    "entrywise_kl": r"\sum_v a_v <q>_v \log \frac{<q>_v}{<p>_v} + (1 - a_v) <p>_v \log \frac{<p>_v}{<q>_v}",
    "entropy": r"H(<p>)",
    "logit_difference": r"\frac{1}{2} \sum_{u,v} a_u b_v (d_v - d_u)^2,\; d = z_p - z_q",
    "sinkhorn": r"\langle P, W \rangle,\; W_{ab} = \|<p>_a - <q>_b\|_1,\; P = \mathrm{Sinkhorn}_{<rounds>}(\exp(-W / <eps>))",
    "plackett_luce": r"-\sum_k \log \frac{\exp z_k}{\sum_{j \ge k} \exp z_j}",
}
SUPPORTS = {
    "sampled": r"\{y_t\}",
    "teacher_topk": r"\mathrm{top}_{<k>}(<q>)",
    "student_topk": r"\mathrm{top}_{<k>}(<p>)",
    "union_topk": r"\mathrm{top}_{<k>}(<p>) \cup \mathrm{top}_{<k>}(<q>)",
    "overlap_topk": r"\mathrm{top}_{<k>}(<p>) \cap \mathrm{top}_{<k>}(<q>)",
    "nucleus": r"\mathrm{nucleus}_{<top_p>}(<of>)",
    "voted": r"\text{the <size> tokens most often in } \mathrm{top}_{<top>}(\log <q> - \log <base>)",
}
MASSES = {
    "raw": r"\text{mass outside S left out}",
    "detach": r"\text{log-ratio without gradient}",
    "renormalise": r"\text{<side> renormalised on S}",
    "tail_bucket": r"\text{one more entry for the mass outside S}",
}
TARGETS = {
    "temperature": r"<q>^{1/<tau>} / Z",
    "interpolate": r"<p>^{1 - t} <q>^{t} / Z,\; t = <t>",
    "geometric": r"<q>\, <p>^{<power>} / Z",
    "extrapolate": r"<q>^{\lambda}\, b^{1 - \lambda} / Z,\; \lambda = <lambda>,\; b = <base>",
    "consensus": r"\exp(\overline{\log <q>_m} + \lambda J) / Z,\; J = \log \overline{<q>_m} - \overline{\log <q>_m}",
    "delta": r"<q>\, (<plus> / <minus>)^{<power>} / Z",
}
CREDITS = {
    "listwise": r"\mathrm{softmax}_i(\log p(y_i) + R_i / <tau>) - \mathrm{softmax}_i \log p(y_i)",
    "immediate": r"r_t",
    "return_to_go": r"\sum_{k \ge t} r_k",
    "discounted": r"\sum_{k \ge t} <gamma>^{k-t} r_k",
    "k_step": r"\sum_{k=t}^{t+<k>-1} r_k",
    "leave_one_out": r"R_i - \mathrm{mean}_{j \ne i} R_j",
    "gae": r"\sum_{l \ge 0} (<gamma> \cdot <lambda>)^l \delta_{t+l},\; \delta_t = r_t + <gamma> V_{t+1} - V_t",
}
BASELINES = {
    "none": r"",
    "kl": r"+ \mathrm{KL}(<p> \| <teacher>)",
    "batch_mean": r"- \mathrm{mean}_{\mathrm{batch}} A",
    "sequence_mean": r"- \mathrm{mean}_{t} A_t",
    "group_mean": r"- \mathrm{mean}_{\mathrm{group}} A",
    "value": r"- V_t",
    "optimal": r"- \frac{\sum_v <p>_v \|e_v - <p>\|^2 \log (<teacher>_v / <p>_v)}{\sum_v <p>_v \|e_v - <p>\|^2}",
}
RATIOS = {
    "importance": r"\frac{<p>(y_t)}{\mu(y_t)}",
    "mixture_importance": r"\frac{p_{\mathrm{old}}(y_t)}{\mu(y_t)}",
    "ppo_clip": r"\frac{<p>(y_t)}{p_{\mathrm{old}}(y_t)}",
    "shaped": r"\frac{\rho}{\rho + <gamma>}",
}
REDUCES = {
    "token_mean": r"\frac{1}{|M|} \sum_{t \in M}",
    "sequence_mean": r"\frac{1}{B} \sum_b \frac{1}{|M_b|} \sum_{t \in M_b}",
    "sum": r"\frac{1}{B} \sum_b \sum_{t \in M_b}",
    "fixed": r"\frac{1}{B} \sum_b \frac{1}{<divisor>} \sum_{t \in M_b}",
}
ROUTINGS = {
    "teacher": r"<teacher>",
    "teacher_topk": r"\text{<teacher> renormalised on } \mathrm{top}_{<k>}(<teacher>)",
    "counterfactual": r"\text{<teacher>}^a p^b / Z \text{ on alternatives with } A_j + \mathrm{KL} > 0,\; a = <teacher_power>,\; b = <student_power>",
}
SCHEDULES = {
    "linear": r"[<start> \to <end>]",
    "cosine": r"[<start> \to <end> \text{, cosine}]",
    "stepwise": r"[<values> \text{ from } <at>]",
    "controller": r"[<low>, <high>] \ni x,\; x \sim \mathrm{Beta}(a_w(s), b_w(s)) \text{ for <horizon> steps}",
}
MEASURES = {
    "entropy": r"H(<of>)",
    "normalised_entropy": r"\frac{H(<of>)}{\log V}",
    "probability": r"<of>(y_t)",
    "confidence": r"\max_v <of>_v",
    "length": r"|y|",
    "combined": r"\mathrm{<how>}(<of>)",
    "divergence": r"\mathrm{<by>}(<of>, <to>)",
}
GATES = {
    "teacher_entropy": r"H(<teacher>)",
    "student_entropy": r"H(<p>)",
    "probability_gap": r"<teacher>(y_t) - <p>(y_t)",
    "reward": r"R_{\mathrm{<name>}}",
    "position": r"t",
    "advantage": r"A_t",
    "threshold": r"<of>",
    "continuation_match": r"\text{not } <within> \text{, or } W(<teacher>_{t:t+<window>}, p_{t:t+<window>}) \text{ above its } <share> \text{ quantile}",
}
REWARDS = {
    "lookahead": r"1[<within>]\, \frac{c(y_t) - \mathrm{mean}_v c(v)}{\mathrm{std}_v c(v) + <epsilon>},\; v \in \mathrm{top}_{<k>}(p),\; "
    r"c(v) \text{ the <by> of <teacher> behind } v",
}
PREFERENCES = {
    "hinge": r"\max(0, <at> - <beta> (h^+ - h^-)),\; h = \log \frac{p(y)}{p_0(y)}",
    "renyi": r"\frac{1}{\alpha} (\log \mathrm{mean}\, \exp(-\alpha u^+) + \log \mathrm{mean}\, \exp(\alpha u^-)),\; u = <beta> \cdot h,\; \alpha = <alpha>",
    "dpo": r"-\log \sigma(<beta> (h^+ - h^-)),\; h = \log \frac{p(y)}{p_0(y)}",
    "ipo": r"(h^+ - h^- - \frac{1}{2 \cdot <beta>})^2,\; h = \text{mean}_t \log \frac{p(y_t)}{p_0(y_t)}",
    "orpo": r"-\text{mean}_t \log p(y^+_t) - <beta> \log \sigma(\mathrm{logit}\, P(y^+) - \mathrm{logit}\, P(y^-)),\; P = \exp(\text{mean}_t \log p(y_t))",
}
FORMULAS: dict[str, dict[str, str]] = {
    "divergence": DIVERGENCES, "support": SUPPORTS, "mass": MASSES, "target": TARGETS, "credit": CREDITS, "baseline": BASELINES, "ratio": RATIOS,
    "reduce": REDUCES, "routing": ROUTINGS, "schedule": SCHEDULES, "measure": MEASURES, "gate": GATES, "preference": PREFERENCES,
    "reward": REWARDS,
}  # fmt: skip
