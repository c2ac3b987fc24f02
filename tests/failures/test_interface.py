"""Findings, logs, catalogue: nothing missing is an error, and every mistake in a file is one clear line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from zoo.errors import ZooError
from zoo.failures import (
    Finding,
    NotMeasured,
    RunLogs,
    above,
    below,
    detect,
    detect_all,
    detector,
    known_detectors,
    load_catalogue,
    load_failure_mode,
    load_logs,
    worst,
)
from zoo.failures.series import sustained, windows

GOOD = """
id: FM05
name: some_name
title: t
cause: signal
when: training
symptom: s
mechanism: m
metric: x
thresholds:
  ess: {amber: 0.1, red: 0.05, source: own}
remedy: r
exposed: e
"""


def test_levels_have_a_direction_and_nan_is_not_measured() -> None:
    limits = {"a.amber": 1.0, "a.red": 2.0, "b.red": 0.5}
    assert [above(v, limits, "a") for v in (1.0, 1.5, 2.5)] == ["silent", "amber", "red"]
    assert [below(v, {"a.amber": 2.0, "a.red": 1.0}, "a") for v in (2.0, 1.5, 0.5)] == ["silent", "amber", "red"]
    assert (below(0.4, limits, "b"), below(0.6, limits, "b"), above(9.0, limits, "absent")) == ("red", "silent", "silent")
    assert above(float("nan"), limits, "a") == "not_measured"
    assert worst(["silent", "not_measured"]) == "silent"
    assert worst([]) == "not_measured"


def test_what_is_missing_is_said_in_words() -> None:
    logs = RunLogs(tokens=pd.DataFrame({"kl": [0.1], "kl_forward": [np.nan]}), probes={"rescue": pd.DataFrame({"gain": [0.2]})}, info={"pair": "micro"})
    assert logs.missing("tokens.kl") is None
    assert logs.missing("tokens.entropy") == "tokens has no column 'entropy'"
    assert logs.missing("tokens.kl_forward") == "tokens.kl_forward is empty"
    assert logs.missing("tokens.kl*") is None
    assert logs.missing("steps.grad_norm") == "steps: nothing was logged"
    assert logs.missing("probes.rescue.gain") is None
    assert logs.missing("probes.shuffled.kl") == "the probe 'shuffled' was not run"
    assert (logs.missing("info.pair"), logs.missing("info.seed")) == (None, "info.seed is not known")
    with pytest.raises(NotMeasured, match="nothing was logged"):
        logs.require("tokens.kl", "rollouts.length")


def test_empty_logs_give_no_error_and_no_alarm() -> None:
    findings = detect_all(RunLogs())
    assert [f.failure_mode for f in findings] == sorted(load_catalogue())
    assert {f.level for f in findings} == {"not_measured"}
    assert all(f.reason for f in findings)


def test_an_error_in_a_detector_is_a_finding() -> None:
    mode = load_failure_mode("FM05").model_copy(update={"id": "FM99", "needs": ()})
    assert detect(RunLogs(), mode).reason == "no detector"

    @detector("FM99")
    def broken(logs: RunLogs, limits: object) -> Finding:
        raise KeyError("kl")

    try:
        with pytest.raises(ZooError, match="FM99 has two detectors"):
            detector("FM99")(broken)
        finding = detect(RunLogs(), mode)
        assert finding.level == "not_measured"
        assert "KeyError" in finding.reason
    finally:
        from zoo.failures import detecting

        del detecting._DETECTORS["FM99"]


def test_the_shipped_catalogue_and_its_detectors_agree() -> None:
    catalogue = load_catalogue()
    assert set(known_detectors()) <= set(catalogue)
    assert "FM05" in catalogue
    assert catalogue["FM05"].limits["ess.red"] == 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("metric: x", "metrik: x"), r"unknown key 'metrik'; did you mean 'metric'"),
        (("cause: signal", "cause: signals"), r"FM05.yaml:4: cause: should be .*did you mean 'signal'"),
        (("{amber: 0.1, red: 0.05, source: own}", "{source: own}"), r"thresholds.ess: give amber, red or both"),
        (("{amber: 0.1, red: 0.05, source: own}", "{amber: low, source: own}"), r"thresholds.ess.amber: should be a number, not 'low'"),
        (("remedy: r", "remedy: r\nneeds: [token.kl]"), r"'token.kl' names no table of the logs; did you mean 'tokens'"),
        (("remedy: r", "remedy: r\nconstants: {ess: 1.0}"), r"'ess' is a threshold as well"),
        (("id: FM05", "id: FM06"), r"id: is 'FM06', but the file is named FM05.yaml"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "FM05.yaml"
    file.write_text(GOOD.strip().replace(*change), encoding="utf-8")
    with pytest.raises(ZooError, match=message) as error:
        load_failure_mode(file)
    assert "\n" not in str(error.value)


def test_an_unknown_mode_gets_the_nearest() -> None:
    with pytest.raises(ZooError, match=r"no failure mode 'FM5'; did you mean 'FM"):
        load_failure_mode("FM5")


def test_logs_are_read_back_and_what_is_absent_is_empty(tmp_path) -> None:
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "u-steps.parquet")
    pd.DataFrame({"gain": [0.5]}).to_parquet(tmp_path / "u-probe-rescue.parquet")
    pd.DataFrame({"step": [9]}).to_parquet(tmp_path / "other-tokens.parquet")
    logs = load_logs(tmp_path, "u", info={"seed": 0})
    assert (list(logs.steps["step"]), logs.tokens.empty, list(logs.probes), logs.info["seed"]) == ([1], True, ["rescue"], 0)


def test_an_alarm_must_hold_and_is_dated_by_the_point_that_establishes_it() -> None:
    assert sustained([1, 2, 3, 4], ["red", "silent", "amber", "silent"]) == ("silent", None)
    assert sustained([1, 2, 3, 4], ["silent", "amber", "red", "red"]) == ("red", 3)
    assert sustained([1, 2, 3], ["red", "not_measured", "red"]) == ("silent", None)
    with pytest.raises(NotMeasured, match="1 measured windows, 2 are needed"):
        sustained([1], ["red"])


def test_windows_gather_steps_until_they_hold_enough() -> None:
    frame = pd.DataFrame({"step": [1, 1, 2, 3, 3, 3, 4]})
    assert [(step, len(window)) for step, window in windows(frame, 3)] == [(2, 3), (3, 3)]
