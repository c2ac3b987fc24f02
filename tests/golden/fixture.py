"""Six fixed tokens: two sequences of four and two response tokens over a vocabulary of seven.

Every stream holds raw logits (B, T, V) of five models, in nats before the softmax:

| model       | which weights and context                                                              |
|-------------|----------------------------------------------------------------------------------------|
| `student`   | the weights being trained, now; gradients are with respect to these logits             |
| `old`       | the student when the stream was written: its ratios to `student` are not 1             |
| `reference` | the initial student in the student's own context                                       |
| `self`      | the initial student shown a privileged context (OPSD's teacher), at the same positions |
| `teacher`   | the external teacher                                                                   |

and of further scorers that few methods need (`FURTHER`), each drawn from a seed of its own:

| model            | which weights and context                                                         |
|------------------|-----------------------------------------------------------------------------------|
| `base`           | the external teacher before its fine-tuning                                       |
| `second`         | another external teacher                                                          |
| `peer`           | a model trained beside the student                                                |
| `right`, `wrong` | the student's own weights shown a peer's right, or wrong, answer                  |
| `elsewhere`      | the self-teacher's weights and privileged context under another prompt of the batch |
| `teacher_blind`  | the external teacher without a removable part of the prompt                       |
| `blind`          | the initial student without that part                                             |

Streams: `main` is written by the student (one group of two; rewards 1 and 0), `theirs` by the teacher for the same
prompts in the same order (both right), `data` comes from the data set, `corpus` from plain text. A method with a single
stream reads the one that its card names. Behaviour log-probabilities are `old`'s, except for MiniLLM, whose tokens count as
drawn from 0.8 old + 0.2 teacher. Logits and token ids under the padding are ordinary numbers, so that a loss
that forgets the mask shows.

The published supports (16, 32) exceed the vocabulary, so every top-k method uses `TOP_K = 3` here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .numerics import Array, Ids, Mask, at_tokens, log_softmax

Terms = dict[str, float]
Loss = Callable[[Mapping[str, Array]], Terms]  # student logits by stream -> the loss term by term, coefficients included

VOCABULARY = 7
ROLES = ("text", "call", "answer", "reply")
TOP_K = 3
MODELS = ("student", "old", "reference", "self", "teacher")
FURTHER = {  # the model each is near, and the scale of its own noise
    "base": ("teacher", 0.7),
    "second": ("teacher", 1.2),
    "peer": ("student", 0.9),
    "right": ("self", 0.6),
    "wrong": ("self", 0.9),
    "elsewhere": ("reference", 0.7),
    "teacher_blind": ("teacher", 0.8),
    "blind": ("reference", 0.6),
}
LONG_FIRST = ((True, True, True, True), (True, True, False, False))
SHORT_FIRST = LONG_FIRST[::-1]
MAIN_SEED = 4040  # one for which gates, clips and supports all act on some tokens and not on others: see test_reference


@dataclass(frozen=True)
class Stream:
    """One stream's batch; `reward_B` is the verifier's verdict per sequence (1 right, 0 wrong).

    `gold_BT` holds the given answer's token of each index, whatever was written there; `value_BT` a learned value of each state.
    `uniform_BT` and `seed_BT` are random numbers of each token, in [0, 1) and of 64 bits: those that an entry draws for the tokens of `main`
    (they follow the tokens), so that what it does with a draw can be compared. Other streams draw nothing.
    `turn_BT` and `role_BT` (`ROLES`) are those of dialogues, `finished_B` says whose text ended by itself: all of them where none is given.
    """

    logits: Mapping[str, Array]
    response_BT: Ids
    mask_BT: Mask
    group_B: Ids
    reward_B: Array
    gold_BT: Ids
    value_BT: Array
    uniform_BT: Array = field(default_factory=lambda: np.zeros((2, 4)))
    seed_BT: Ids = field(default_factory=lambda: np.zeros((2, 4), dtype=np.int64))
    turn_BT: Ids | None = None
    role_BT: Ids | None = None
    finished_B: Mask | None = None

    @property
    def shape_B(self) -> Array:
        """What a second rule than the verifier's says of each answer: every third one, from the second on, breaks it."""
        return np.asarray(np.arange(len(self.reward_B)) % 3 != 1, dtype=np.float64)

    @property
    def given_BT(self) -> Mask:
        """The first half of each response: what another wrote where the student only goes on."""
        return np.asarray(np.arange(self.mask_BT.shape[1]) < self.mask_BT.sum(axis=1, keepdims=True) // 2)

    def logp(self, model: str) -> Array:
        """Full log-probabilities of a model, (B, T, V)."""
        return log_softmax(self.logits[model])

    def sampled(self, model: str) -> Array:
        """Log-probabilities of the stream's own tokens under a model, (B, T)."""
        return at_tokens(self.logp(model), self.response_BT)


@dataclass(frozen=True)
class Fixture:
    """The streams by name."""

    streams: Mapping[str, Stream]

    def __getitem__(self, name: str) -> Stream:
        return self.streams[name]

    def student_logits(self) -> dict[str, Array]:
        """The current student's logits of every stream: the point at which losses and gradients are taken."""
        return {name: stream.logits["student"] for name, stream in self.streams.items()}

    def with_logits(self, stream: str, /, **models: Array) -> Fixture:
        """The same fixture with some models' logits of one stream replaced."""
        return self.with_stream(stream, replace(self[stream], logits={**self[stream].logits, **models}))

    def with_stream(self, name: str, stream: Stream) -> Fixture:
        """The same fixture with one stream replaced."""
        return Fixture({**self.streams, name: stream})


# The scale of the teacher's own noise at each position: large where it is sure, small where it is not.
TEACHER_SCALE_BT = np.array([[3.0, 0.6, 2.4, 0.9], [0.7, 2.8, 1.0, 1.0]])

# What the acceptance gate of tropd and the further draws of async_opd are made from, for the tokens of `main`.
UNIFORM_BT = np.array([[0.5791297442, 0.9024700450, 0.5752023182, 0.1957637433], [0.0122803659, 0.7957051898, 0.2576563412, 0.0778203838]])
SEED_BT = np.array(
    [
        [-3328626150025810287, 883632477474827477, 276469514748306279, 4399276268725302699],
        [-728085014367798083, -855197195811652093, 0, 0],
    ]
)


def _stream(seed: int, mask: tuple[tuple[bool, ...], ...], reward: tuple[float, float]) -> Stream:
    # RandomState rather than default_rng: numpy freezes only its streams for good.
    random = np.random.RandomState(seed)
    shape = (2, 4, VOCABULARY)

    def noise(scale: float) -> Array:
        return np.asarray(scale * random.standard_normal(shape), dtype=np.float64)

    student = noise(1.2)
    reference = student + noise(0.5)
    logits = {
        "student": student,
        "old": student + noise(0.35),
        "reference": reference,
        "self": reference + noise(0.8),
        "teacher": 0.5 * student + TEACHER_SCALE_BT[..., None] * noise(1.0),
    }
    response_BT = np.asarray(random.randint(0, VOCABULARY, size=(2, 4)), dtype=np.int64)
    for number, (model, (near, scale)) in enumerate(FURTHER.items()):
        random.seed(1000 * (number + 1) + seed)
        logits[model] = logits[near] + noise(scale)
    return Stream(
        logits={model: np.round(values, 2) for model, values in logits.items()},
        response_BT=response_BT,
        mask_BT=np.array(mask),
        group_B=np.array([0, 0]),
        reward_B=np.array(reward),
        gold_BT=np.asarray(np.random.RandomState(9000 + seed).randint(0, VOCABULARY, size=(2, 4)), dtype=np.int64),
        value_BT=np.round(np.random.RandomState(9500 + seed).standard_normal((2, 4)), 2),
    )


def six_tokens() -> Fixture:
    """The fixture that every reference value is taken on."""
    return Fixture(
        {
            "main": replace(_stream(MAIN_SEED, LONG_FIRST, (1.0, 0.0)), uniform_BT=UNIFORM_BT, seed_BT=SEED_BT),
            "theirs": _stream(2, SHORT_FIRST, (1.0, 1.0)),
            "data": _stream(3, LONG_FIRST, (1.0, 1.0)),
            "corpus": _stream(4, SHORT_FIRST, (0.0, 0.0)),
        }
    )


def crowd() -> Fixture:
    """Eight answers to three prompts in place of `main`, for what compares answers or prompts: right are both of two, one of two, and one of four."""
    six = six_tokens()
    parts = [six[name] for name in ("main", "theirs", "data", "corpus")]
    first = parts[0]
    main = replace(
        first,
        logits={model: np.concatenate([part.logits[model] for part in parts]) for model in first.logits},
        response_BT=np.concatenate([part.response_BT for part in parts]),
        mask_BT=np.concatenate([part.mask_BT for part in parts]),
        gold_BT=np.concatenate([part.gold_BT for part in parts]),
        value_BT=np.concatenate([part.value_BT for part in parts]),
        group_B=np.array([0, 0, 1, 1, 2, 2, 2, 2]),
        reward_B=np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
        uniform_BT=np.zeros((8, 4)),
        seed_BT=np.zeros((8, 4), dtype=np.int64),
    )
    return six.with_stream("main", main)


# Six dialogues: text, call and answer of the student, reply of the environment, which nobody learns. A reply belongs to the turn that it answers.
WORDS = ("ttcrtaa-", "tcrrcrta", "tta-----", "crtttc--", "tcrta---", "crrctraa")
TURNS = ("0000111-", "00001122", "000-----", "001111--", "00011---", "00011122")


def dialogues() -> Fixture:
    """`main` as six dialogues of one to three turns, two of one prompt and four of another; one of them was cut."""
    many = crowd()["main"]
    rows = np.arange(len(WORDS))

    def doubled(value: np.ndarray) -> np.ndarray:
        return np.concatenate([value[rows], value[(rows + 3) % 8]], axis=1)

    letter_BT = np.array([list(word) for word in WORDS])
    main = Stream(
        logits={model: doubled(values) for model, values in many.logits.items()},
        response_BT=doubled(many.response_BT),
        mask_BT=(letter_BT != "-") & (letter_BT != "r"),
        group_B=np.array([0, 0, 1, 1, 1, 1]),
        reward_B=np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
        gold_BT=doubled(many.gold_BT),
        value_BT=doubled(many.value_BT),
        uniform_BT=np.zeros(letter_BT.shape),
        seed_BT=np.zeros(letter_BT.shape, dtype=np.int64),
        turn_BT=np.array([[int(turn) if turn != "-" else 0 for turn in row] for row in TURNS]),
        role_BT=np.array([["tcar".index(letter) if letter != "-" else 0 for letter in row] for row in letter_BT]),
        finished_B=np.arange(len(WORDS)) != 3,
    )
    return six_tokens().with_stream("main", main)
