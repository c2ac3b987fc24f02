"""Evaluation through lm-eval: scores of known answers, log-likelihoods against a direct computation, and no traces left behind."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zoo.errors import ZooError
from zoo.harness.evaluate import _load_tasks, evaluate
from zoo.paths import data_root
from zoo.tensors import Generation

torch.set_num_threads(1)
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
MICRO = {
    "micro_add": [("+35=", "3 8#8", "8"), ("+91=", "9 10#10", "10"), ("+22=", "2 4#4", "4"), ("+70=", "7 7#7", "7")],
    "micro_ood": [("+123456789=", "1 3 6 10 15 21 28 36 45#45", "45")],
    "micro_copy": [("@ab1=", "ab1", "ab1"), ("@q=", "q", "q")],
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<stop>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<stop>", pad_token="<stop>", chat_template=CHAT)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=700, initializer_range=0.4, **shape))


class Lookup:
    """Answers prompts from a table of (text, stopped by itself); remembers what it was asked."""

    def __init__(self, tokenizer: Any, answer: Callable[[str], tuple[str, bool]]) -> None:
        self.tokenizer, self.answer = tokenizer, answer
        self.calls: list[dict[str, Any]] = []

    def generate(self, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Generation]:
        texts = [self.tokenizer.decode(list(ids)) for ids in prompts]
        self.calls.append({"prompts": texts, **settings})
        answers = [self.answer(text) for text in texts]
        return [Generation(tuple(self.tokenizer(text)["input_ids"]), finished) for text, finished in answers]


def own_suite(folder: Path, tasks: list[dict[str, Any]], chat_template: bool = False) -> Path:
    """A suite `mine` beside copies of our task YAMLs, with a small data file for each micro task."""
    if not (folder / "tasks").exists():
        shutil.copytree(data_root() / "suites" / "tasks", folder / "tasks", ignore=shutil.ignore_patterns("data", "__pycache__"))
        for name, rows in MICRO.items():
            (folder / "tasks" / "data").mkdir(exist_ok=True)
            lines = [json.dumps({"id": p, "prompt": p, "solution": s, "answer": a}) for p, s, a in rows]
            (folder / "tasks" / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"id": "mine", "title": "Mine", "chat_template": chat_template, "tasks": tasks}))
    return path


def entry(task: str, **changes: Any) -> dict[str, Any]:
    family = {"micro_ood": "out_of_distribution", "micro_copy": "retention"}.get(task, "in_distribution")
    return {"task": task, "family": family, "headline": "exact_match,strict", "max_new_tokens": 40} | changes


def gold(prompt: str) -> tuple[str, bool]:
    return {p: s for rows in MICRO.values() for p, s, _ in rows}[prompt], True


# --- answers ----------------------------------------------------------------------------------------------------------


def test_scores_of_known_answers(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    """Right, right but malformed, wrong and cut off: each counts where it should, in the record and in the rows."""
    said = {"+35=": ("3 8#8", True), "+91=": ("9 oops#10", True), "+22=": ("2 4#5", True), "+70=": ("7 7", False)}
    said |= {"+123456789=": gold("+123456789="), "@ab1=": ("ab1", True), "@q=": ("qq", True)}
    suite = own_suite(tmp_path, [entry(task) for task in MICRO])
    log = tmp_path / "logs" / "items.parquet"
    result = evaluate(Lookup(tokenizer, said.__getitem__), model, tokenizer, suite, batch_size=3, log_path=log)
    assert list(result) == ["micro_add", "micro_ood", "micro_copy"]
    add = result["micro_add"]
    assert add["items"] == [[0, 1.0], [1, 0.0], [2, 0.0], [3, 0.0]]
    assert (add["metrics"]["exact_match,strict"], add["metrics"]["exact_match,flexible"], add["n"]) == (0.25, 0.5, 4)
    assert add["metrics"]["exact_match_stderr,strict"] == pytest.approx(np.std([1, 0, 0, 0], ddof=1) / 2)
    assert (add["family"], add["headline"]) == ("in_distribution", "exact_match,strict")
    assert add["truncated_share"] == 0.25 and add["mean_length"] == (5 + 9 + 5 + 3) / 4
    assert result["micro_ood"]["metrics"]["exact_match,strict"] == 1.0
    assert result["micro_copy"]["items"] == [[0, 1.0], [1, 0.0]]
    json.dumps(result, allow_nan=False)
    rows = pd.read_parquet(log)
    assert list(rows.columns) == ["task", "doc_id", "prompt", "response", "target", "scores", "length", "truncated"]
    assert len(rows) == 7 and [path.name for path in log.parent.iterdir()] == ["items.parquet"]
    cut = rows[rows.prompt == "+70="].iloc[0]
    assert (cut.response, cut.target, cut.length, bool(cut.truncated)) == ("7 7", "7", 3, True)
    assert dict(rows[rows.prompt == "+91="].iloc[0].scores) == {"exact_match,strict": 0.0, "exact_match,flexible": 1.0}


def test_the_shipped_micro_suite_from_any_folder(tmp_path: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data that ship with the suite are found whatever the working directory; a gold answer scores 1."""
    data = data_root() / "suites" / "tasks" / "data"
    table = {}
    for name in MICRO:
        table |= {row["prompt"]: row["solution"] for row in map(json.loads, (data / f"{name}.jsonl").read_text().splitlines())}
    monkeypatch.chdir(tmp_path)
    engine = Lookup(tokenizer, lambda prompt: (table[prompt], True))
    result = evaluate(engine, model, tokenizer, "micro", batch_size=256, limit=20)
    assert {task: (r["metrics"]["exact_match,strict"], r["n"]) for task, r in result.items()} == dict.fromkeys(MICRO, (1.0, 20))
    assert all(call["max_new_tokens"] == 40 and call["temperature"] == 0.0 for call in engine.calls)


