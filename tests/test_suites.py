"""The schema of suites, the names they use, and their digest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from zoo.errors import ZooError
from zoo.harness.suites import _files_behind, load_suite, own_task_files, suite_digest, suite_ids, task_files
from zoo.paths import data_root

BODY = {
    "id": "mine",
    "title": "Mine",
    "chat_template": False,
    "tasks": [{"task": "micro_add", "family": "in_distribution", "headline": "exact_match,strict", "max_new_tokens": 40}],
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(BODY | changes))
    return path


def task(**changes: object) -> list[dict[str, object]]:
    return [BODY["tasks"][0] | changes]  # type: ignore[index]


def test_the_zoo_ships_these_suites() -> None:
    assert suite_ids() == ["chores", "code", "general", "gsm8k", "gsm8k-valid", "math", "micro", "micro-two", "micro-valid"]
    assert [t.task for t in load_suite("micro").tasks] == ["micro_add", "micro_ood", "micro_copy"]
    assert {t.family for t in load_suite("micro").tasks} == {"in_distribution", "out_of_distribution", "retention"}


@pytest.mark.parametrize("name", suite_ids())
def test_names_of_tasks_filters_and_metrics_are_lm_evals(name: str) -> None:
    """Each task is a single task in lm-eval's own index of its folder, and its headline is one of its metrics under one of its filters."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Kind

    suite = load_suite(name)
    files = task_files(suite)
    index = TaskManager(include_path=sorted({path.parent for path in files.values()}), include_defaults=False).task_index
    for entry in suite.tasks:
        found = index[entry.task]
        assert found.kind is Kind.TASK and found.yaml_path == files[entry.task]
        config = found.cfg or {}
        metric, wanted = entry.headline.split(",")
        metrics = [str(listed["metric"]).rsplit(".", 1)[-1] for listed in config["metric_list"]]
        assert {"pass@1": "pass_at_k"}.get(metric, metric) in metrics, entry.task
        assert wanted in [listed["name"] for listed in config.get("filter_list") or [{"name": "none"}]], entry.task
        assert entry.runs_code == bool(config.get("unsafe_code")), entry.task
        if config["output_type"] == "generate_until":
            assert entry.max_new_tokens, entry.task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat_templates": True}, "2: chat_templates: unknown key 'chat_templates'; did you mean 'chat_template'?"),
        ({"tasks": task(fewshots=3)}, "5: tasks[0].fewshots: unknown key 'fewshots'; did you mean 'fewshot'?"),
        ({"tasks": task(family="in_distrbution")}, "4: tasks[0].family: should be 'in_distribution', 'out_of_distribution' or 'retention'"),
        ({"tasks": task(headline="exact_match")}, "5: tasks[0].headline: a headline is written metric,filter"),
        ({"tasks": task(fewshot="3")}, "5: tasks[0].fewshot: should be a whole number, not '3'; remove the quotes"),
        ({"tasks": task(limit=0)}, "6: tasks[0].limit: should be greater than 0"),
        ({"tasks": task() + task()}, "3: tasks: task named twice: micro_add"),
        ({"tasks": []}, "3: tasks: a suite needs at least one task"),
        ({"title": 3}, "8: title: should be text, not 3"),
        ({"id": "other"}, " id 'other' differs from the file's name; call it 'mine'"),
    ],
)
def test_a_wrong_suite_is_refused_with_the_place_and_the_remedy(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ZooError) as refusal:
        load_suite(path)
    assert str(refusal.value).startswith(f"{path}:{message}")
    assert "\n" not in str(refusal.value)


def test_missing_keys_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("id: mine\nchat_template: false\ntasks: [{task: micro_add, headline: 'a,b'}]\n")
    with pytest.raises(ZooError) as refusal:
        load_suite(path)
    lines = str(refusal.value).splitlines()
    assert lines == [f"{path}:1: title: is required and missing", f"{path}:3: tasks[0].family: is required and missing"]


def test_an_unknown_suite_and_an_unknown_task_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"no suite 'mirco'; did you mean 'micro'\?"):
        load_suite("mirco")
    with pytest.raises(ZooError, match=r"no task 'micro_addd'.*did you mean 'micro_add'\?"):
        task_files(load_suite(write(tmp_path, tasks=task(task="micro_addd"))))
    with pytest.raises(ZooError, match=r"no task 'helaswag'.*did you mean 'hellaswag'\?"):
        task_files(load_suite(write(tmp_path, tasks=task(task="helaswag"))))
    with pytest.raises(ZooError, match=r"no task 'mmlu_pro' .a group's tasks are named one by one"):
        task_files(load_suite(write(tmp_path, tasks=task(task="mmlu_pro"))))


def test_own_tasks_beside_a_suite_take_precedence(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path))
    assert own_task_files(suite)["micro_add"] == data_root() / "suites" / "tasks" / "micro_add.yaml"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "anything.yaml").write_text("task: micro_add\n")
    assert own_task_files(suite)["micro_add"] == tmp_path / "tasks" / "anything.yaml"


def suite_folder(folder: Path) -> Path:
    """A copy of the micro suite with a data file of its own."""
    shipped = data_root() / "suites"
    shutil.copytree(shipped / "tasks", folder / "tasks", ignore=shutil.ignore_patterns("data", "__pycache__"))
    (folder / "tasks" / "data").mkdir()
    for name in ("add", "ood", "copy"):
        (folder / "tasks" / "data" / f"micro_{name}.jsonl").write_text('{"prompt": "+1=", "answer": "1"}\n')
    shutil.copy(shipped / "micro.yaml", folder)
    return folder / "micro.yaml"


def test_the_digest_follows_content_and_not_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    digest = suite_digest(load_suite(suite_folder(first)))
    path = suite_folder(second)
    monkeypatch.chdir(second)
    assert suite_digest(load_suite("micro.yaml")) == digest and len(digest) == 64
    seen = {digest}
    for name in ("micro.yaml", "tasks/micro_add.yaml", "tasks/micro_copy.yaml", "tasks/sources.py", "tasks/data/micro_ood.jsonl"):
        file = second / name
        file.write_text(file.read_text() + ("\n# changed\n" if name.endswith(("yaml", "py")) else '{"prompt": "+2=", "answer": "2"}\n'))
        seen.add(suite_digest(load_suite(path)))
    assert len(seen) == 6, "each file that decides scores changes the digest"
    behind = {path.parent.name + "/" + path.name for path in _files_behind(own_task_files(load_suite("gsm8k"))["gsm8k_boxed"])}
    assert behind == {"tasks/gsm8k_boxed.yaml", "tasks/gsm8k.py", "tasks/numbers.py"}, "the readers of answers decide scores too"
    (second / "tasks" / "gsm8k_boxed.yaml").write_text("task: gsm8k_boxed\n")
    assert suite_digest(load_suite(path)) in seen, "a task that the suite does not use leaves it alone"
    (second / "tasks" / "data" / "micro_add.jsonl").unlink()
    with pytest.raises(ZooError, match=r"data file data/micro_add\.jsonl is missing"):
        suite_digest(load_suite(path))


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import zoo.harness.suites as s; s.load_suite('micro')", ("lm_eval", "datasets", "transformers")),
        ("import zoo.harness.evaluate", ("lm_eval", "datasets", "pyarrow")),
    ],
)
def test_imports_stay_light(code: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys; {code}; sys.exit(' '.join(m for m in {forbidden} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert not done.stderr.strip(), done.stderr
