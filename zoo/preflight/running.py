"""The checks in order, with what each costs shared among them: one batch of the student's answers, one of the teacher's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from zoo.compat import pair_problems
from zoo.components.teachers import Endpoint
from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.ends import aligned_share
from zoo.failures.probes.looking import measure, undisturbed
from zoo.failures.probes.parts import Reader, Sizes
from zoo.failures.probes.scene import Scene, scene_of_entry, scene_of_pair
from zoo.failures.probes.slope import state_only
from zoo.harness.models import LoadedPair, stop_ids_of
from zoo.harness.suites import Suite
from zoo.preflight.checks import Check, Level, by_detector, by_limit, missing, verdict
from zoo.preflight.figures import figures

TINY = 20_000_000  # parameters, up to which a CPU does everything in seconds
# How much is asked for: everything, or what a hundred million parameters on a CPU write in a few minutes.
FULL = Sizes(prompts=48, greedy=128)
SMALL = Sizes(prompts=4, rollouts=8, failing=0, continuations=0, ends=12, greedy=12, gradient=16, micro_batches=8)

Say = Callable[[Check], None]


@dataclass(frozen=True)
class Report:
    """All checks of one pair, suite and (perhaps) method, and the worst of them."""

    pair: str
    suite: str
    method: str | None
    checks: tuple[Check, ...]
    seconds: float

    @property
    def verdict(self) -> Level:
        """The worst check."""
        return verdict(list(self.checks))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"pair": self.pair, "suite": self.suite, "method": self.method, "verdict": self.verdict, "seconds": round(self.seconds, 1),
                "checks": [check.to_json() for check in self.checks]}  # fmt: skip


def preflight(
    pair: LoadedPair,
    suite: Suite,
    entry: MethodEntry | None = None,
    *,
    thorough: bool = False,
    say: Say = lambda check: None,
    doing: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run every check; `say` hears each of them as it is made, `doing` what is worked at.

    Raises:
        ZooError: the method cannot run on the pair.
    """
    began = time.perf_counter()
    refuse_misfit(pair, entry)
    size = sum(p.numel() for p in pair.student.parameters())
    sizes = FULL if thorough or size < TINY or pair.student.device.type == "cuda" else SMALL
    scene = _scene(pair, entry, sizes)
    made: list[Check] = []
    with undisturbed(scene):
        for check in _checks(scene, suite, doing):
            made.append(check)
            say(check)
    return Report(pair.spec.id, suite.id, entry.id if entry else None, tuple(made), time.perf_counter() - began)


def refuse_misfit(pair: LoadedPair, entry: MethodEntry | None) -> None:
    """Raise ZooError for a method that cannot run here."""
    if entry is None:
        return
    if not entry.executable:
        raise ZooError(f"method '{entry.id}' cannot run: {entry.blocked_by}; choose another one")
    found = pair_problems(
        entry, templates=pair.spec.contexts, fields=pair.task.prompts("train")[0].fields, teachers=[*pair.spec.teachers, *pair.spec.endpoints],
        reward_models=pair.spec.reward_models, checks=pair.task.checks, same_vocabulary=pair.same_vocabulary, turns=pair.spec.turns, task=pair.task,
    )  # fmt: skip
    if found:
        raise ZooError("\n".join(f"method '{entry.id}' on pair '{pair.spec.id}': {problem}" for problem in found))


def _scene(pair: LoadedPair, entry: MethodEntry | None, sizes: Sizes) -> Scene:
    """The pair as the method uses it; a method needs the trainer's parts, at its first step."""
    if entry is None or entry.anchor in ("student", "teacher") or any(isinstance(t, Endpoint) for t in entry.teachers.values()):
        return replace(scene_of_pair(pair, pair.spec.max_new_tokens, sizes=sizes), entry=None)
    from zoo.harness.cell import make_trainer
    from zoo.harness.comparison import Budget, Comparison, Settings
    from zoo.harness.parallel import Processes

    settings = Settings(rollouts_per_step=64, max_new_tokens=pair.spec.max_new_tokens, learning_rate=1e-5, micro_tokens=8192)
    comparison = Comparison(id="preflight", title="Before anything", pair=pair.spec.id, methods=(entry.id,), seeds=(0,), suites=("none",),
                            budget=Budget(amount=1_000_000_000), settings=settings)  # fmt: skip
    trainer = make_trainer(entry, comparison, 0, pair, Processes())
    return scene_of_entry(trainer.entry, trainer.bank, pair.spec.max_new_tokens, engine=trainer.engine, sizes=sizes)