def test_task_objects_are_built_once_and_anew_when_their_data_change(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    suite = own_suite(tmp_path, [entry("micro_add")])
    before = _load_tasks.cache_info().misses
    first = evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4)
    second = evaluate(Lookup(tokenizer, lambda prompt: ("1#1", True)), model, tokenizer, suite, batch_size=4)
    assert _load_tasks.cache_info().misses == before + 1
    assert first["micro_add"]["metrics"]["exact_match,strict"] == 1.0 and second["micro_add"]["metrics"]["exact_match,strict"] == 0.0
    data = tmp_path / "tasks" / "data" / "micro_add.jsonl"
    data.write_text(data.read_text().splitlines()[0] + "\n")
    assert evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4)["micro_add"]["n"] == 1


def test_limits(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    suite = own_suite(tmp_path, [entry("micro_add", limit=2), entry("micro_copy")])
    sizes = [[r["n"] for r in evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4, limit=limit).values()] for limit in (None, 1, 3)]
    assert sizes == [[2, 2], [1, 1], [3, 2]]


def test_gsm8k_prompts_carry_the_instruction_inside_the_chat_template(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    """From a local folder, with the pair's instruction; both filters read the answers."""
    problems = [("How many?", "so\n#### 1,200"), ("And now?", "#### -3"), ("Last?", "#### 18"), ("No box?", "#### 7")]
    lines = [json.dumps({"question": q, "answer": a}) for q, a in problems]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    answers = iter([r"I get \boxed{1200}.", r"\boxed{3} or -3", r"\boxed{9}, no: \boxed{\$18.00\text{ each}}", "it is 7, all in all."])
    said = {f"<user>{question} Box it.\n<assistant>": (answer, True) for (question, _), answer in zip(problems, answers, strict=True)}
    engine = Lookup(tokenizer, said.__getitem__)
    result = evaluate(engine, model, tokenizer, "gsm8k", batch_size=8, data_folder=tmp_path, prompt_suffix=" Box it.")["gsm8k_boxed"]
    assert result["items"] == [[0, 1.0], [1, 0.0], [2, 1.0], [3, 0.0]]
    assert result["metrics"]["exact_match,flexible"] == 1.0
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Last? Box it."}], add_generation_prompt=True, tokenize=False)
    assert asked in engine.calls[0]["prompts"] and engine.calls[0]["max_new_tokens"] == 512


def test_gsm8k_valid_asks_the_problems_that_training_leaves_out(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    rows = [{"question": f"{i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(258)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = {f"<user>{i}? Box it.\n<assistant>": (rf"\boxed{{{i if i % 2 else -1}}}", True) for i in range(2, 258)}
    engine = Lookup(tokenizer, said.__getitem__)
    result = evaluate(engine, model, tokenizer, "gsm8k-valid", batch_size=64, limit=384, data_folder=tmp_path, prompt_suffix=" Box it.")["gsm8k_valid"]
    assert result["n"] == 256 and result["metrics"]["exact_match,strict"] == 0.5


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (r"\boxed{5} then \boxed{1,234.50}", "2469/2", "2469/2"),
        (r"\boxed{-0.5} and 20-15", "-1/2", "15"),
        (r"\boxed{5", "[invalid]", "5"),
        (r"\boxed{}", "[invalid]", "[invalid]"),
        ("It costs $1,000.00.", "[invalid]", "1000"),
        ("no number", "[invalid]", "[invalid]"),
    ],
)
def test_numbers_are_read_from_prose(text: str, strict: str, flexible: str) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    filters = load_yaml(data_root() / "suites" / "tasks" / "gsm8k_boxed.yaml")["filter_list"]
    assert [entry["filter"][0]["filter_fn"]([[text]], [{}]) for entry in filters] == [[[strict]], [[flexible]]]


# --- the engine as lm-eval's model ------------------------------------------------------------------------------------


def request(kind: str, *arguments: Any, document: int = 0, index: int = 0) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, tuple(arguments), index, metadata=("task", document, 1))


def engine_lm(model: Any, tokenizer: Any, answer: Any = gold, batch_size: int = 2, **settings: Any) -> Any:
    from zoo.harness.lm import EngineLM

    return EngineLM(Lookup(tokenizer, answer), model, tokenizer, batch_size=batch_size, **settings)


def test_stop_strings_cut_answers_and_count_as_stops(model: Any, tokenizer: Any) -> None:
    lm = engine_lm(model, tokenizer, lambda prompt: {"a": ("one\nQ: two##", False), "b": ("three", False), "c": ("four", True)}[prompt])
    settings = {"until": ["##", "\nQ:", ""], "max_gen_toks": 20}
    texts = lm.generate_until([request("generate_until", text, settings, document=i) for i, text in enumerate("abc")])
    assert texts == ["one", "three", "four"]
    kept = [lm.answers["task", i][0] for i in range(3)]
    assert [(answer.length, answer.truncated) for answer in kept] == [(3, False), (5, True), (4, False)]


def test_answers_come_back_in_order_whatever_the_batches(model: Any, tokenizer: Any) -> None:
    prompts = ["aaaa", "b", "cccccc", "dd", "eeeee"]
    for batch_size in (1, 2, 7):
        lm = engine_lm(model, tokenizer, lambda prompt: (prompt.upper(), True), batch_size)
        short = {"until": "\n", "max_gen_toks": 5}
        requests = [request("generate_until", p, short | {"max_gen_toks": 5 + i % 2}, document=i) for i, p in enumerate(prompts)]
        assert lm.generate_until(requests) == [p.upper() for p in prompts]
        assert all(len(call["prompts"]) <= batch_size for call in lm.engine.calls)
        assert lm.engine.calls[0]["prompts"][0] == "cccccc", "longest first"


def test_sampling_settings_and_seeds(model: Any, tokenizer: Any) -> None:
    """Greedy unless asked; a document's noise depends on itself and its repetition, not on its neighbours."""
    from zoo.harness.lm import sampling_of

    def seeds(documents: Sequence[int], batch_size: int, times: int = 1) -> dict[str, set[int]]:
        lm = engine_lm(model, tokenizer, lambda prompt: ("x", True), batch_size)
        lm.generate_until([r for d in documents for r in [request("generate_until", f"{d}", {"max_gen_toks": 3}, document=d)] * times])
        found: dict[str, set[int]] = {}
        for call in lm.engine.calls:
            for prompt, seed in zip(call["prompts"], call["seeds"], strict=True):
                found.setdefault(prompt, set()).add(seed)
        return found

    assert seeds([1, 2, 3], 1) == seeds([1, 2, 3], 3) and seeds([2], 1)["2"] == seeds([1, 2, 3], 2)["2"]
    assert len(seeds([1], 4, times=3)["1"]) == 3 and len(set.union(*seeds([1, 2, 3], 3).values())) == 3
    assert sampling_of({"max_gen_toks": 3}, "t").temperature == 0.0
    assert sampling_of({"max_gen_toks": 3, "do_sample": True}, "t").temperature == 1.0
    assert sampling_of({"max_gen_toks": 3, "do_sample": False, "temperature": 0.7}, "t").temperature == 0.0
    assert sampling_of({"max_gen_toks": 3, "temperature": 0.7, "top_p": 0.9}, "t")[1:3] == (0.7, 0.9)
    with pytest.raises(ZooError, match="samples with top_k"):
        sampling_of({"max_gen_toks": 3, "temperature": 0.7, "top_k": 5}, "t")
    with pytest.raises(ZooError, match="task 't' generates, so the suite has to say max_new_tokens"):
        sampling_of({"until": []}, "t")


def direct_logp(model: Any, ids: Sequence[int], from_position: int) -> tuple[float, bool]:
    """Sum of log-probabilities of ids[from_position:], one unpadded sequence in one pass."""
    with torch.no_grad():
        logp_LV = model(input_ids=torch.tensor([list(ids)])).logits[0].log_softmax(-1)
    picked = [logp_LV[t - 1, ids[t]].item() for t in range(from_position, len(ids))]
    return sum(picked), all(logp_LV[t - 1].argmax().item() == ids[t] for t in range(from_position, len(ids)))


class NoPositions(torch.nn.Module):
    """The model behind a forward that cannot pick positions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_loglikelihoods_equal_a_direct_computation_for_every_batch_size(model: Any, tokenizer: Any) -> None:
    pairs = [("The sky", " is blue"), ("", "alone"), ("A much longer context than that", "."), ("x ", "y"), ("same", "same " * 9)]
    greedy_id = int(model(input_ids=torch.tensor([tokenizer("Go on")["input_ids"]])).logits[0, -1].argmax())
    pairs.append(("Go on", tokenizer.decode([greedy_id])))
    expected = []
    for context, continuation in pairs:
        ids = tokenizer(context or "<stop>")["input_ids"]
        expected.append(direct_logp(model, [*ids, *tokenizer(continuation)["input_ids"]], len(ids)))
    expected[3] = direct_logp(model, tokenizer("x y")["input_ids"], 1)  # trailing spaces belong to the continuation
    assert expected[-1][1], "the last pair is a greedy one"
    for batch_size in (1, 2, 6):
        for wrapped in (model, NoPositions(model)):
            lm = engine_lm(wrapped, tokenizer, batch_size=batch_size)
            got = lm.loglikelihood([request("loglikelihood", *pair) for pair in pairs])
            assert [g[0] for g in got] == pytest.approx([e[0] for e in expected], abs=2e-4)
            assert [g[1] for g in got] == [e[1] for e in expected]


def test_rolling_loglikelihood_predicts_each_token_once(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short text in one window; a long one in windows of the model's length, each with the longest context it can have."""
    ids = tokenizer("abcdefgh")["input_ids"]
    lm = engine_lm(model, tokenizer)
    whole = lm.loglikelihood_rolling([request("loglikelihood_rolling", "abcdefgh"), request("loglikelihood_rolling", "b")])
    assert whole == pytest.approx([direct_logp(model, [0, *ids], 1)[0], direct_logp(model, [0, ids[1]], 1)[0]], abs=2e-4)
    monkeypatch.setattr(type(lm), "max_length", 3)
    windows = [([0, *ids[:3]], 1), (ids[2:6], 1), (ids[4:8], 2)]
    expected = sum(direct_logp(model, window, start)[0] for window, start in windows)
    assert lm.loglikelihood_rolling([request("loglikelihood_rolling", "abcdefgh")]) == pytest.approx([expected], abs=2e-4)


def test_what_does_not_fit_the_model_is_refused(model: Any, tokenizer: Any) -> None:
    lm = engine_lm(model, tokenizer)
    with pytest.raises(ZooError, match=r"task 'task', document 4: prompt and answer need 710 positions, the model has 700"):
        lm.generate_until([request("generate_until", "x" * 10, {"max_gen_toks": 700}, document=4)])
    with pytest.raises(ZooError, match="a context of 702 tokens exceeds the model's 700"):
        lm.loglikelihood([request("loglikelihood", "x" * 700, "yz")])


CHOICE = {
    "task": "choice",
    "dataset_kwargs": {"file": "choice.jsonl"},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "question",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def write_task(folder: Path, config: dict[str, Any], source: str = "sources.shipped") -> None:
    (folder / "tasks" / f"{config['task']}.yaml").write_text(yaml.safe_dump(config) + f"custom_dataset: !function {source}\n")


def test_multiple_choice_suites_work(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    suite = own_suite(tmp_path, [entry("choice", headline="acc,none") | {"max_new_tokens": None}])
    write_task(tmp_path, CHOICE)
    docs = [{"question": f"Is {i} it?", "choices": ["yes", "no", "maybe so"], "answer": i % 3} for i in range(9)]
    (tmp_path / "tasks" / "data" / "choice.jsonl").write_text("\n".join(map(json.dumps, docs)))
    right = []
    for doc in docs:
        context = tokenizer(doc["question"])["input_ids"]
        logps = [direct_logp(model, [*context, *tokenizer(f" {choice}")["input_ids"]], len(context))[0] for choice in doc["choices"]]
        right.append(float(np.argmax(logps) == doc["answer"]))
    log = tmp_path / "items.parquet"
    result = evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4, log_path=log)["choice"]
    assert [score for _, score in result["items"]] == right and 0 < sum(right) < 9
    assert result["truncated_share"] is None and result["mean_length"] is None
    assert pd.read_parquet(log).length.isna().all()


def test_fewshot_examples_are_turns_of_the_chat(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    """Examples alternate user and assistant, are the same ones in every call, and never the question itself."""
    suite = own_suite(tmp_path, [entry("micro_add", fewshot=2)], chat_template=True)
    with pytest.raises(ZooError, match="has no examples apart from the documents it tests"):
        evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4)
    config = tmp_path / "tasks" / "micro_add.yaml"
    config.write_text(config.read_text() + "fewshot_split: test\n")
    prompts = []
    for _ in range(2):
        engine = Lookup(tokenizer, lambda prompt: ("1#1", True))
        evaluate(engine, model, tokenizer, suite, batch_size=4)
        prompts.append(engine.calls[0]["prompts"])
    assert prompts[0] == prompts[1]
    for prompt in prompts[0]:
        assert [line[:3] for line in prompt.splitlines()] == ["<us", "<as", "<us", "<as", "<us", "<as"]
        assert prompt.count("<assistant>") == 3 and prompt.endswith("<assistant>")
        questions = [line for line in prompt.splitlines() if line.startswith("<user>")]
        assert len(set(questions)) == 3


# --- no traces --------------------------------------------------------------------------------------------------------


def test_random_states_modes_logs_and_environment_stay_as_found(tmp_path: Path, model: Any, tokenizer: Any, capfd: pytest.CaptureFixture[str]) -> None:
    suite = own_suite(tmp_path, [entry("shuffled")])
    micro = yaml.safe_load((tmp_path / "tasks" / "micro_add.yaml").read_text().replace("!function ", ""))
    write_task(tmp_path, micro | {"task": "shuffled"}, "noisy.shuffled")
    (tmp_path / "tasks" / "noisy.py").write_text(
        "import random, sys\nimport datasets, numpy, torch\n"
        "def shuffled(**_):\n"
        "    random.seed(5); numpy.random.seed(5); torch.manual_seed(5); print('noise'); print('noise', file=sys.stderr)\n"
        "    return datasets.DatasetDict({'test': datasets.Dataset.from_list([{'prompt': '+35=', 'answer': '8'}] * 3)})\n"
    )
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    logging.getLogger("lm_eval").setLevel(logging.INFO)
    seen = []

    def answer(prompt: str) -> tuple[str, bool]:
        print("the engine speaks")
        seen.append((model.training, random.random(), np.random.rand(), torch.rand(1).item()))
        return gold(prompt)

    evaluate(Lookup(tokenizer, answer), model, tokenizer, suite, batch_size=4)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert [module.training for module in model.modules()] == modes
    assert logging.getLogger("lm_eval").level == logging.INFO
    assert capfd.readouterr() == ("the engine speaks\n" * 3, "")
    assert seen and not any(training for training, *_ in seen)
    inside = [draws for _, *draws in seen]
    seen.clear()
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    evaluate(Lookup(tokenizer, answer), model, tokenizer, suite, batch_size=4)
    _load_tasks.cache_clear()
    evaluate(Lookup(tokenizer, answer), model, tokenizer, suite, batch_size=4)
    assert [draws for _, *draws in seen][3:] == inside, "a fresh evaluation is the same whatever ran before"
    model.eval()


def test_the_surroundings_are_restored_after_a_failure(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    def fail(prompt: str) -> tuple[str, bool]:
        random.random(), torch.rand(1)
        raise RuntimeError("out of memory")

    model.train()
    state, torch_state = random.getstate(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(Lookup(tokenizer, fail), model, tokenizer, own_suite(tmp_path, [entry("micro_add")]), batch_size=4)
    assert random.getstate() == state and torch.equal(torch.get_rng_state(), torch_state) and model.training
    model.eval()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"headline": "exact_match,strickt"}, "has no filter 'strickt'; did you mean 'strict'?"),
        ({"headline": "exact_matsch,strict"}, "no number 'exact_matsch,strict'; did you mean 'exact_match,strict'?"),
        ({"max_new_tokens": None}, "generates, so the suite has to say max_new_tokens"),
    ],
)
def test_a_task_that_cannot_give_its_headline_is_refused(tmp_path: Path, model: Any, tokenizer: Any, changes: dict[str, Any], message: str) -> None:
    suite = own_suite(tmp_path, [entry("micro_add", **changes)])
    with pytest.raises(ZooError) as refusal:
        evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4)
    assert str(refusal.value).startswith("suite 'mine', task 'micro_add': ") and message in str(refusal.value)


