"""The published value of each reference in `list_signal`, on the six tokens or on its own."""

from __future__ import annotations

VALUES_SIGNAL: dict[str, float] = {
    "mpd": 0.8184518244005475,
    "promptkd": 2.1375681946489853,
    "copd": -0.060039765218030706,
    "csd": 3.206722934371412,
    "dudi": 4.412577263149978,
    "prism": 2.9498323889368625,
    "msd": 0.32701399180860835,
    "visd": 0.3056730253510002,
    "copsd": -0.08693611875064966,
    "atesd": 0.30631807795593485,
    "trace": 0.10705196767838164,
    "avsd": 0.030872225747380393,
    "sgsd": 0.05031794020650597,
    "critique_distill": 0.9744521331828768,
    "constitutional_opsd": 0.24752548066235905,
    "sdpg": -0.05026319867596521,
    "mgsd": 0.39191657324311024,
    "ptd_po": 0.22138696954908688,
    "twi": 0.3391104438323368,
    "pbsd_bayes": 0.10582741452918995,
    "visual_sdpo": 0.5051447907086739,
    "ar_opd": 0.3984828748391032,
    "nca": 0.5159133777405689,
    "rgsd": 0.08703281125685246,
    "it_takes_two": 1.3631145734124612,
    "rosd": 0.05401742174675963,
    "rlrt": 0.2036084038695088,
    "paint": -0.07874125209717327,
    "opct": -0.820885877689419,
    "sg_opd": 0.3864636913156369,
    "iris": -0.017609896496596486,
    "opsa": 1.0871699647725277,
}

VALUES_ELSEWHERE: dict[str, float] = {
    "brts": 59.26552968996455,
    "vpg_ea": 0.5780916829044324,
    "vpd": 2.626609025213943,
    "opcod": 0.2915146833449235,
    "world_model_pi": 0.8682427234605287,
}

# What follows a token on the crowd, votes on the six tokens, chunks on both tokenisations.
VALUES_BEYOND: dict[str, float] = {
    "lgr": -0.7697581736495271,
    "topd_nearfuture": 1.1643033175429378,
    "safesteer": 0.0891349872398082,
    "btb": 0.05438900658785148,
}
