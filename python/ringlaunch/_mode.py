"""The modes of a Triton kernel's call, and the one that clients were opened with."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from ringlaunch import _core

if TYPE_CHECKING:
    from ringlaunch._client import Client

MODES = ("daemon", "inline")
NAMED = (*MODES, "embedded")  # what programs may ask for

_chosen: list[tuple[weakref.ref[Client], str]] = []  # in the order of their opening


def meant(named: str) -> str:
    """The mode that a program has named. An inline call within a region is an embedded one, and outside of one an
    embedded call is inline: who asks for the one has the other."""
    return "inline" if named == "embedded" else named


def mode_number(mode: str | None) -> int:
    """As triton_call.cpp has it."""
    return len(MODES) if mode is None else MODES.index(mode)


def choose(client: Client, mode: str) -> None:
    """From now on, while the client is open, calls have that mode where their kernel has none."""
    _chosen.append((weakref.ref(client, lambda _: _tell()), mode))
    _tell()


def client_closed() -> None:
    if _chosen:
        _tell()


def chosen() -> tuple[Client, str] | None:
    """The client that was opened last with a mode and is open still, and that mode."""
    for known, mode in reversed(_chosen):
        if (client := known()) is not None and not client.closed and not client._handle.forked:
            return client, mode
    return None


def _tell() -> None:
    _chosen[:] = [each for each in _chosen if (client := each[0]()) is not None and not client.closed]
    found = chosen()
    _core.triton_default_mode(mode_number(None if found is None else found[1]))
