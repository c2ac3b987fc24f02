"""Columns about texts that go on otherwise than the written one: what a teacher says behind other tokens, and what models would write next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.components.alignments.spans import edit_distance
from zoo.components.gates.ahead import transport_cost
from zoo.components.rewards.ahead import OneAhead, candidates, standing, sureness
from zoo.components.rollouts import Student, Teacher
from zoo.components.weights.ahead import Resemblance
from zoo.errors import ZooError
from zoo.harness.bank import Bank
from zoo.harness.decode import by_length
from zoo.harness.writers import Writers
from zoo.method import Method
from zoo.seeds import seed_for, uniforms
from zoo.statistics import Explored, TokenContext
from zoo.tensors import Rollout

WINDOWS = 256  # how many are written at once


@torch.no_grad()
def explored(method: Method, bank: Bank, stream: str, context: TokenContext, hidden: Mapping[str, Any]) -> TokenContext:
    """The context with these columns too, from all others, and hidden states (N, H) by scorer."""
    columns = dict(context.columns)
    for statistic in method.statistics(stream):
        if not isinstance(statistic, Explored):
            continue
        at_BT, heard_BT = statistic.within.keep(context, None) & context.mask_BT, context.heard_BT((statistic.teacher,))
        at_BT = at_BT if heard_BT is None else at_BT & heard_BT
        value_U = torch.zeros(0, device=at_BT.device)
        if bool(at_BT.any()):
            if isinstance(statistic, OneAhead):
                value_U = _one_ahead(bank, statistic, context.rollout, at_BT, hidden)
            else:
                value_U = (resembling if isinstance(statistic, Resemblance) else _futures)(bank, statistic, context.rollout, at_BT)
        columns[statistic] = torch.zeros(at_BT.shape, dtype=value_U.dtype, device=at_BT.device).masked_scatter(at_BT, value_U)
    return replace(context, columns=columns)


def _logp(bank: Bank, scorer: str, states_NH: Tensor) -> Tensor:
    """A scorer's normalised log-probabilities over the shared vocabulary, fp32 at least."""
    with bank.precision():
        logits_NV = bank.head(scorer)(states_NH[:, : bank.width(scorer)])[:, : bank.pair.vocab_size]
    return (logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()).log_softmax(-1)


@dataclass(frozen=True)
class Tree:
    """A text and its branches: `ids` of both; of each branching state, where the token behind it stands; and K other tokens for it."""

    ids: list[int]
    places: list[int]
    others: list[list[int]]

    @property
    def row(self) -> list[int]:
        """Everything as one row: the text, then the branches of one state after the other."""
        return [*self.ids, *(token for each in self.others for token in each)]

    def seen(self, size: int) -> tuple[Tensor, Tensor]:
        """Which place of a row of `size` sees which, (L, L), and the position of each place in its own text, (L,). Padding sees itself."""
        see_LL, position_L = torch.eye(size, dtype=torch.bool), torch.zeros(size, dtype=torch.long)
        text = len(self.ids)
        see_LL[:text, :text] = torch.ones(text, text, dtype=torch.bool).tril()
        position_L[:text] = torch.arange(text)
        at = text
        for place, tokens in zip(self.places, self.others, strict=True):
            see_LL[at : at + len(tokens), :place] = True
            position_L[at : at + len(tokens)] = place
            at += len(tokens)
        return see_LL, position_L


def tree_states(model: Any, trees: Sequence[Tree], pad_id: int) -> list[tuple[Tensor, Tensor]]:
    """For each tree the last hidden states behind the written tokens (U, H) and behind the others (U, K, H), by one pass over all of them.

    Raises:
        ZooError: a layer of the model attends to a window only.
    """
    config, device = model.config.get_text_config(decoder=True), next(model.parameters()).device
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise ZooError(f"branches are read in one pass, which needs full attention in every layer; a {config.model_type} model has others")
    size = max(len(tree.row) for tree in trees)
    seen = [tree.seen(size) for tree in trees]
    see_B1LL = torch.stack([see for see, _ in seen])[:, None].to(device)
    if config._attn_implementation != "sdpa":
        see_B1LL = torch.where(see_B1LL, 0.0, torch.finfo(model.dtype).min).to(model.dtype)
    ids_BL = torch.tensor([tree.row + [pad_id] * (size - len(tree.row)) for tree in trees], device=device)
    positions_BL = torch.stack([position for _, position in seen]).to(device)
    found = model.base_model(input_ids=ids_BL, attention_mask=see_B1LL, position_ids=positions_BL, use_cache=False).last_hidden_state
    states = []
    for row_LH, tree in zip(found, trees, strict=True):
        behind_MH = row_LH[len(tree.ids) : len(tree.row)]
        states.append((row_LH[torch.tensor(tree.places, device=device)], behind_MH.unflatten(0, (len(tree.places), -1))))
    return states


