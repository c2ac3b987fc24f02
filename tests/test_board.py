"""What a run says while it goes on: lines that are no flood, totals, and events that survive a wire."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from zoo.harness.board import LINE_EVERY, LINES_AT_ONCE, Board, lasting, screen
from zoo.harness.report import Endings, Listener, Several, Wire, deliver, summary

ROW = {"step": 12, "progress": 0.5, "loss.0.divergence": 0.03125, "reward.answer.main": 0.4, "length.main": 15.2, "grad_norm": 1.0, "tokens": 100}


class Desk:
    """A board outside a terminal, with a clock that is set by hand."""

    def __init__(self, cells: int) -> None:
        self.now, self.said = 0.0, list[str]()
        self.board = Board(self.said.append, cells=cells, budget=1000, clock=lambda: self.now)

    def step(self, seed: int, progress: float) -> None:
        self.board.step("gkd", seed, {**ROW, "progress": progress})


def test_a_cell_says_one_line_every_ten_seconds_however_fast_it_steps() -> None:
    desk = Desk(1)
    desk.board.begin("gkd", 0, 0.0)
    for tenth in range(400):
        desk.now = tenth / 10
        desk.step(0, tenth / 800)
    assert desk.said[0] == "gkd (seed 0)" and len(desk.said) == 1 + 3
    assert desk.said[1] == "gkd (seed 0)   12%  step 12  divergence 0.03125  answer 40%  length 15  12 tok/s  eta 70 s"


def test_many_cells_take_turns_and_the_totals_say_what_is_left() -> None:
    desk = Desk(40)
    for seed in range(20):
        desk.board.begin("gkd", seed, 0.0)
    desk.said.clear()
    desk.now = LINE_EVERY
    desk.step(0, 0.5)
    assert len(desk.said) == LINES_AT_ONCE + 1 and desk.said[-1] == "0 of 40 cells done, 20 under way  50 tok/s  eta 13 min"
    first = {line.split("  ")[0] for line in desk.said[:-1]}
    desk.said.clear()
    desk.now = 2 * LINE_EVERY
    desk.step(0, 0.5)
    assert not first & {line.split("  ")[0] for line in desk.said[:-1]}  # those that were silent longest


def test_ends_losses_and_a_second_beginning_are_counted_once() -> None:
    desk = Desk(3)
    desk.board.begin("gkd", 0, 0.0)
    desk.step(0, 0.6)
    desk.now = 5.0
    desk.board.lost("gkd", 0)
    desk.board.begin("gkd", 0, 0.5)
    desk.board.begin("gkd", 1, 0.0)
    desk.step(0, 1.0)
    desk.board.evaluating("gkd", 0)
    desk.now = 11.0
    desk.board.end("gkd", 0, "success")
    desk.board.end("gkd", 1, "error", "a cable was pulled")
    assert "gkd (seed 0)  goes on from 50%" in desk.said and "gkd (seed 0)  success in 6 s" in desk.said
    assert "gkd (seed 1)  error in 6 s: a cable was pulled" in desk.said
    assert desk.said[-1] == "1 of 3 cells done, 1 failed  100 tok/s  eta 10 s"  # 0.6 + 0.5 budgets in 11 s, one budget left
    desk.board.begin("gkd", 1, 0.0)
    desk.board.end("gkd", 1, "success")
    assert "2 of 3 cells done  " in desk.said[-1]


def test_a_terminal_shows_each_cell_and_the_totals_live() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    board = screen(console, 2, 1000)
    board.begin("gkd", 0, 0.0)
    board.begin("sft", 1, 0.0)
    board.step("gkd", 0, ROW)
    board.evaluating("sft", 1)
    assert isinstance(board, Board)
    console.print(board._picture())
    board.close()
    assert "step 12  divergence 0.03125" in out.getvalue() and "sft (seed 1)    0%  evaluating" in out.getvalue()
    assert "0 of 2 cells done, 2 under way" in out.getvalue()


def test_events_survive_a_wire_and_steps_are_thinned() -> None:
    sent: list[dict[str, Any]] = []
    wire, endings = Wire(sent.append, every=1000.0), Endings()
    desk = Desk(2)
    wire.begin("gkd", 0, 0.0)
    for _ in range(5):
        wire.step("gkd", 0, ROW)
    wire.step("gkd", 0, {**ROW, "progress": 1.0})
    wire.lost("gkd", 0)
    wire.begin("gkd", 0, 0.9)
    wire.evaluating("gkd", 0)
    wire.end("gkd", 0, "success")
    wire.say("a word")
    wire.close()
    assert [event["event"] for event in sent] == ["begin", "step", "step", "lost", "begin", "evaluating", "end", "say"]
    assert "grad_norm" not in sent[1]["row"]
    for event in [*sent, {"event": "no such"}, {"method": "gkd"}]:
        deliver(json.loads(json.dumps(event)), Several([desk.board, endings]))
    assert desk.said[0] == "gkd (seed 0)" and desk.said[-1] == "a word" and endings.statuses == {("gkd", 0): "success"}


def test_a_worker_speaks_in_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    screen(Console(), 1, 1000, worker=True).begin("gkd", 0, 0.25)
    assert json.loads(capsys.readouterr().out) == {"event": "begin", "method": "gkd", "seed": 0, "progress": 0.25}


def test_words() -> None:
    assert [lasting(5), lasting(119), lasting(600), lasting(9000)] == ["5 s", "119 s", "10 min", "2.5 h"]
    assert summary({"step": 1, "progress": 0.1}) == "step 1"
    Listener().step("gkd", 0, ROW)  # a listener may do nothing
