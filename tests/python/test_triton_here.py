"""Inline launches of Triton kernels, without a GPU: what is launched, with what, and how it is counted.

Each test is a process of its own, with a libcuda that keeps what it is handed (inline_program.py)."""

import pytest
from triton_support import needs_stub_launcher, scenarios

SCENARIOS = scenarios("inline_program.py")
pytestmark = needs_stub_launcher


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_inline(run_over_stub, scenario):
    run_over_stub("inline_program.py", scenario)


def test_the_scenarios_are_found():
    assert "hits" in SCENARIOS
