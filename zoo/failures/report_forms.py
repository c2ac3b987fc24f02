"""Reports as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from zoo.failures.catalogue import FailureMode, load_catalogue
from zoo.failures.finding import Finding
from zoo.failures.report_plots import plotted
from zoo.failures.reporting import RunReport, plain

STYLE = """
:root{--ink:#222;--faint:#666;--line:#ddd;--red:#a50f15;--amber:#8a5a00;--ground:#fff;--box:#f6f7f8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--faint:#a3abb1;--line:#343a40;--red:#ff8a80;--amber:#f0c060;--ground:#1b1f23;--box:#242a30}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:62rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.7rem 0;display:block;overflow-x:auto}td,th{border-bottom:1px solid var(--line);padding:.2rem .7rem;text-align:left}
.red{color:var(--red);font-weight:600}.amber{color:var(--amber);font-weight:600}.faint{color:var(--faint)}
pre{background:var(--box);padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}
figure{margin:1rem 0;background:#fff;overflow-x:auto}svg{max-width:100%;height:auto}
h2{border-top:2px solid var(--line);padding-top:1rem;margin-top:2.5rem}
"""
LOGS = "Read from the run's logs."
RECORDS = "Read from the committed records; evidence and example texts lie in the logs, which are not here."
Blocks = list[tuple[str, Any]]


def markdown(reports: Sequence[RunReport], title: str) -> str:
    """The report as Markdown."""
    return "\n\n".join(_as_markdown(kind, value) for kind, value in blocks(reports, title)) + "\n"


def page(reports: Sequence[RunReport], title: str) -> str:
    """The report as one HTML file with its plots inside."""
    body = "\n".join(_as_html(kind, value) for kind, value in blocks(reports, title, plots=True))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{html.escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n'


def blocks(reports: Sequence[RunReport], title: str, plots: bool = False) -> Blocks:
    """What a report consists of, as kinds of blocks and their content."""
    catalogue = load_catalogue()
    found: Blocks = [("h1", title)]
    if len(reports) > 1:
        rows = [[r.record.run.method, r.record.run.seed, r.record.run.status, *(_named(r, level) for level in ("red", "amber"))] for r in reports]
        found.append(("table", (["method", "seed", "status", "red", "amber"], rows)))
    for report in reports:
        found += _run(report, catalogue, plots)
    return found


def _named(report: RunReport, level: str) -> str:
    return ", ".join(f.failure_mode for f in report.fired if f.level == level) or "–"


def _run(report: RunReport, catalogue: dict[str, FailureMode], plots: bool) -> Blocks:
    run = report.record.run
    spent = run.budget.spent
    said = f"{run.status}; {spent.get('steps') or 0:.0f} steps, {spent.get('supervised_tokens') or 0:,.0f} supervised tokens; record {run.uuid}"
    found: Blocks = [("h2", report.name), ("p", said)]
    if not report.findings:
        return [*found, ("p", "No diagnostics were recorded: the run is older than they are, or `diagnose_every` was 0.")]
    source = LOGS if report.from_logs else RECORDS
    count = {level: sum(f.level == level for f in report.findings) for level in ("red", "amber", "silent", "not_measured")}
    found.append(("p", f"{count['red']} red, {count['amber']} amber, {count['silent']} silent, {count['not_measured']} not measured. {source}"))
    if plots and (svg := plotted(report)) is not None:
        found.append(("figure", svg.decode()))
    if report.fired:
        found.append(("p", "Causes come before symptoms: begin at the top."))
    for finding in report.fired:
        found += _finding(finding, catalogue.get(finding.failure_mode))
    for level, heading in (("silent", "Silent"), ("not_measured", "Not measured")):
        rows = [[f.failure_mode, _title(f, catalogue), f.reason] for f in report.findings if f.level == level]
        found += [("h3", heading), ("table", (["", "failure mode", "what was seen" if level == "silent" else "why"], rows))] if rows else []
    if not report.curve.empty and not plots:
        found += [("h3", "Course"), ("table", (list(report.curve.columns), [[_short(v) for v in row] for row in _thinned(report)]))]
    return found


def _finding(finding: Finding, mode: FailureMode | None) -> Blocks:
    title = finding.failure_mode if mode is None else f"{finding.failure_mode} {mode.name}: {mode.title}"
    since = "" if finding.first_step is None else f", established at step {finding.first_step}"
    found: Blocks = [("h3", (finding.level, title)), ("p", f"{finding.reason}{since}.")]
    if finding.evidence:
        found.append(("table", (["evidence", ""], [[name, _short(plain(value))] for name, value in finding.evidence.items()])))
    for example in finding.examples:
        where = f"step {example.step}, stream {example.stream}, sequence {example.rollout}" + (f": {example.note}" if example.note else "")
        found.append(("example", (where, example.text)))
    if mode is not None:
        limits = "; ".join(f"{name}: amber {_short(t.amber)}, red {_short(t.red)} ({t.source})" for name, t in mode.thresholds.items())
        found += [("p", f"What it is. {mode.symptom} {mode.mechanism}"), ("p", f"What to do. {mode.remedy}"), ("faint", f"Limits. {limits}. {mode.metric}")]
    return found


def _title(finding: Finding, catalogue: dict[str, FailureMode]) -> str:
    mode = catalogue.get(finding.failure_mode)
    return "" if mode is None else mode.title


def _thinned(report: RunReport, count: int = 12) -> list[list[Any]]:
    rows = report.curve.to_numpy().tolist()
    return [rows[round(i * (len(rows) - 1) / (min(count, len(rows)) - 1 or 1))] for i in range(min(count, len(rows)))]


def _short(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def _as_markdown(kind: str, value: Any) -> str:
    if kind in ("h1", "h2"):
        return f"{'#' * int(kind[1])} {value}"
    if kind == "h3":
        return f"### {value}" if isinstance(value, str) else f"### {value[0].upper()} {value[1]}"
    if kind == "table":
        head, rows = value
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
    if kind == "example":
        fence = "`" * max(3, 1 + max((len(run) for run in value[1].split() if set(run) == {"`"}), default=0))
        return f"{value[0]}\n\n{fence}text\n{value[1]}\n{fence}"
    return str(value)


def _as_html(kind: str, value: Any) -> str:
    if kind == "figure":
        return f"<figure>{value[value.index('<svg') :]}</figure>"
    if kind == "h3" and not isinstance(value, str):
        return f'<h3><span class="{value[0]}">{value[0]}</span> {html.escape(value[1])}</h3>'
    if kind == "table":
        head, rows = value
        cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        return "<table><thead><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + f"</tr></thead><tbody>{cells}</tbody></table>"
    if kind == "example":
        return f'<p class="faint">{html.escape(value[0])}</p>' + (f"<pre>{html.escape(value[1])}</pre>" if value[1] else "")
    return f'<p class="faint">{html.escape(value)}</p>' if kind == "faint" else f"<{kind}>{html.escape(value)}</{kind}>"
