"""Regions: launches go in order, all of them, with what they hold, and nothing comes before its turn.

Each test is a process of its own, with a libcuda that keeps what it is handed (region_program.py)."""

import importlib.util
import shutil

import pytest
from triton_support import needs_stub_launcher, scenarios

from ringlaunch import _core

SCENARIOS = scenarios("region_program.py")
pytestmark = needs_stub_launcher


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_region(run_over_stub, scenario):
    if "torch" in scenario and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: pip install torch")
    run_over_stub("region_program.py", scenario)


def test_the_scenarios_are_found():
    assert len(SCENARIOS) > 15


def test_without_cuda_a_region_does_nothing():
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here: tests/gpu/test_triton_stress.py")
    import ringlaunch as rl

    with rl.region() as region:
        region.flush()
    assert _core.triton_region_counts() == (0, 0, 0)
