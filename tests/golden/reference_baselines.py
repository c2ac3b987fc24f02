"""Reward baselines and the cards that mix a verifier's reward with a teacher.

Notation as in `reference_outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fixture import Fixture, Loss, Terms
from .numerics import Array, kl, log_softmax, sequence_mean, token_mean
from .reference_direct import Reduce, nll, sum_then_mean
from .reference_opd_more import gae
from .reference_opd_policy import clipped
from .reference_outcome import group_advantage


def centred_reward(fixture: Fixture) -> Array:
    """The answer's reward at each of its tokens, less its mean over the batch's tokens, (B, T)."""
    stream = fixture["main"]
    reward_BT = np.broadcast_to(stream.reward_B[:, None], stream.mask_BT.shape)
    return np.asarray(reward_BT - reward_BT[stream.mask_BT].mean())


def reinforce(fixture: Fixture) -> Loss:
    """REINFORCE (Williams 1992): -(R - b) sum_t log pS(y_t). open: b; taken: the batch's mean over tokens (entry); mean over answers."""
    stream = fixture["main"]
    advantage_BT = centred_reward(fixture)
    return lambda student: {"policy": sum_then_mean(advantage_BT * nll(stream, student["main"]), stream.mask_BT)}


def ppo(fixture: Fixture, *, gamma: float = 1.0, lam: float = 0.95, clip: float = 0.2, beta: float = 0.04) -> Loss:
    """Clipped surrogate of GAE of a reward at the answer's last token (1707.06347), and k3 to the initial student, as language-model use adds it.

    open for text: gamma (1), the k3's weight (0.04, grpo's), token means; the critic's loss is its own.
    """
    stream = fixture["main"]
    at_T, last_B = np.arange(stream.mask_BT.shape[1]), stream.mask_BT.sum(axis=1) - 1
    reward_BT = np.where(at_T == last_B[:, None], stream.reward_B[:, None], 0.0)
    advantage_BT = gae(stream, reward_BT, gamma, lam)

    def loss(student: Mapping[str, Array]) -> Terms:
        gap_BT = stream.sampled("reference") + nll(stream, student["main"])
        return {
            "policy": token_mean(clipped(stream, student["main"], advantage_BT, clip), stream.mask_BT),
            "reference_kl": beta * token_mean(np.exp(gap_BT) - gap_BT - 1.0, stream.mask_BT),
        }

    return loss


def trpo(fixture: Fixture, *, gamma: float = 1.0, lam: float = 0.95) -> Loss:
    """-mean_t rho_t A_t (1502.05477, equation 14), A the GAE of a reward at the answer's last token (entry; the paper: a return less a value).

    The constraint on the mean KL is the step's, not the loss's. open: the mean (tokens).
    """
    stream = fixture["main"]
    at_T, last_B = np.arange(stream.mask_BT.shape[1]), stream.mask_BT.sum(axis=1) - 1
    advantage_BT = gae(stream, np.where(at_T == last_B[:, None], stream.reward_B[:, None], 0.0), gamma, lam)
    old_BT = stream.sampled("old")
    return lambda student: {"policy": token_mean(-np.exp(-nll(stream, student["main"]) - old_BT) * advantage_BT, stream.mask_BT)}


def mixer(fixture: Fixture) -> Loss:
    """Likelihood of the given first part of an answer, REINFORCE on the rest (1511.06732); sums over tokens, means over answers.

    The given part is the fixture's half of each response. open: the baseline; taken: the batch's mean over all its tokens (entry; the paper: a regressor).
    """
    stream = fixture["main"]
    advantage_BT = centred_reward(fixture)

    def loss(student: Mapping[str, Array]) -> Terms:
        nll_BT = nll(stream, student["main"])
        return {
            "likelihood": sum_then_mean(stream.given_BT * nll_BT, stream.mask_BT),
            "policy": sum_then_mean(~stream.given_BT * advantage_BT * nll_BT, stream.mask_BT),
        }

    return loss


def group_policy(fixture: Fixture, *, low: float = 0.2, high: float = 0.2, reduce: Reduce = sequence_mean) -> Loss:
    """GRPO's surrogate without a KL: the reward phases of self_eval_opd and litegui (clip 0.2 / 0.28, its mean open: tokens)."""
    stream = fixture["main"]
    advantage_BT = np.broadcast_to(group_advantage(stream)[:, None], stream.mask_BT.shape)
    return lambda student: {"policy": reduce(clipped(stream, student["main"], np.asarray(advantage_BT), low, high), stream.mask_BT)}


def cgtr(fixture: Fixture, *, lam: float = 0.1) -> Loss:
    """-E[reward] + lambda KL(pS || p_phi) to a frozen earlier copy shown feedback (2606.03532).

    open: the reward's surrogate (GRPO's), lambda, and both means; taken: per response for the first, tokens for the second (entry).
    """
    stream = fixture["main"]
    policy, log_p = group_policy(fixture), stream.logp("self")

    def loss(student: Mapping[str, Array]) -> Terms:
        return {**policy(student), "teacher_kl": lam * token_mean(kl(log_softmax(student["main"]), log_p), stream.mask_BT)}

    return loss
