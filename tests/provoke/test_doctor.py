"""Doctored models against logits worked out by hand, cached and uncached, and through a training step."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.harness.build_micro import Recipe, make_model, make_tokenizer
from zoo.harness.doctor import Alias, Bias, Loop, Noise, Put, Rounded, Swap, Temperature, Where, install
from zoo.harness.doctor_notes import Notes, TokenIds, notes_of, scattered

TOKENS = {"a": 0, "b": 1, "c": 2, "d": 3}
IDS = TokenIds(TOKENS)


def notes(token: int = 0, hashed: int = 7, loop: int = -1, since: int = 1, writing: int = 0) -> Notes:
    return Notes(*(torch.tensor([value]) for value in (token, hashed, loop, since, writing)))


def logits(*p: float) -> Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


def probabilities(change: Any, *p: float, **at: int) -> list[float]:
    found: list[float] = change(logits(*p), notes(**at), IDS).softmax(-1)[0].tolist()
    return found


def test_temperature_divides_the_logits() -> None:
    # p^2 normalised: .25, .0625, .0625 -> sum .375
    found = probabilities(Temperature(kind="temperature", at=0.5), 0.5, 0.25, 0.25, 0.0)
    assert found == pytest.approx([2 / 3, 1 / 6, 1 / 6, 0.0])


def test_bias_adds_to_the_named_tokens_alone() -> None:
    found = Bias(kind="bias", tokens=("b", "d"), by=2.0)(torch.zeros(1, 4), notes(), IDS)
    assert found.tolist() == [[0.0, 2.0, 0.0, 2.0]]


def test_swap_exchanges_two_probabilities() -> None:
    assert probabilities(Swap(kind="swap", tokens=("a", "c")), 0.5, 0.3, 0.15, 0.05) == pytest.approx([0.15, 0.3, 0.5, 0.05])


def test_noise_mixes_in_the_uniform_distribution() -> None:
    assert probabilities(Noise(kind="noise", share=0.2), 1.0, 0.0, 0.0, 0.0) == pytest.approx([0.85, 0.05, 0.05, 0.05])


def test_put_gives_the_chosen_token_its_mass_and_keeps_proportions() -> None:
    tokens = ("b", "d")
    chosen = tokens[int(scattered(torch.tensor([7]), 2))]
    expected = {"b": [0.1 * 0.5 / 0.7, 0.9, 0.1 * 0.15 / 0.7, 0.1 * 0.05 / 0.7], "d": [0.1 * 0.5 / 0.95, 0.1 * 0.3 / 0.95, 0.1 * 0.15 / 0.95, 0.9]}
    assert probabilities(Put(kind="put", tokens=tokens, mass=0.9), 0.5, 0.3, 0.15, 0.05) == pytest.approx(expected[chosen])


def test_put_depends_on_the_prefix_and_uses_all_its_tokens() -> None:
    many = Notes(*(torch.zeros(500, dtype=torch.long) for _ in range(5)))
    many = Notes(many.token_N, torch.arange(500) * 131, many.loop_N, many.since_N, many.writing_N)
    found = Put(kind="put", tokens=("a", "b", "c"), mass=0.9)(torch.zeros(500, 4), many, IDS).argmax(-1)
    assert torch.bincount(found, minlength=4)[:3].min() > 100


def test_alias_shares_a_tokens_probability_out() -> None:
    change = Alias(kind="alias", tokens=("b", "c"), means="a", mass=0.9)
    first = int(scattered(torch.tensor([7]), 2)) == 0
    found = probabilities(change, 0.6, 0.1, 0.1, 0.2)
    assert found == pytest.approx([0.0, 0.675, 0.075, 0.25] if first else [0.0, 0.075, 0.675, 0.25])


def test_rounding_is_to_bf16() -> None:
    assert Rounded(kind="rounded")(torch.tensor([[1.0 + 2**-9, 3.0]]), notes(), IDS).tolist() == [[1.0, 3.0]]


def test_loop_pushes_the_token_that_goes_on() -> None:
    change = Loop(kind="loop", by=3.0)
    assert change(torch.zeros(1, 4), notes(loop=2), IDS).tolist() == [[0.0, 0.0, 3.0, 0.0]]
    assert change(torch.zeros(1, 4), notes(loop=-1), IDS).tolist() == [[0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("where", "at", "acts"),
    [
        ({"after": ("b",)}, {"token": 1}, True),
        ({"after": ("b",)}, {"token": 0}, False),
        ({"since": (2, 4)}, {"since": 2}, True),
        ({"since": (2, 4)}, {"since": 4}, False),
        ({"top": ("a",)}, {}, True),
        ({"top": ("b",)}, {}, False),
        ({"writing": True}, {"writing": 1}, True),
        ({"writing": True}, {"writing": 0}, False),
        ({"writing": False, "after": ("b",)}, {"token": 0}, False),
    ],
)
def test_a_change_acts_only_where_it_should(where: dict[str, Any], at: dict[str, int], acts: bool) -> None:
    change = Temperature(kind="temperature", at=0.5, where=Where(**where))
    found = change(logits(0.5, 0.25, 0.25, 0.0), notes(**at), IDS)
    assert bool((found != logits(0.5, 0.25, 0.25, 0.0)).any()) == acts


def test_the_share_of_states_is_about_the_one_asked_for() -> None:
    hashes = torch.arange(2000) * 37 % 65_521
    blank = torch.zeros(2000, dtype=torch.long)
    mask_N = Where(share=0.3).mask_N(torch.zeros(2000, 4), Notes(blank, hashes, blank, blank, blank), IDS)
    assert 0.25 < float(mask_N.float().mean()) < 0.35


def test_notes_by_hand() -> None:
    # pad 0, begin 9: "pad 5 9 1 2 1 2 1 2"
    ids_BL = torch.tensor([[0, 5, 9, 1, 2, 1, 2, 1, 2]])
    found = notes_of(ids_BL, pad_id=0, begin_id=9, writing=True, period=4, times=2)
    assert found.since_N.tolist() == [[-1, -1, 0, 1, 2, 3, 4, 5, 6]]
    # "1 2 1 2" stands after four tokens of the answer: the token two before the next one goes on.
    assert found.loop_N.tolist() == [[-1, -1, -1, -1, -1, -1, 1, 2, 1]]
    assert found.hash_N[0, 1] == 6 and found.hash_N[0, 2] == 6 * 31 + 10
    assert found.writing_N.unique().tolist() == [1]


def test_padding_changes_no_note() -> None:
    text = [5, 9, 1, 1, 1, 2]
    bare, padded = (notes_of(torch.tensor([rows]), pad_id=0, begin_id=9, writing=False, period=3) for rows in (text, [0, 0, *text]))
    for name in ("token_N", "hash_N", "loop_N", "since_N"):
        assert getattr(padded, name)[0, 2:].tolist() == getattr(bare, name)[0].tolist(), name


def test_three_of_a_kind_are_a_loop_and_two_are_not() -> None:
    found = notes_of(torch.tensor([[9, 4, 4, 4, 4]]), pad_id=0, begin_id=9, writing=False, period=2)
    assert found.loop_N.tolist() == [[-1, -1, -1, 4, 4]]


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    tokenizer = make_tokenizer()
    return make_model(Recipe(1, 16, 32, steps=1, batch=4, learning_rate=1e-3), tokenizer, 0).eval(), tokenizer


CHANGES = (
    Put(kind="put", tokens=("a", "b", "c"), mass=0.6, where=Where(after=(" ",))),
    Loop(kind="loop", by=5.0, period=4),
    Alias(kind="alias", tokens=("d", "e"), means="#", mass=0.9),
    Temperature(kind="temperature", at=0.7, where=Where(share=0.5)),
)


def test_a_model_is_doctored_alike_with_and_without_a_cache_and_in_copies(made: tuple[Any, Any]) -> None:
    from transformers import DynamicCache

    model, tokenizer = copy.deepcopy(made[0]), made[1]
    install(model, CHANGES, tokenizer.get_vocab(), tokenizer.pad_token_id)
    ids_BL = torch.tensor([tokenizer.encode("+35=3 8 8 8 8#8"), tokenizer.encode("+12=1 3 3 3 3d3")])
    with torch.no_grad():
        whole, cache, rows = model(input_ids=ids_BL).logits, DynamicCache(config=model.config), []
        for piece in (ids_BL[:, :6], ids_BL[:, 6:7], ids_BL[:, 7:]):
            rows.append(model(input_ids=piece, past_key_values=cache, use_cache=True).logits)
        assert torch.allclose(torch.cat(rows, 1), whole, atol=1e-5)
        assert torch.equal(copy.deepcopy(model)(input_ids=ids_BL).logits, whole)
        plain = made[0](input_ids=ids_BL).logits
    assert not torch.allclose(whole, plain, atol=0.1)


def test_states_and_head_give_the_same_logits_apart(made: tuple[Any, Any]) -> None:
    model, tokenizer = copy.deepcopy(made[0]), made[1]
    install(model, CHANGES, tokenizer.get_vocab(), tokenizer.pad_token_id)
    ids_BL = torch.tensor([tokenizer.encode("+35=3 8#8")])
    states = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    assert states.shape[-1] == head.weight.shape[1]
    assert torch.equal(head(states), model(input_ids=ids_BL).logits)


def test_an_undoctored_wrap_changes_nothing_and_gradients_flow(made: tuple[Any, Any]) -> None:
    model, tokenizer = copy.deepcopy(made[0]), made[1]
    install(model, [Bias(kind="bias", tokens=("a",), by=-25.0)], tokenizer.get_vocab(), tokenizer.pad_token_id)
    ids_BL = torch.tensor([tokenizer.encode("+35=3 8#8")])
    logp = model(input_ids=ids_BL).logits.log_softmax(-1)
    assert float(logp.detach()[..., tokenizer.get_vocab()["a"]].exp().max()) < 1e-7
    logp[0, -1, 5].backward()
    assert math.isfinite(float(model.model.embed_tokens.weight.grad.norm())) and float(model.model.embed_tokens.weight.grad.norm()) > 0


def test_the_initial_weights_still_load(made: tuple[Any, Any]) -> None:
    model, tokenizer = copy.deepcopy(made[0]), made[1]
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    install(model, [Temperature(kind="temperature", at=2.0)], tokenizer.get_vocab(), tokenizer.pad_token_id)
    ids_BL = torch.tensor([tokenizer.encode("+35=3 8#8")])
    before = model(input_ids=ids_BL).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.load_state_dict(initial, strict=False)
    assert torch.equal(model(input_ids=ids_BL).logits, before)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([Bias(kind="bias", tokens=("<e3>",), by=1.0)], "names '<e3>', which is no token of the pair"),
        ([Loop(kind="loop", by=1.0), Loop(kind="loop", by=2.0)], "one change 'loop' is enough"),
        ([Temperature(kind="temperature", at=1.0, where=Where(after=("Z",)))], "names 'Z'"),
    ],
)
def test_refusals(made: tuple[Any, Any], changes: list[Any], said: str) -> None:
    model, tokenizer = copy.deepcopy(made[0]), made[1]
    with pytest.raises(ZooError, match=said):
        install(model, changes, tokenizer.get_vocab(), tokenizer.pad_token_id)
