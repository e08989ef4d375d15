"""Simulated Docker hosts: real SSH, the Engine API in memory, and faults at any call. See ADR 0015."""

from tests.simhost.behaviour import Behaviour, Match, Said
from tests.simhost.engine import Engine
from tests.simhost.faults import Call, Delay, Error, Fault, Hang, HangUp, Hook, Phase, Reset, Rule, Run
from tests.simhost.fleet import FleetSettings, SimFleet
from tests.simhost.host import SimHost

__all__ = [
    "Behaviour", "Call", "Delay", "Engine", "Error", "Fault", "FleetSettings", "Hang", "HangUp", "Hook", "Match",
    "Phase", "Reset", "Rule", "Run", "Said", "SimFleet", "SimHost",
]  # fmt: skip
