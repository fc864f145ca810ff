"""Why a daemon runs the driver that it runs, where nobody asked for that one."""

import os
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


LONG = ["\u00e9" * 100] * 12


@pytest.mark.parametrize("folders", [[b"l\xff\xe9b"], LONG, ["x", *LONG]], ids=["no utf-8", "long", "odd"])
def test_a_note_that_is_no_utf8_or_too_long_is_made_so(folders, tmp_path, monkeypatch):
    place = os.path.join(os.fsencode(tmp_path), *map(os.fsencode, folders))
    os.makedirs(place)
    with open(os.path.join(place, b"libcuda.so.1"), "wb") as library:
        library.write(b"no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", os.fsdecode(place))
    daemon = Daemon("auto")
    try:
        with daemon.connect() as client:
            note = client.daemon.driver_note
            if client.daemon.driver == "cuda":
                pytest.skip(f"there is a GPU here: {note}")
            assert "libcuda.so.1" in note or len(note.encode()) > 2040
            assert len(note.encode()) <= 2048
            assert ("\ufffd" in note) == (len(folders) == 1)
            with pytest.raises(rl.Unsupported, match="runs with driver host"):
                rl.connect(daemon.socket, driver="null", start=False)
    finally:
        daemon.stop()


def test_a_socket_whose_name_is_no_utf8_is_served(host, tmp_path, monkeypatch):
    link = os.path.join(os.fsencode(tmp_path), b"s\xff")
    os.symlink(host.socket, link)
    monkeypatch.setenv("RINGLAUNCH_SOCKET", os.fsdecode(link))
    with rl.connect(start=False) as client:
        assert client.daemon.socket.endswith("s\ufffd")
