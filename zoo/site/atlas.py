"""The failure atlas: the catalogue, whether each detector was validated, and in whose runs it fired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.site.content import Comparison, Site
from zoo.site.methods import counts_of, fired_rows
from zoo.site.render import Writer


def write_atlas(writer: Writer) -> None:
    """The overview and a page for each mode that the catalogue, a record, a detection row or an entry names."""
    site = writer.site
    fired = [row for one in site.comparisons for method in one.board.trained for row in fired_rows(method, one)]
    known = {mode: [entry.id for entry in site.registry.values() if mode in entry.known_failures] for mode in _modes(site)}
    titles = {mode: site.modes.get(mode, {}).get("title", mode) for mode in known}
    rows = []
    for mode in known:
        about = {"id": mode, "title": mode, "cause": "", "when": ""} | site.modes.get(mode, {})
        state, mine = detector_state(site.detection, mode), [row for row in fired if row["mode"] == mode]
        held = [row for row in site.detection if row.get("failure_mode") == mode]
        complete = dict.fromkeys(("symptom", "mechanism", "metric", "remedy", "exposed", "sources", "thresholds"), "") | about
        complete["thresholds"] = {name: {"was": ""} | dict(limits) for name, limits in (about.get("thresholds") or {}).items()}
        writer.page(f"failures/{mode}.html", "mode.html", mode=complete, state=state, detection=held, fired=mine, known_to=known[mode])
        rows.append({"id": mode, "title": about["title"], "cause": about["cause"], "state": state, "methods": len({row["method"] for row in mine})})
    maps = [found for one in site.comparisons if (found := _map(one))]
    maps.sort(key=lambda found: -found["size"])
    for found in maps:
        writer.page(f"failures/in-{found['id']}.html", "failure_map.html", one=found, titles=titles)
    writer.page("failures/index.html", "failures.html", modes=rows, titles=titles, maps=maps, detection=site.detection)


def detector_state(detection: Sequence[Mapping[str, str]], mode: str) -> str:
    """What the detection matrix says of a mode's detector."""
    found = {row.get("validated", "") for row in detection if row.get("failure_mode") == mode}
    if not found:
        return "not yet provoked"
    return "validated" if found == {"yes"} else "not validated" if "yes" not in found else "validated on some seeds"


def _modes(site: Site) -> list[str]:
    named = {mode for entry in site.registry.values() for mode in entry.known_failures}
    seen = {mode for one in site.comparisons for found in one.board.findings.values() for mode in found}
    return sorted({*site.modes, *named, *seen, *(row["failure_mode"] for row in site.detection if row.get("failure_mode"))})


def _map(one: Comparison) -> dict[str, Any] | None:
    """The heat map of a comparison, by family."""
    findings = one.board.findings
    modes = sorted({mode for found in findings.values() for mode in found})
    if not modes:
        return None
    groups = [
        (family, [(method, [counts_of(findings[method].get(mode, [])) for mode in modes]) for method in methods]) for family, methods in one.board.diagnosed()
    ]
    return {"id": one.id, "modes": modes, "size": one.size, "groups": groups, "idle": sorted(one.board.idle_modes())}
