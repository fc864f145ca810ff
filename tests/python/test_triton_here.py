"""Inline launches of Triton kernels, without a GPU: what is launched, with what, and how it is counted.

Each test is a process of its own, with a libcuda that keeps what it is handed (inline_program.py; inline_run_program.py
for what Triton's run() looks at besides the arguments)."""

import pytest
from triton_support import needs_stub_launcher, scenarios

PROGRAMS = ("inline_program.py", "inline_run_program.py")
SCENARIOS = [(program, scenario) for program in PROGRAMS for scenario in scenarios(program)]
pytestmark = needs_stub_launcher


@pytest.mark.parametrize(("program", "scenario"), SCENARIOS, ids=[scenario for _, scenario in SCENARIOS])
def test_inline(run_over_stub, program, scenario):
    run_over_stub(program, scenario)


def test_the_scenarios_are_found():
    assert {"hits", "settings"} <= {scenario for _, scenario in SCENARIOS}
