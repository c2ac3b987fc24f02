"""The probes by name: what each measures, and which are cheap enough to be taken at every evaluation."""

from __future__ import annotations

WHAT = {
    "stops": "probability of every stop token where an answer ends, student and teacher",
    "template": "the teacher's text in its own prompt format and in the one it is scored in; shared token boundaries; update on special tokens",
    "pass_rates": "how many of K answers to a training prompt are right",
    "calibration": "confidence of an answer against its being right",
    "recovery": "right greedy answers of the student and the teacher on the same prompts",
    "markers": "words of doubt and checking in answers, on usual and on longer prompts",
    "parse": "answers in the form that is asked for, now and at scales of an extrapolated teacher",
    "rescue": "whether the teacher, and the student, still succeed behind the student's failing beginnings",
    "forced": "success after a forced token, and its cosine with the distillation signal",
    "slope": "the policy gradient against the gradient of the divergence itself, on the same batch",
    "conflict": "cosines between the gradients towards several teachers, and between halves of one",
    "privileged": "divergence from the teacher that sees a prompt's own context, and another's",
    "scores": "learned scores and judges against the verifier and the length",
    "turns": "turns of dialogues whose call can be read, by turn",
}
NAMES = tuple(WHAT)
CHEAP = ("stops", "calibration", "recovery", "markers", "parse", "privileged", "scores", "turns")
