"""GSM8K: reading numbers out of answers, and prompts out of the data set's rows. Rows here are made up."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import ZooError
from zoo.tasks import make_task
from zoo.tasks.gsm8k import Gsm8kTask, as_prompt, first_step
from zoo.tasks.numbers import boxed_number, last_boxed, last_number, to_number
from zoo.tensors import Prompt

BOXED = {
    r"So \boxed{18}.": 18,
    r"\boxed{18.00}": 18,
    r"\boxed{18.}": 18,
    r"\boxed{ 18 }": 18,
    r"\boxed {18}": 18,
    r"\fbox{1} and \boxed{18}": 18,
    r"\boxed{1,234,567}": 1234567,
    r"\boxed{1{,}234}": 1234,
    r"\boxed{\$1,200.50}": Fraction(2401, 2),
    r"\boxed{$18$}": 18,
    r"\boxed{-7}": -7,
    r"\boxed{−7}": -7,
    r"\boxed{-\$7}": -7,
    r"\boxed{$-7}": -7,
    r"\boxed{.5}": Fraction(1, 2),
    r"\boxed{25\%}": 25,
    r"\boxed{25%}": 25,
    r"\boxed{18 dollars}": 18,
    r"\boxed{18\text{ dollars}}": 18,
    r"\boxed{\text{18 dollars}}": 18,
    r"\boxed{\textbf{18}}": 18,
    r"\boxed{18\ \mathrm{cm}^2}": 18,
    r"\boxed{18 \text{ m}^{3}}": 18,
    r"\boxed{60 miles/hour}": 60,
    r"\boxed{90^\circ}": 90,
    r"\boxed{x = 18}": 18,
    r"\boxed{18\,000}": 18000,
    r"\boxed{\frac{9}{2}}": Fraction(9, 2),
    r"\boxed{-\dfrac{9}{2}}": Fraction(-9, 2),
    r"\boxed{9/2}": Fraction(9, 2),
    r"\boxed{3} then \boxed{18}": 18,
    "18": None,
    r"\boxed{}": None,
    r"\boxed{18": None,
    r"\boxed{3} then \boxed{18": None,
    r"\boxed{eighteen}": None,
    r"\boxed{5+3}": None,
    r"\boxed{5-3}": None,
    r"\boxed{2 \times 9}": None,
    r"\boxed{2\sqrt{9}}": None,
    r"\boxed{2\pi}": None,
    r"\boxed{1, 2}": None,
    r"\boxed{10:30}": None,
    r"\boxed{1/0}": None,
    r"\boxed{3 1/2}": None,
    r"\boxed{" + "9" * 5000 + "}": None,
}


@pytest.mark.parametrize(("text", "number"), BOXED.items())
def test_the_last_boxed_number_is_read_and_nothing_else(text: str, number: Fraction | int | None) -> None:
    assert boxed_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    {
        "He pays $1,200.50.": Fraction(2401, 2),
        "5-3=2": 2,
        "x = -3": -3,
        "it falls by 4 to -3.": -3,
        "between 10-20": 20,
        "#### 18": 18,
        "18.00 dollars": 18,
        "1, 2, 3": 3,
        "1,2345": 2345,
        "none": None,
        "": None,
    }.items(),
)
def test_the_last_number_of_a_text(text: str, number: Fraction | int | None) -> None:
    assert last_number(text) == number


def test_nested_braces_belong_to_the_box() -> None:
    assert last_boxed(r"\boxed{\text{a {b} c}} d") == r"\text{a {b} c}"


@given(st.text(alphabet="0123456789.,-−/{}\\$% boxedfractionx^", max_size=60))
def test_no_text_breaks_the_readers(text: str) -> None:
    assert last_number(text) is None or isinstance(last_number(text), Fraction)
    assert boxed_number(f"\\boxed{{{text}}}") is None or isinstance(boxed_number(f"\\boxed{{{text}}}"), Fraction)


@given(st.integers(-(10**9), 10**9))
def test_any_whole_number_is_read_back_however_it_is_written(number: int) -> None:
    for written in (f"{number}", f"{number:,}", f"{number}.00", f"\\${number:,}" if number >= 0 else f"{number}"):
        assert boxed_number(rf"so \boxed{{{written}}}.") == number == last_number(f"it is {number:,}.")


def test_to_number_takes_plain_numbers_only() -> None:
    assert to_number(" 1,200 ") == 1200
    assert to_number("12 apples") is None


ROW = {
    "question": " Ann has 3 bags of 4 pears. How many? ",
    "answer": "Ann has 3*4 = <<3*4=12>>12 pears. She adds none.\nThat is $<<12=12>>1,212.\n#### 1,212",
}


def test_a_row_becomes_a_prompt_with_its_fields() -> None:
    prompt = as_prompt(ROW, "train-00007", "here")
    assert prompt.id == "train-00007" and prompt.text == "Ann has 3 bags of 4 pears. How many?"
    assert dict(prompt.fields) == {
        "answer": "1212",
        "solution": "Ann has 3*4 = 12 pears. She adds none.\nThat is $1,212.\nThe answer is \\boxed{1212}.",
        "hint": "Ann has 3*4 = 12 pears. She adds none.",
        "domain": "math",
    }
    assert Gsm8kTask().verify("boxed", prompt.fields["solution"], prompt) == 1.0


@pytest.mark.parametrize(
    ("reasoning", "hint"),
    [("a = 1\nb = 2", "a = 1"), ("One. Two.", "One."), ("She has 3*4 = 2*6 = 12 pears.", "She has 3*4 = 2*6"), ("Twelve", "Twelve")],
)
def test_a_hint_is_the_first_step_and_not_the_whole_solution(reasoning: str, hint: str) -> None:
    assert first_step(reasoning) == hint


@pytest.mark.parametrize("row", [{"question": "q"}, {"question": "q", "answer": "no mark 3"}, {"question": "q", "answer": "#### three"}])
def test_a_row_that_is_no_problem_is_refused_by_its_place(row: dict[str, str]) -> None:
    with pytest.raises(ZooError, match=r"here, problem train-00007"):
        as_prompt(row, "train-00007", "here")


def test_checks() -> None:
    task, prompt = Gsm8kTask(), Prompt("p", "q", {"answer": "18"})
    right, loose, wrong = r"so \boxed{\$18.00}", "so it is 18.", r"18 \boxed{17}"
    assert [task.verify("boxed", text, prompt) for text in (right, loose, wrong)] == [1.0, 0.0, 0.0]
    assert [task.verify("answer", text, prompt) for text in (right, loose, wrong)] == [1.0, 0.0, 0.0]
    assert [task.verify("flexible", text, prompt) for text in (right, loose, wrong)] == [1.0, 1.0, 0.0]
    assert [task.verify("format", text, prompt) for text in (right, loose, wrong)] == [1.0, 0.0, 1.0]
    with pytest.raises(ZooError, match="no check 'boxd'; did you mean 'boxed'"):
        task.verify("boxd", right, prompt)


def write(folder: Path, n: int) -> Path:
    rows = [{"question": f"{i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(n)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_valid_is_the_tail_of_the_training_file(tmp_path: Path) -> None:
    task = make_task("gsm8k", write(tmp_path, 300))
    train, valid = task.prompts("train"), task.prompts("valid")
    assert [p.text for p in train] == [f"{i}?" for i in range(44)]
    assert [p.text for p in valid] == [f"{i}?" for i in range(44, 300)]
    with pytest.raises(ZooError, match="no split 'test'"):
        task.prompts("test")


def test_missing_broken_and_short_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"no GSM8K data at .*train\.jsonl"):
        Gsm8kTask(tmp_path).prompts("train")
    with pytest.raises(ZooError, match="256 are the valid split"):
        Gsm8kTask(write(tmp_path, 256)).prompts("train")
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n{"question"\n')
    with pytest.raises(ZooError, match="line 2: not JSON"):
        Gsm8kTask(tmp_path).prompts("train")


def test_an_unknown_task_names_the_legal_ones() -> None:
    with pytest.raises(ZooError, match="no task 'gsm8'; did you mean 'gsm8k'"):
        make_task("gsm8")
