"""Why a daemon runs the driver that it runs, where nobody asked for that one."""

from pathlib import Path

import pytest
from support import Daemon

import ringlaunch as rl

CUBIN = Path(__file__).resolve().parents[1] / "driver" / "data" / "undeclared_sm120.cubin"


def test_a_client_is_told_why_there_is_no_gpu():
    daemon = Daemon("auto")
    try:
        with daemon.connect() as client:
            note = client.daemon.driver_note
            if client.daemon.driver == "cuda":
                pytest.skip(f"there is a GPU here: {note}")
            assert note.startswith("no CUDA here (")
            with pytest.raises(rl.BadImage) as refused:
                client.load(CUBIN)
            assert str(refused.value).endswith(f"; this daemon runs the host driver: {note}")
            with pytest.raises(rl.Unsupported) as other:
                rl.connect(daemon.socket, driver="null", start=False)
            assert f"runs with driver host ({note})" in str(other.value)
    finally:
        daemon.stop()


def test_of_a_driver_that_was_asked_for_there_is_nothing_to_say(host):
    with host.connect() as client:
        assert client.daemon.driver_note == ""
        with pytest.raises(rl.BadImage) as refused:
            client.load(CUBIN)
        assert "this daemon runs" not in str(refused.value)
