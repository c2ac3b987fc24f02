"""What `zoo check` says of an entry's golden reference: compared, pending, covered by another entry, or without one, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tests import golden_attention, golden_bytes, golden_chunks, golden_cross, golden_dual, golden_hidden, golden_signal
from tests.golden.fixture import Fixture
from tests.golden.list_opd import CROWDED
from tests.golden.list_outcome import OUTCOME_CROWDED, OUTCOME_MOMENTS
from tests.golden.list_self import SELF_MOMENTS, UNEVEN, mixed
from tests.golden.list_signal import ELSEWHERE_SIGNAL, GRADIENT_ALONE, SIGNAL_MOMENTS
from tests.golden.list_turns import TURNED, TURNED_MOMENTS
from tests.golden.loss import Reference
from tests.golden_kit import CROWD, DIALOGUES, as_written, assert_equal, assert_gradients, evaluate, load
from tests.test_golden import PENDING, REFERENCES, test_entry_has_the_gradient_and_the_value_of_its_card
from zoo.entry import MethodEntry

Outcome = Literal["pass", "fail", "skip"]
EQUAL = "loss and gradient on six fixed tokens equal the card's, written independently in numpy"

# Executable entries with an objective and no reference. The list may only shrink.
WITHOUT: dict[str, str] = {
    "no_op": "its loss is 0 by construction, and so is its gradient: a test of its own says so",
}

# Methods whose reference is still to be written, by reason. Whoever writes one takes its id off; none is added.
AWAITED: dict[str, str] = {
    name: reason
    for reason, names in {
        "the cards of rewards, black boxes and other tokenizers come next": """
        score_agent dart_tool_use dwa_kd
        """,
        "the cards of further signals of the surveys come next": """
        pipo comap
        """,
    }.items()
    for name in names.split()
}


def crowded(name: str) -> None:
    """An entry that compares more answers than two, on the crowd."""
    entry = load(name)
    assert_equal(entry, {**CROWDED, **OUTCOME_CROWDED}[name], as_written(entry, CROWD), chunk=24)


def staged(name: str) -> None:
    """An entry of several phases, in each of them."""
    test_entry_has_the_gradient_and_the_value_of_its_card(name)
    entry = load(name)
    for progress, reference in {**OUTCOME_MOMENTS, **SIGNAL_MOMENTS, **SELF_MOMENTS}[name].items():
        assert_equal(entry, reference, as_written(entry), progress=progress)


def uneven(name: str) -> None:
    """An entry that reads the verdicts of several streams, on texts of which some are wrong in each."""
    entry = load(name)
    assert_equal(entry, UNEVEN[name], as_written(entry, mixed()), chunk=24)


def turned(name: str) -> None:
    """An agent's entry, on dialogues, and at later moments of a run."""
    entry, fixture = load(name), as_written(load(name), DIALOGUES)
    compared(entry, TURNED[name], fixture)
    for progress, reference in TURNED_MOMENTS.get(name, {}).items():
        assert_equal(entry, reference, fixture, progress=progress)


def placed(name: str) -> None:
    """An entry on tokens of its own, where the six say too little."""
    reference, fixture = ELSEWHERE_SIGNAL[name]
    entry = load(name)
    compared(entry, reference, as_written(entry, fixture))


def compared(entry: MethodEntry, reference: Reference, fixture: Fixture) -> None:
    """Value and gradient, or the gradient alone where the surrogate has another value."""
    if entry.id in GRADIENT_ALONE:
        assert_gradients(evaluate(entry, fixture, chunk=24), reference.gradient(fixture))
    else:
        assert_equal(entry, reference, fixture, chunk=24)


ELSEWHERE: dict[str, Callable[[str], None]] = {
    **dict.fromkeys((*CROWDED, *OUTCOME_CROWDED), crowded),
    **dict.fromkeys(TURNED, turned),
    **dict.fromkeys(ELSEWHERE_SIGNAL, placed),
    **dict.fromkeys((*OUTCOME_MOMENTS, *SIGNAL_MOMENTS, *SELF_MOMENTS), staged),
    **dict.fromkeys(golden_cross.CROSSED, golden_cross.compare),
    **dict.fromkeys(golden_signal.CROSSED, golden_signal.compare_across),
    **dict.fromkeys(golden_signal.AHEAD, golden_signal.compare_ahead),
    **dict.fromkeys(golden_signal.VOTED, golden_signal.compare_voted),
    "oprd_bridge": golden_signal.compare_bridge,
    **dict.fromkeys(("dskd", "dskd_eta"), golden_dual.compare),
    "dskd_cma": golden_attention.compare,
    "bld": golden_bytes.compare,
    "omniopd": golden_chunks.compare,
    **dict.fromkeys(UNEVEN, uneven),
    "oprd": golden_hidden.compare,
    "unisd": golden_hidden.compare_beside_logits,
}


def comparison(name: str) -> Callable[[str], None] | None:
    """What compares an entry with its reference, if there is one."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    return test_entry_has_the_gradient_and_the_value_of_its_card if name in REFERENCES else None


def awaited(entry: MethodEntry) -> str | None:
    """Why an entry's reference is still to be written; a variant waits with its card."""
    return AWAITED.get(entry.id) or AWAITED.get(entry.variant_of or "")


def golden(entry: MethodEntry) -> tuple[Outcome, str]:
    """Outcome and reason for one entry of the registry that has an objective."""
    compare = comparison(entry.id)
    if compare is not None:
        failure = _failure(compare, entry.id)
        if entry.id not in PENDING:
            return ("pass", EQUAL) if failure is None else ("fail", f"not the card's loss in tests/golden: {failure}")
        return ("skip", f"pending: {PENDING[entry.id]}") if failure else ("fail", "marked as pending, yet equal to its card: take the mark off")
    if entry.identical_core_to:
        return "skip", f"the core of {entry.identical_core_to}, which is compared there"
    if not entry.executable:
        return "skip", "not executable: no reference is asked for"
    if reason := WITHOUT.get(entry.id) or awaited(entry):
        return "skip", f"none: {reason}"
    return "skip", "none yet: write one in tests/golden"


def _failure(compare: Callable[[str], None], name: str) -> str | None:
    try:
        compare(name)
    except Exception as error:
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return None