def _trees(bank: Bank, teacher: str, rollout: Rollout, at_BT: Tensor, other_UK: Tensor) -> list[Tree]:
    """The texts with a branching state, each with its branches."""
    prompts, count_B = bank.prompts(teacher, rollout), at_BT.sum(1).tolist()
    written, others, trees = rollout.written_BT.sum(1).tolist(), other_UK.tolist(), []
    for row, (prompt, ids, count) in enumerate(zip(prompts, rollout.response_BT.tolist(), count_B, strict=True)):
        mine, others = others[:count], others[count:]
        if count:
            places = [len(prompt) + t for t in at_BT[row].nonzero()[:, 0].tolist()]
            trees.append(Tree([*prompt, *ids[: written[row]]], places, mine))
    return trees


def _one_ahead(bank: Bank, statistic: Any, rollout: Rollout, at_BT: Tensor, hidden: Mapping[str, Any]) -> Tensor:
    """The column at the tokens `at_BT`, in the order of the flattened mask."""
    place_N, stops = at_BT[rollout.mask_BT], bank.pair.stop_ids
    chosen = [candidates(_logp(bank, "student", h), stops, statistic.k) for h in hidden["student"][place_N].split(bank.chunk_tokens)]
    trees = _trees(bank, statistic.teacher, rollout, at_BT, torch.cat(chosen))
    found: dict[int, Tensor] = {}
    for group in _groups([len(tree.row) for tree in trees], bank.micro_tokens):
        with bank.precision():
            states = tree_states(bank.models[bank.keys[statistic.teacher].weights], [trees[i] for i in group], bank.pair.pad_id)
        for i, (written_UH, other_UKH) in zip(group, states, strict=True):
            sure_UK = _sure(bank, statistic, other_UKH.flatten(0, 1)).view(other_UKH.shape[:2])
            found[i] = standing(_sure(bank, statistic, written_UH), sure_UK, statistic.epsilon)
    prompts = bank.prompts(statistic.teacher, rollout)
    bank.charge(statistic.teacher, sum(len(tree.row) for tree in trees) - sum(len(prompts[i]) for i in at_BT.any(1).nonzero()[:, 0].tolist()))
    value_U = torch.cat([found[i] for i in range(len(trees))])
    return value_U.masked_fill(torch.isin(rollout.response_BT[at_BT], torch.tensor(stops, device=at_BT.device)), 0.0)


def _sure(bank: Bank, statistic: OneAhead, states_NH: Tensor) -> Tensor:
    """How sure the teacher is in each state, (N,)."""
    return torch.cat([sureness(_logp(bank, statistic.teacher, h), statistic.by) for h in states_NH.split(bank.chunk_tokens)])


