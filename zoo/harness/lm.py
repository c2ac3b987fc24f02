"""The model under training as lm-eval sees it: answers come from our decoding engine, log-likelihoods from its forward pass.

Importing this module imports lm-eval, which takes seconds; import it where an evaluation starts.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.errors import ZooError
from zoo.tensors import Generation

_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class TextEngine(Protocol):
    """What writes the answers: `zoo.harness.decode.Decoder` or anything with its `generate`."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]: ...


class Sampling(NamedTuple):
    """How one answer is drawn; requests that agree in it are decoded together."""

    max_new_tokens: int
    temperature: float
    top_p: float
    until: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """One decoded answer: its text up to the first stop string, its tokens, and whether the limit cut it off."""

    text: str
    length: int
    truncated: bool


class EngineLM(TemplateLM):
    """An in-memory causal model for lm-eval, decoded by `engine` in batches of `batch_size`.

    `answers` keeps every answer under (task, document) in the order in which they were asked for. With `chat` the
    prompts come out of the chat template, which writes the special tokens itself.
    """

    def __init__(self, engine: TextEngine, model: Any, tokenizer: Any, *, batch_size: int, chat: bool = False) -> None:
        super().__init__()
        self.engine, self.model, self.tokenizer = engine, model, tokenizer
        self.batch_size, self.chat = batch_size, chat
        self.answers: dict[tuple[str, int], list[Answer]] = defaultdict(list)
        self._device = next(model.parameters()).device
        self._picks_positions = "logits_to_keep" in inspect.signature(model.forward).parameters

    # --- tokens and templates ---

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self.tokenizer.bos_token_id is None else int(self.tokenizer.bos_token_id)

    @property
    def max_length(self) -> int:
        """Positions the model was built for; a generous number where its config does not say."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**20)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text; the tokenizer's own special tokens are added unless the text already holds them."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (self.chat or (bos and string.startswith(bos)))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    # --- answers ---

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer per request, in order. Each has its own noise, seeded by task, document and repetition."""
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        samplings = [sampling_of(request.args[1], str(request.task_name)) for request in requests]
        for request, prompt, sampling in zip(requests, prompts, samplings, strict=True):
            self._check_length(request, len(prompt) + sampling.max_new_tokens)
        seeds = _seeds(requests)
        answers: list[Answer | None] = [None] * len(requests)
        for sampling in dict.fromkeys(samplings):
            rows = [row for row, own in enumerate(samplings) if own == sampling]
            for batch in self._batches(rows, [len(prompts[row]) for row in rows]):
                written = self.engine.generate(
                    [prompts[row] for row in batch],
                    max_new_tokens=sampling.max_new_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seeds=[seeds[row] for row in batch],
                )
                for row, generation in zip(batch, written, strict=True):
                    answers[row] = self._answer(generation, sampling.until)
        done = [answer for answer in answers if answer is not None]
        for request, answer in zip(requests, done, strict=True):
            self.answers[str(request.task_name), int(request.doc_id)].append(answer)
        return [answer.text for answer in done]

    def _answer(self, generation: Generation, until: Sequence[str]) -> Answer:
        text = self.tokenizer.decode(list(generation.ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cuts = [at for stop in until if stop and (at := text.find(stop)) >= 0]
        if not cuts:
            return Answer(text, len(generation.ids), not generation.finished)
        kept = text[: min(cuts)]
        return Answer(kept, len(self.tokenizer(kept, add_special_tokens=False)["input_ids"]), False)

    def _check_length(self, request: Instance, length: int) -> None:
        if length > self.max_length:
            raise ZooError(
                f"task '{request.task_name}', document {request.doc_id}: prompt and answer need {length} positions, the model has "
                f"{self.max_length}; lower max_new_tokens or fewshot in the suite"
            )

    # --- log-likelihoods ---

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token predicted once, long texts in windows of the model's length."""
        windows, owners = [], []
        for row, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            for pair in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((("", request.args[0]), *make_disjoint_window(pair)))
                owners.append(row)
        totals = [0.0] * len(requests)
        for owner, (logp, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logp
        return totals

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, is it the greedy one) per (texts, context ids, continuation ids)."""
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        rows = [row for row, (_, _, continuation) in enumerate(requests) if continuation]
        lengths = [len(requests[row][1]) + len(requests[row][2]) for row in rows]
        if lengths and max(lengths) > self.max_length + 1:
            raise ZooError(f"a context of {max(lengths)} tokens exceeds the model's {self.max_length}; lower fewshot in the suite")
        for batch in self._batches(rows, lengths):
            scored = self._score([(requests[row][1], requests[row][2]) for row in batch])
            for row, result in zip(batch, scored, strict=True):
                results[row] = result
        return results

    @torch.no_grad()
    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        """One forward pass, padded on the right, the head only where some row has a continuation token to predict."""
        inputs = [torch.tensor([*context, *continuation][:-1], device=self._device) for context, continuation in pairs]
        ids_BL = pad_sequence(inputs, batch_first=True, padding_value=self.eot_token_id)
        lengths_B = torch.tensor([len(row) for row in inputs], device=self._device)
        mask_BL = (torch.arange(ids_BL.shape[1], device=self._device) < lengths_B[:, None]).long()
        spans = [range(len(context) - 1, len(context) + len(continuation) - 1) for context, continuation in pairs]
        positions_P = torch.tensor(sorted(set().union(*spans)), device=self._device)
        logits_BPV = self._logits(ids_BL, mask_BL, positions_P)
        for row, (span, (_, continuation)) in enumerate(zip(spans, pairs, strict=True)):
            at_T = torch.searchsorted(positions_P, torch.tensor(list(span), device=self._device))
            logp_TV = logits_BPV[row, at_T].float().log_softmax(-1)
            target_T = torch.tensor(continuation, device=self._device)
            logp = logp_TV.gather(-1, target_T[:, None]).sum()
            yield float(logp), bool((logp_TV.argmax(-1) == target_T).all())

    def _logits(self, ids_BL: Tensor, mask_BL: Tensor, positions_P: Tensor) -> Tensor:
        if self._picks_positions:
            kept = self.model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False, logits_to_keep=positions_P)
            return kept.logits  # type: ignore[no-any-return]
        return self.model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits[:, positions_P]  # type: ignore[no-any-return]

    def _batches(self, rows: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """The rows in batches, longest first: like lengths together, and memory runs out at once or not at all."""
        order = [row for _, row in sorted(zip(lengths, rows, strict=True), key=lambda pair: (-pair[0], pair[1]))]
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]


def sampling_of(settings: Mapping[str, Any], task: str) -> Sampling:
    """lm-eval's generation settings in our terms: greedy unless `do_sample` or a positive temperature asks otherwise."""
    temperature = float(settings.get("temperature", 1.0 if settings.get("do_sample") else 0.0))
    if settings.get("do_sample") is False:
        temperature = 0.0
    if temperature > 0 and int(settings.get("top_k") or 0) > 0:
        raise ZooError(f"task '{task}' samples with top_k, which the decoding engine does not offer; use top_p")
    limit = next((int(settings[name]) for name in _LENGTH_NAMES if settings.get(name)), None)
    if limit is None:
        raise ZooError(f"task '{task}' generates, so the suite has to say max_new_tokens")
    until = settings.get("until") or ()
    return Sampling(limit, temperature, float(settings.get("top_p") or 1.0), (until,) if isinstance(until, str) else tuple(until))


def _seeds(requests: Sequence[Instance]) -> list[int]:
    """A seed per request from task, document, index and repetition, the same whatever else is evaluated beside it."""
    repetitions: Counter[tuple[str, int, int]] = Counter()
    seeds = []
    for request in requests:
        name = (str(request.task_name), int(request.doc_id), int(request.idx))
        digest = hashlib.sha256("/".join(map(str, (*name, repetitions[name]))).encode()).digest()
        seeds.append(int.from_bytes(digest[:8], "big") >> 1)
        repetitions[name] += 1
    return seeds
