"""The published value of each reference in `list_outcome` on the six tokens."""

from __future__ import annotations

VALUES_OUTCOME: dict[str, float] = {
    "gad": 2.9498323889368625,
    "lion": 3.0641548327961137,
    "ovd": -0.0071625350790715525,
    "ropd": 0.04810122512260916,
    "luffy": -0.5322625354775546,
    "supercorrect": 2.9498323889368625,
    "rlkd": 0.21112902938734807,
    "aligndistil": 0.14782420455999234,
    "rlad": 0.933699834564015,
    "kepo": 0.36383756523144084,
    "hybrid_il_rl_note": 0.9989232740760785,
    "sparse_to_dense": 0.7102996579877702,
    "signal_reshaping_grpo": 0.4097499280596019,
    "dpkd": 0.6872184078947188,
    "opd_then_rl": 0.6685697030071817,
    "mad_opd": 0.2011767694747686,
    "mopd_mimo": 1.193094804753073,
    "glm5_cross_stage": 0.3600333415736124,
    "qwen3_s2w": 2.9498323889368625,
    "deepseek_v4_opd": 2.1335237936575995,
    "baichuan_m3": 2.1308989739633106,
    "hy_embodied": 4.571651925993981,
    "online_spec_decoding": 1.0489091779731106,
}

# On the two texts, draft_opd on the crowd.
VALUES_CROSSED: dict[str, float] = {
    "uld": 3.268943666941345,
    "multilevel_ot": 2.6906957300788648,
    "alm": 0.008830052306862228,
    "gold": 0.5652854535631472,
    "gold_hybrid": 0.2070059365184298,
    "simct": 0.4729985097074729,
    "simple_ctkd": 0.2727245046236865,
    "cdm": 1.5693093158320213,
    "xtok_likelihood": 1.237641520282915,
    "ctpd": 0.5169236777967182,
    "xtoken_pkl": 28.58189193215502,
    "draft_opd": 0.9534725468642505,
}