def _groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Places in groups of like size whose padded size stays within `most`, one at least."""
    groups: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if groups and (len(groups[-1]) + 1) * sizes[groups[-1][0]] <= most:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _futures(bank: Bank, statistic: Any, rollout: Rollout, at_BT: Tensor) -> Tensor:
    """The column at the tokens `at_BT`: both models write, and their windows are compared."""
    windows = [_window(bank, name, rollout, at_BT, statistic.window) for name in (statistic.teacher, "student")]
    table = bank.models[bank.keys[statistic.teacher].weights].get_input_embeddings().weight
    found = []
    for chunk in torch.arange(len(windows[0][0])).split(max(bank.micro_tokens // statistic.window, 1)):
        (one_UM, there_UM), (two_UN, also_UN) = ((ids_UT[chunk], mask_UT[chunk]) for ids_UT, mask_UT in windows)
        one_UMH, two_UNH = (F.normalize(table[ids.to(table.device)].double(), dim=-1) for ids in (one_UM, two_UN))
        found.append(transport_cost(1.0 - one_UMH @ two_UNH.mT, there_UM.to(table.device), also_UN.to(table.device)))
    return torch.cat(found).to(at_BT.device)


def _window(bank: Bank, name: str, rollout: Rollout, at_BT: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """What one model writes from each of the states, greedily: ids and which of them count, (U, length), on the CPU. A stop token counts."""
    before, rows = bank.prompts(name, rollout), rollout.response_BT.tolist()
    heads = [[*before[b], *rows[b][:t]] for b, t in at_BT.nonzero().tolist()]
    stream = Student(temperature=0.0) if name == "student" else Teacher(teacher=name, temperature=0.0)
    writers = writers_of(bank)
    ids_UT, mask_UT = torch.zeros(len(heads), length, dtype=torch.long), torch.zeros(len(heads), length, dtype=torch.bool)
    for chunk in by_length(heads, writers.batch(stream)):
        drawn_TUB = torch.zeros(length, 1, len(chunk), dtype=torch.float64)
        written = writers.write(stream, {name: [heads[i] for i in chunk]}, drawn_TUB, score_student=False)
        width = written.mask_BT.shape[1]
        ids_UT[chunk, :width], mask_UT[chunk, :width] = written.response_BT.cpu(), written.mask_BT.cpu()
    bank.explored_tokens += int(mask_UT.sum())
    bank.explored[bank.keys[name].weights] += int(mask_UT.sum())
    return ids_UT, mask_UT


def resembling(bank: Bank, statistic: Any, rollout: Rollout, at_BT: Tensor) -> Tensor:
    """How like each of the chunks that begin at `at_BT` are texts that the teacher samples in its place, (U,). Noise is seeded by what stands before."""
    name, size = statistic.teacher, statistic.size
    if name in bank.endpoints:
        raise ZooError(f"teachers.{name}: a chunk's likeness is measured on texts of a model of the pair; give the pair one of that name")
    before, rows, mask = bank.prompts(name, rollout), rollout.response_BT.tolist(), rollout.mask_BT.tolist()
    heads, chunks, seeds = list[list[int]](), list[bytes](), list[int]()
    for b, t in at_BT.nonzero().tolist():
        own = [token for token, m in zip(rows[b][t:], mask[b][t:], strict=True) if m][:size]
        chunks.append(bank.judge.text(own).encode())
        heads.append([*before[b], *rows[b][:t]])
        seeds.append(seed_for("resemblance", rollout.prompts[b].id, rollout.version, *rows[b][:t]))
    stream, writers, found = Teacher(teacher=name, temperature=1.0), writers_of(bank), torch.zeros(len(heads), dtype=torch.float64)
    for chunk in by_length(heads, writers.batch(stream)):
        for sample in range(statistic.samples):
            drawn_TUB = uniforms([seeds[i] for i in chunk], size, stream=sample).T[:, None]
            written = writers.write(stream, {name: [heads[i] for i in chunk]}, drawn_TUB, score_student=False)
            for i, ids, mask_T in zip(chunk, written.response_BT.tolist(), written.mask_BT.tolist(), strict=True):
                text = bank.judge.text([token for token, m in zip(ids, mask_T, strict=True) if m]).encode()
                found[i] += 1.0 - edit_distance(chunks[i], text) / max(len(chunks[i]), len(text), 1)
            tokens = int(written.mask_BT.sum())
            bank.explored_tokens += tokens
            bank.explored[bank.keys[name].weights] += tokens
    return found.to(at_BT.device)


def writers_of(bank: Bank) -> Writers:
    """The decoders of a bank's models by scorer, kept between steps."""
    if bank.writers is None:
        pair, named = bank.pair, {name: bank.models[key.weights] for name, key in bank.keys.items() if key.weights in bank.models}
        bank.writers = Writers(named, pad_id=pair.pad_id, stop_ids=pair.stop_ids, vocab_size=pair.vocab_size, max_batch=WINDOWS, native=False)
    return bank.writers  # type: ignore[no-any-return]
