"""Learned scores and judges against the verifier (FM22), and turns of dialogues whose calls can be read (FM27)."""

from __future__ import annotations

import pandas as pd

from zoo.components.rewards import Judge, Learned, RewardModel, measured_in_order
from zoo.failures.logs import NotMeasured
from zoo.failures.probes.gradients import uncharged
from zoo.failures.probes.scene import Scene
from zoo.harness.scoring import sequence_rewards
from zoo.tensors import Role

EACH = 4  # answers a prompt


def scores(scene: Scene) -> pd.DataFrame:
    """One row an answer: `prompt`, `correct`, `length`, `punctuation` (characters that are neither letters, digits nor blanks), and `score.NAME`
    for each of the entry's learned scores, judges and reward models."""
    entry = scene.entry
    names = [] if entry is None else [name for name, reward in entry.rewards.items() if isinstance(reward, Judge | Learned | RewardModel)]
    if entry is None or scene.bank is None or not names:
        raise NotMeasured("the method has no learned score and no judge")
    if scene.bank.endpoints:
        raise NotMeasured("an endpoint is asked, which costs")
    k = scene.sizes.rollouts
    index = [i for i in range(len(scene.answers())) if i % k < EACH]
    texts, right, bank = scene.answers().rows(index), [scene.verdicts()[i] for i in index], uncharged(scene.bank)
    rollout = scene.rollout(texts)
    values = sequence_rewards(bank, rollout, measured_in_order(names, entry.rewards), {})
    said = [scene.text(ids) for ids in texts.ids]
    frame = pd.DataFrame({
        "prompt": [p.id for p in texts.prompts], "correct": right, "length": [len(ids) for ids in texts.ids],
        "punctuation": [sum(not (c.isalnum() or c.isspace()) for c in text) for text in said],
    })  # fmt: skip
    return frame.assign(**{f"score.{name}": values[name].double().cpu().tolist() for name in names})


def turns(scene: Scene) -> pd.DataFrame:
    """One row for each turn of each dialogue: `stream`, `dialogue`, `turn`, `last` (nobody speaks after it), `call` (it holds a call that the
    environment can read) and `valid`: it calls, or it is the last one and holds an answer."""
    entry, engine = scene.entry, scene.engine
    streams = {} if entry is None else {name: s for name, s in entry.rollouts.items() if s.environment is not None and s.environment.calls}
    if entry is None or engine is None or not streams:
        raise NotMeasured("no stream of the method calls tools")
    rows, before, wrote = [], engine.generated_tokens, engine.wrote.copy()
    for name, stream in streams.items():
        if stream.sources:
            continue
        prompts = scene.prompts("train", scene.sizes.prompts)
        rollout = engine.rollout(stream, prompts, max_new_tokens=scene.new_tokens, seed_axes=(*scene.axes, "turns", name), progress=scene.progress)
        for row in range(len(rollout)):
            turn_T, role_T, mask_T = (column[row].tolist() for column in (rollout.turns_BT, rollout.roles_BT, rollout.mask_BT))
            roles: dict[int, set[int]] = {}
            for turn, role, own in zip(turn_T, role_T, mask_T, strict=True):
                if own:
                    roles.setdefault(turn, set()).add(role)
            for turn, held in roles.items():
                last = turn == max(roles)
                call, answer = int(Role.CALL) in held, int(Role.ANSWER) in held
                rows.append({"stream": name, "dialogue": row, "turn": turn, "last": last, "call": call, "valid": call or (last and answer)})
    engine.generated_tokens, engine.wrote = before, wrote
    if not rows:
        raise NotMeasured("the streams that call tools read other streams")
    return pd.DataFrame(rows)