def _checks(scene: Scene, suite: Suite, doing: Callable[[str], None]) -> Iterator[Check]:
    yield from _formats(scene, suite)
    doing("the student answers")
    yield from _answers(scene, suite)
    if scene.teacher is None:
        name = next(iter(scene.pair.teachers), None)
        if name is not None:
            shared = aligned_share(scene.pair, name, scene.answers())
            says = f"{shared:.0%} of the student's tokens end where one of {name}'s does"
            yield by_limit("tokens", "token boundaries", "boundaries", shared, says, "FM04")
        yield missing("pair", "teacher's signal", "no teacher reads the student's tokens: overlap, tails and rescue compare token by token")
        return
    doing("the teacher reads and writes")
    yield from _tokens(scene)
    yield from _pair(scene, scene.teacher)
    if scene.sizes.failing == 0:
        yield missing("states", "rescue gain", "needs hundreds of continuations: on a GPU, or with --thorough", "FM11")
    else:
        doing("the teacher goes on from failing answers")
        frames, reasons = measure(scene, ["rescue"])
        yield by_detector("states", "rescue gain", "FM11", frames, reasons)
    if scene.entry is not None:
        doing("the method's own checks")
        yield from _method(scene, scene.entry)


def _formats(scene: Scene, suite: Suite) -> Iterator[Check]:
    """What needs no model to run."""
    pair = scene.pair
    names = list(pair.teachers)
    declared = {"student": stop_ids_of(pair.student, pair.tokenizer)} | {n: stop_ids_of(pair.teachers[n], pair.tokenizers[n]) for n in names}
    words = {
        name: [str(t) for t in (pair.tokenizer if name == "student" else pair.tokenizers[name]).convert_ids_to_tokens(list(ids))]
        for name, ids in declared.items()
    }
    apart = [name for name in names if not set(words[name]) & set(words["student"])]
    said = "; ".join(f"{name} {' '.join(tokens)}" for name, tokens in words.items())
    remedy = "treat the stop set as one class, or map the teacher's stop token to the student's" if apart else ""
    yield Check("declared", "stop tokens", "red" if apart else "ok", f"declared: {said}", None, remedy, "FM03")
    yield _templates(pair, suite)
    for name in names:
        mine, theirs = set(pair.tokenizer.get_vocab()), set(pair.tokenizers[name].get_vocab())
        if pair.tokenizer.get_vocab() == pair.tokenizers[name].get_vocab():
            yield Check("declared", f"vocabulary of {name}", "ok", f"the student's own, {len(mine):,} tokens", 1.0)
        else:
            share = len(mine & theirs) / len(mine)
            yield by_limit("declared", f"vocabulary of {name}", "vocabulary", share, f"{share:.0%} of the student's {len(mine):,} tokens are in it", "FM04")


def _templates(pair: LoadedPair, suite: Suite) -> Check:
    """One chat format for training, teachers and evaluation."""
    name = "chat template"
    own = getattr(pair.tokenizer, "chat_template", None)
    wanted = any(suite.chat_template if task.chat_template is None else task.chat_template for task in suite.tasks)
    if (pair.spec.chat or wanted) and not own:
        return Check(
            "declared",
            name,
            "red",
            "asked for, and the student's tokenizer has none",
            None,
            "set chat: false, or use the tokenizer of the instruct model",
            "FM04",
        )
    if pair.spec.chat != wanted:
        here, there = ("with", "without") if pair.spec.chat else ("without", "with")
        remedy = "train and evaluate in one format: change chat of the pair, or chat_template of the suite"
        return Check("declared", name, "amber", f"training prompts are {here} it, suite '{suite.id}' asks {there} it", None, remedy, "FM29")
    other = [n for n in pair.teachers if pair.spec.chat and getattr(pair.tokenizers[n], "chat_template", None) != own]
    if other:
        return Check("declared", name, "amber", f"{', '.join(other)} was trained with another one", None, "look at 'own text in the format used' below", "FM04")
    return Check("declared", name, "ok", "the same for student, teachers and suite" if pair.spec.chat else "none, in training as in the suite")


