"""The examples of the docstrings, run against a daemon with the host driver; and that there is a docstring."""

import doctest
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest

import ringlaunch as rl

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.iter_modules(rl.__path__, "ringlaunch.")
    if found.name != "ringlaunch._core"
]


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    seen = set()
    for module in [rl, *MODULES]:
        for test in finder.find(module):
            if test.examples and test.name not in seen:
                seen.add(test.name)
                yield test


@pytest.mark.parametrize("test", list(examples()), ids=lambda test: test.name)
def test_an_example(test, host, client, monkeypatch):
    monkeypatch.setenv("RINGLAUNCH_SOCKET", host.socket)
    test.globs.update(np=np, rl=rl, client=client)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said = []
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
    assert runner.tries > 0


def test_there_are_examples():
    assert len(list(examples())) >= 10


def public():
    for name in rl.__all__:
        thing = getattr(rl, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing
            if inspect.isclass(thing) and not issubclass(thing, BaseException):
                for member, value in vars(thing).items():
                    if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                        yield f"{name}.{member}", value


@pytest.mark.parametrize(("name", "thing"), list(public()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_public_has_a_docstring(name, thing):
    assert inspect.getdoc(thing)


CANNOT_FAIL = {"Buffer.stride", "Event.done", "Client.close", "Stream.close", "uninstall"}


@pytest.mark.parametrize(("name", "thing"), list(public()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_docstring_names_all_parameters_and_what_is_raised(name, thing):
    if not inspect.isfunction(thing):
        return
    text = inspect.getdoc(thing)
    for parameter in inspect.signature(thing).parameters:
        if parameter != "self":
            assert re.search(rf"^(\w+, )*{parameter}(, \w+)*( :|$)", text, re.MULTILINE), parameter
    assert name in CANNOT_FAIL or "Raises\n------" in text
