"""Provocations: for each failure mode a small set-up that brings it about and a control that does not, so that its detector can be believed.

    provocation = load_provocation("FM05")
    run_cell(Cell(provocation.id, "provocation", 0), place)     # trains, asks every detector, writes one record

The set-ups are data (registry/provocations/FMxx.yaml), the models in them are doctored (`zoo.harness.doctor`), and what the detectors said is
recorded for good; `paper_tables/failure_detection.*` is a function of these records.
"""

from __future__ import annotations

from zoo.provoke.setups import Arm, Doctor, Healthy, Provocation, load_healthy, load_provocation, load_provocations

__all__ = ["Arm", "Doctor", "Healthy", "Provocation", "load_healthy", "load_provocation", "load_provocations"]