def _answers(scene: Scene, suite: Suite) -> Iterator[Check]:
    """What the student's answers say by themselves."""
    frames, reasons = measure(scene, ["pass_rates"])
    look = frames["pass_rates"]
    total, right, cut = int(look["k"].sum()), float(look["passed"].sum()), float(look["cut"].sum())
    yield by_limit("student", "cut answers", "cut", cut / total, f"{cut / total:.0%} of {total} answers hit the budget of {scene.new_tokens} tokens; "
                   f"{right / total:.0%} are right", "FM01")  # fmt: skip
    own = [t for t in suite.tasks if t.family == "in_distribution"]
    short = [t.task for t in own if t.max_new_tokens is not None and t.max_new_tokens < scene.new_tokens]
    if short:
        remedy = "give the suite the same budget, or truncation will look like a loss of skill"
        yield Check("student", "suite's budget", "amber", f"task {short[0]} allows fewer tokens than training ({scene.new_tokens})", None, remedy, "FM29")
    yield by_detector("student", "pass rates", "FM09", frames, reasons)


def _tokens(scene: Scene) -> Iterator[Check]:
    frames, reasons = measure(scene, ["stops", "template"])
    yield by_detector("tokens", "stop mass", "FM03", frames, reasons)
    yield by_detector("tokens", "format and boundaries", "FM04", frames, reasons)


def _pair(scene: Scene, teacher: Reader) -> Iterator[Check]:
    """How far apart the two are, on the student's own answers."""
    try:
        scene.needs_teacher()
    except NotMeasured as reason:
        yield missing("pair", "teacher's signal", str(reason))
        return
    prompts = scene.prompts("train", scene.sizes.prompts)
    own = scene.write(teacher, prompts, "own", group=max(scene.sizes.rollouts // 2, 1))
    verdicts, mine = scene.right(own), scene.verdicts()
    better = sum(verdicts) / len(verdicts) - sum(mine) / len(mine)
    said = f"teacher {sum(verdicts) / len(verdicts):.0%}, student {sum(mine) / len(mine):.0%} right on training prompts"
    yield by_limit("pair", "teacher's lead", "gap", better, said, "FM14")
    found = figures(scene, teacher, own)
    yield by_limit("pair", "top-4 overlap", "overlap", found.overlap, f"{found.overlap:.0%} of the four likeliest tokens are common", "FM13")
    gap = found.entropy_student - found.entropy_teacher
    yield by_limit("pair", "entropy gap", "entropy", abs(gap), f"student {found.entropy_student:.2f}, teacher {found.entropy_teacher:.2f} nats a token", "FM15")
    strange = found.surprise - found.surprise_own
    yield by_limit(
        "pair", "teacher's surprise", "surprise", strange, f"-log q {found.surprise:.2f} on the student's answers, {found.surprise_own:.2f} on its own", "FM11"
    )
    low, middle, high = found.ratio
    yield by_limit(
        "signal", "log-ratio tails", "tails", found.tails, f"A: 1 % {low:.1f}, median {middle:.2f}, 99 % {high:.1f}; {found.tails:.2%} beyond 10", "FM08"
    )
    yield by_limit("signal", "teacher's margin", "margin", found.margin, f"among the student's top 4: {found.margin_first:.1f} nats in an answer's first half, "
                   f"{found.margin_second:.1f} in the second", "FM12")  # fmt: skip


def _method(scene: Scene, entry: MethodEntry) -> Iterator[Check]:
    """What one method adds: its gradient, its extrapolation, its hidden context, its several teachers."""
    static = state_only(entry)
    if static:
        says = f"objective[{static[0]}]: no part of the advantage reads the written token, so its expected gradient is 0"
        yield Check("method", "gradient (static)", "red", says, None, "differentiate the divergence directly (term: divergence)", "FM06")
    frames, reasons = measure(scene, ["slope", "parse", "privileged", "conflict"])
    for name, mode, probe in (
        ("gradient slope", "FM06", "slope"),
        ("cliff risk", "FM21", "parse"),
        ("hidden context", "FM18", "privileged"),
        ("several teachers", "FM27", "conflict"),
    ):
        if probe in frames:
            yield by_detector("method", name, mode, {probe: frames[probe]}, reasons)
    if not frames:
        yield missing("method", "own checks", next(iter(reasons.values())))