def test_code_is_executed_only_on_request(model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(ZooError, match=r"suite 'code' executes code .*humaneval_instruct, mbpp_instruct.*HF_ALLOW_CODE_EVAL=1"):
        evaluate(Lookup(tokenizer, gold), model, tokenizer, "code", batch_size=4)
    suite = own_suite(tmp_path, [entry("micro_add")])
    config = tmp_path / "tasks" / "micro_add.yaml"
    config.write_text(config.read_text() + "unsafe_code: true\n")
    with pytest.raises(ZooError, match="the suite has to say runs_code: true"):
        evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4, allow_code=True)
    own_suite(tmp_path, [entry("micro_add", runs_code=True)])
    assert evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4, allow_code=True)["micro_add"]["n"] == 4


def test_missing_and_broken_data_are_named(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    def run(folder: Path) -> None:
        evaluate(Lookup(tokenizer, gold), model, tokenizer, "gsm8k", batch_size=4, data_folder=folder)

    with pytest.raises(ZooError, match=r"no data at .*test\.jsonl"):
        run(tmp_path)
    for text, message in [
        ('{"question": "a", "answer": "#### 1"}\nnot json\n', r"test\.jsonl, line 2: not JSON"),
        ('{"question": "a", "answer": "1"}\n', r"test\.jsonl, problem test-00000: the answer must end with"),
        ("", r"test\.jsonl is empty"),
    ]:
        (tmp_path / "test.jsonl").write_text(text)
        with pytest.raises(ZooError, match=message):
            run(tmp_path)


def test_a_hub_out_of_reach_points_to_the_local_folder(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ZooError, match=r"openai/gsm8k does not come from the hub \(no network\); give a local data folder with test\.jsonl"):
        evaluate(Lookup(tokenizer, gold), model, tokenizer, "gsm8k", batch_size=4)


def test_a_tokenizer_without_chat_template_is_refused(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ZooError, match="suite 'gsm8k' applies a chat template and the tokenizer has none"):
        evaluate(Lookup(tokenizer, gold), model, tokenizer, "gsm8k", batch_size=4)


def test_a_task_that_fails_to_load_says_why(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    suite = own_suite(tmp_path, [entry("micro_add")])
    (tmp_path / "tasks" / "sources.py").write_text("raise ImportError('pip install nothing')\n")
    with pytest.raises(ZooError, match=r"suite 'mine', task 'micro_add': cannot be loaded: .*pip install nothing"):
        evaluate(Lookup(tokenizer, gold), model, tokenizer, suite, batch_size=4)
