"""Malformed entries: each gives one line with the file, the line, the path, the reason and the nearest legal name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from zoo import yamlio
from zoo.entry import load_entry, load_registry
from zoo.errors import ZooError
from zoo.paths import data_root
from zoo.yamlio import read_yaml

GOOD = """\
id: mine
name: Mine
paper: {arxiv: "2306.13649", year: 2023}
surveys: [A]
evidence: {level: code, source: "official repository"}
coordinates:
  {feedback_signal: [logit], teacher_access: white_box, loss_granularity: hybrid, estimator: [direct, pg_discounted], routing: [teacher_topk, sampled_token]}
fixed_point: teacher
rollout: {author: student, temperature: 1.0}
teachers: {teacher: {kind: external}}
objective:
  - term: divergence
    divergence: {kind: generalized_jsd, beta: 0.5}
    support: {kind: teacher_topk, k: 8, mass: tail_bucket}
    gates: [{kind: teacher_entropy, above: 0.8}]
    reduce: token_mean
  - term: policy_gradient
    reward: {kind: contrast, of: {teacher: 1, student: -1}}
    credit: {kind: discounted, gamma: 0.9}
    reduce: token_mean
"""


def entry_file(folder: Path, text: str, name: str = "mine") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, old: str, new: str) -> str:
    """The message about the good entry with one piece of text replaced, without the folder."""
    assert GOOD.count(old) == 1, old
    file = entry_file(folder, GOOD.replace(old, new))
    with pytest.raises(ZooError) as caught:
        load_entry(file)
    return str(caught.value).replace(str(file), file.name)


def test_the_good_entry_loads(tmp_path: Path) -> None:
    assert load_entry(entry_file(tmp_path, GOOD)).id == "mine"


CASES = {
    "unknown key, top level": ("surveys: [A]", "survey: [A]", "mine.yaml:4: survey: unknown key 'survey'; did you mean 'surveys'?"),
    "unknown key, nested": ("year: 2023", "yeer: 2023", "mine.yaml:3: paper.yeer: unknown key 'yeer'; did you mean 'year'?"),
    "unknown key, in a term": (
        "    gates: [{kind: teacher_entropy, above: 0.8}]", "    gate: []",
        "mine.yaml:15: objective[0].gate: unknown key 'gate'; did you mean 'gates'?",
    ),
    "unknown key, in a component": ("beta: 0.5", "bta: 0.5", "mine.yaml:13: objective[0].divergence.bta: unknown key 'bta'; did you mean 'beta'?"),
    "unknown key, in the short form": (
        "temperature: 1.0", "temprature: 1.0", "mine.yaml:9: rollout.temprature: unknown key 'temprature'; did you mean 'temperature'?",
    ),
    "unknown divergence": (
        "generalized_jsd", "generalised_jsd", "mine.yaml:13: objective[0].divergence: unknown divergence 'generalised_jsd'; did you mean 'generalized_jsd'?",
    ),
    "unknown support": ("teacher_topk, k", "teacher_top, k", "mine.yaml:14: objective[0].support: unknown support 'teacher_top'; did you mean 'teacher_topk'?"),
    "unknown credit": ("kind: discounted", "kind: discount", "mine.yaml:19: objective[1].credit: unknown credit 'discount'; did you mean 'discounted'?"),
    "unknown author": ("author: student", "author: studnt", "mine.yaml:9: rollout: unknown rollout 'studnt'; did you mean 'student'?"),
    "unknown term": (
        "term: policy_gradient", "term: policy_gradent", "mine.yaml:17: objective[1]: unknown term 'policy_gradent'; did you mean 'policy_gradient'?",
    ),
    "no term": ("term: divergence", "role: signal", "mine.yaml:12: objective[0]: a term needs 'term'; legal here: "
        "divergence, likelihood, log_prob_loss, policy_gradient"),
    "unknown teacher": ("of: {teacher: 1", "of: {teachr: 1", "mine.yaml:17: objective[1]: scorer 'teachr' is not under teachers; did you mean 'teacher'?"),
    "kind as a key": (
        "{kind: teacher_topk, k: 8, mass: tail_bucket}", "{teacher_topk: 8}",
        "mine.yaml:14: objective[0].support: a support needs 'kind'; write {kind: teacher_topk, ...}",
    ),
    "misspelled choice": (
        "{kind: external}", "{kind: external, access: white}",
        "mine.yaml:10: teachers.teacher.access: should be 'white_box' or 'black_box', not 'white'; did you mean 'white_box'?",
    ),
    "text for a number": (
        "beta: 0.5", 'beta: "0.5"', "mine.yaml:13: objective[0].divergence.beta: should be a number or {schedule: ...}, not '0.5'; remove the quotes",
    ),
    "boolean for a number": ("gamma: 0.9", "gamma: true", "mine.yaml:19: objective[1].credit.gamma: should be a number or {schedule: ...}, not true"),
    "a word for a number": ("gamma: 0.9", "gamma: no", "mine.yaml:19: objective[1].credit.gamma: should be a number or {schedule: ...}, not 'no'"),
    "nothing for a number": ("gamma: 0.9", "gamma:", "mine.yaml:19: objective[1].credit.gamma: should be a number or {schedule: ...}, not null"),
    "fraction for a whole number": ("k: 8", "k: 2.5", "mine.yaml:14: objective[0].support.k: should be a whole number, not 2.5"),
    "text for a whole number": ("k: 8", 'k: "8"', "mine.yaml:14: objective[0].support.k: should be a whole number, not '8'; remove the quotes"),
    "too small a number": ("k: 8", "k: 0", "mine.yaml:14: objective[0].support.k: should be greater than or equal to 1, not 0"),
    "list for a mapping": ("{teacher: {kind: external}}", "[external]", "mine.yaml:10: teachers: should be a mapping, not a list"),
    "mapping for a list": (
        "[{kind: teacher_entropy, above: 0.8}]", "{kind: teacher_entropy, above: 0.8}",
        "mine.yaml:15: objective[0].gates: should be a list, not a mapping; put '- ' before it, or [ ] around it",
    ),
    "text for a list": ("surveys: [A]", "surveys: A", "mine.yaml:4: surveys: should be a list, not 'A'; write [A]"),
    "list for a component": (
        "support: {kind: teacher_topk, k: 8, mass: tail_bucket}", "support: [full]",
        "mine.yaml:14: objective[0].support: a support is a name or a mapping with 'kind', not a list",
    ),
    "number for text": ("name: Mine", "name: 7", "mine.yaml:2: name: should be text, not 7; put it in quotes"),
    "nothing for text": ("name: Mine", "name:", "mine.yaml:2: name: should be text, not null"),
    "word for a boolean": ("surveys: [A]", "executable: yes", "mine.yaml:4: executable: should be true or false, not 'yes'"),
    "mapping for a figure": (
        "surveys: [A]", "reported: [{setting: s, metric: m, value: [1], source: t}]",
        "mine.yaml:4: reported[0].value: should be a number or text, not a list",
    ),
    "arXiv id without quotes": ('"2306.13649"', "2306.13640", 'mine.yaml:3: paper.arxiv: is a number; quote it: "2306.13640"'),
    "old arXiv id without quotes": ('"2306.13649"', "1412.6550", 'mine.yaml:3: paper.arxiv: is a number; quote it: "1412.6550"'),
    "arXiv id of a wrong form": (
        '"2306.13649"', '"arXiv:2306.13649"', "mine.yaml:3: paper.arxiv: should be an arXiv id like \"2306.13649\", not 'arXiv:2306.13649'",
    ),
    "missing evidence": ('evidence: {level: code, source: "official repository"}\n', "", "mine.yaml:1: evidence: is required and missing"),
    "missing reduce": (
        "gates: [{kind: teacher_entropy, above: 0.8}]\n    reduce: token_mean", "role: signal",
        "mine.yaml:12: objective[0].reduce: is required and missing",
    ),
    "missing rollout": ("rollout: {author: student, temperature: 1.0}\n", "", "rollout (or rollouts) is required and missing"),
    "missing objective": (GOOD[GOOD.index("objective:"):], "", "objective is required and missing"),
    "missing coordinates": (GOOD[GOOD.index("coordinates:"):GOOD.index("fixed_point")], "", "coordinates are required"),
    "executable but blocked": ("surveys: [A]", "blocked_by: no card", "executable: false needs blocked_by with the reason"),
    "both rollout and rollouts": (
        "teachers: {", "rollouts: {main: {author: student}}\nteachers: {",
        "mine.yaml:9: rollout: is short for rollouts: {main: ...}; give one of the two, not both",
    ),
    "key given twice": ("fixed_point: teacher", "fixed_point: teacher\nfixed_point: none", "mine.yaml:9: key 'fixed_point' is given twice; keep one"),
    "nested key given twice": ("{kind: external}", "{kind: external, kind: student}", "mine.yaml:10: key 'kind' is given twice; keep one"),
    "id of another file": ("id: mine", "id: yours", "mine.yaml:1: id: 'yours' differs from the file's name; name the file yours.yaml"),
    "id of a wrong form": ("id: mine", "id: Mine!", "mine.yaml:1: id: should be lower-case letters, digits and underscores, a letter first, not 'Mine!'"),
    "beta 0": ("beta: 0.5", "beta: 0", "mine.yaml:13: objective[0].divergence: beta must lie in (0.0, 1.0); "
        "it tends to 0 at both ends: name forward_kl or reverse_kl instead"),
    "beta 1": ("beta: 0.5", "beta: 1.0", "name forward_kl or reverse_kl instead"),
    "beta scheduled to 1": ("beta: 0.5", "beta: {schedule: linear, start: 0.5, end: 1.0}", "name forward_kl or reverse_kl instead"),
    "unknown schedule": (
        "beta: 0.5", "beta: {schedule: liner, start: 0.1, end: 0.5}",
        "mine.yaml:13: objective[0].divergence.beta: unknown schedule 'liner'; did you mean 'linear'?",
    ),
    "two thresholds": ("above: 0.8", "above: 0.8, below: 2", "mine.yaml:15: objective[0].gates[0]: give exactly one of above, at_least, below, at_most"),
    "no threshold": (", above: 0.8", "", "mine.yaml:15: objective[0].gates[0]: give exactly one of above, at_least, below, at_most"),
    "half a window": ("term: policy_gradient", "term: policy_gradient\n    during: [0.5]", "mine.yaml:18: objective[1].during[1]: is required and missing"),
    "window backwards": ("  - term: policy_gradient", "  - term: policy_gradient\n    during: [0.5, 0.2]", "during must be two increasing shares of the run"),
    "coordinates that differ": (
        "loss_granularity: hybrid", "loss_granularity: token",
        "mine.yaml:7: coordinates.loss_granularity: claimed token, but what runs is hybrid; correct the claim or the objective",
    ),
    "incompatible parts": (
        ", mass: tail_bucket", "", "mine.yaml:12: objective[0]: a truncated support leaks mass",
    ),
    "bad YAML": ("teachers: {teacher", "teachers: {teacher: [", "mine.yaml:10: not valid YAML ("),
    "indentation": ("fixed_point: teacher", "fixed_point: teacher\n  more: x", "mine.yaml:9: not valid YAML (mapping values are not allowed here)"),
    "a tag that runs code": (
        "name: Mine", "name: !!python/object/apply:os.getcwd []",
        "mine.yaml:2: name: tag tag:yaml.org,2002:python/object/apply:os.getcwd is not allowed; write plain YAML",
    ),
    "a tag that makes objects": ("name: Mine", "name: !!python/name:os.getcwd x", "mine.yaml:2: not valid YAML (could not determine a constructor"),
    "an alias to itself": ("name: Mine", "name: &a [*a]", "mine.yaml: nested too deeply; an alias may contain itself"),
    "two documents": ("name: Mine", "name: Mine\n---\nid: two", "mine.yaml:3: not valid YAML (but found another document)"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), CASES.values(), ids=CASES.keys())
def test_message(tmp_path: Path, old: str, new: str, message: str) -> None:
    found = refusal(tmp_path, old, new)
    assert message in found
    assert found.startswith("mine.yaml")
    assert found.count("\n") == 0, "one mistake, one line"
    for noise in ("Input should", "input should", "Value error", "tuple", "pydantic", "union", "NoneType", "dict"):
        assert noise not in found


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("level: code", "level: cod").replace("generalized_jsd", "jsd").replace("k: 8", "k: many")
    with pytest.raises(ZooError) as caught:
        load_entry(entry_file(tmp_path, text))
    lines = str(caught.value).splitlines()
    assert [line.split("mine.yaml:")[1].split(":")[0] for line in lines] == ["5", "13", "14"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "mine.yaml: is empty; it should hold the keys of a method entry"),
        (b"# nothing but a comment\n", "mine.yaml: is empty"),
        (b"- a\n- b\n", "mine.yaml:1: should be a mapping of keys to values, not a list"),
        (b"hello\n", "mine.yaml:1: should be a mapping of keys to values, not 'hello'"),
        (GOOD.replace("Mine", "Caf\u00e9").encode("latin-1"), "mine.yaml:2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    ],
)
def test_files_that_hold_no_entry(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ZooError) as caught:
        load_entry(file)
    assert message in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"nothing\.yaml: no such file"):
        load_entry(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6), ("1E3", 1000.0), ("-2.5e+1", -25.0), (".5", 0.5), ("5.", 5.0), ("1_0", 10), ("3", 3), ("-7", -7), ("0x10", 16),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("true", True), ("false", False), ("~", None),
        ("1e", "1e"), ("2306.13649v2", "2306.13649v2"), ('"1e-6"', "1e-6"),
    ],
)  # fmt: skip
def test_scalars(tmp_path: Path, text: str, value: object) -> None:
    found, _ = read_yaml(entry_file(tmp_path, f"on: {text}\n"))
    assert found == {"on": value}
    assert type(found["on"]) is type(value)


def test_a_power_of_ten_is_a_number_in_an_entry(tmp_path: Path) -> None:
    entry = load_entry(entry_file(tmp_path, GOOD.replace("gamma: 0.9", "gamma: 1e-6")))
    assert entry.objective[1].credit.gamma == 1e-6  # type: ignore[attr-defined]


def test_lines_of_nested_paths(tmp_path: Path) -> None:
    _, lines = read_yaml(entry_file(tmp_path, "a:\n  - b: 1\n    c:\n      d: 2\n  - e\n"))
    expected = {(): 1, ("a",): 1, ("a", 0): 2, ("a", 0, "b"): 2, ("a", 0, "c"): 3, ("a", 0, "c", "d"): 4, ("a", 1): 5}
    assert lines == expected


@pytest.mark.parametrize("file", sorted((data_root() / "registry").rglob("*.yaml")), ids=lambda file: file.stem)
def test_both_parsers_read_the_same(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert yamlio._parsed(yamlio._Quick, text, file) == yamlio._parsed(yamlio._Loader, text, file)


@pytest.mark.parametrize("deep", ["[" * 200_000, "- " * 200_000, "{a: " * 200_000, "\n".join(" " * i + "a:" for i in range(3000))])
def test_nesting_without_end_is_refused(tmp_path: Path, deep: str) -> None:
    with pytest.raises(ZooError, match=r"nested too deeply|not valid YAML"):
        read_yaml(entry_file(tmp_path, deep))


def test_one_id_in_two_files(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = entry_file(tmp_path / "one", GOOD), entry_file(tmp_path / "two", GOOD.replace("2306.13649", "2306.00001"))
    with pytest.raises(ZooError) as caught:
        load_registry(tmp_path)
    assert f"{second}:1: id: 'mine' is also the id of {first}; ids are unique, rename one" in str(caught.value)


@pytest.mark.parametrize("marked", ["variant_of: mine", 'paper: {arxiv: "2399.00001", part: b}'])
def test_one_arxiv_id_in_two_entries(tmp_path: Path, marked: str) -> None:
    one = GOOD.replace("2306.13649", "2399.00001")
    two = one.replace("id: mine", "id: other")
    entry_file(tmp_path, one)
    entry_file(tmp_path, two, "other")
    with pytest.raises(ZooError, match=r"other: arXiv 2399\.00001 is also mine's; set variant_of or paper\.part"):
        load_registry(tmp_path)
    if marked.startswith("paper"):
        two = two.replace('paper: {arxiv: "2399.00001", year: 2023}', marked).replace("beta: 0.5", "beta: 0.3")
    else:
        two += marked + "\n"
    entry_file(tmp_path, two, "other")
    assert "other" in load_registry(tmp_path)


def test_a_link_to_no_entry(tmp_path: Path) -> None:
    entry_file(tmp_path, GOOD.replace("2306.13649", "2399.00001") + "identical_core_to: gdk\n")
    with pytest.raises(ZooError, match=r"mine: identical_core_to names 'gdk', which is no entry; did you mean 'gkd'\?"):
        load_registry(tmp_path)


def test_a_link_to_a_broken_entry_is_not_blamed(tmp_path: Path) -> None:
    entry_file(tmp_path, GOOD.replace("2306.13649", "2399.00001") + "variant_of: broken\n")
    entry_file(tmp_path, GOOD.replace("id: mine", "id: broken").replace("beta: 0.5", "beta: 7"), "broken")
    with pytest.raises(ZooError) as caught:
        load_registry(tmp_path)
    assert "beta must lie in" in str(caught.value)
    assert "is no entry" not in str(caught.value)


def test_an_unknown_method_is_suggested() -> None:
    with pytest.raises(ZooError, match=r"no method 'gkdd' in the registry; did you mean 'gkd'\?"):
        load_registry()["gkdd"]


def test_text_damaged_at_random_is_refused_or_loads(tmp_path: Path) -> None:
    """Characters dropped, doubled or exchanged, lines moved: never another exception than the one that the command line prints."""
    chance, refused = random.Random(0), 0
    for _ in range(300):
        text = list(GOOD)
        for _ in range(chance.choice((1, 2, 5))):
            at = chance.randrange(len(text) - 1)
            text[at : at + 1] = chance.choice(([], [text[at], text[at]], [chance.choice("{}[]:,-#&*!|>'\"%@ \n\t0.eE~")], [text[at + 1], text[at]]))
        try:
            load_entry(entry_file(tmp_path, "".join(text)))
        except ZooError as error:
            refused += 1
            assert str(error).startswith(str(tmp_path))
    assert refused > 200
