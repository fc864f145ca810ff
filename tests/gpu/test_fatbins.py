"""Fat binaries of nvcc on a GPU: compressed, with the code of several architectures, and with text to compile."""

import numpy as np
import pytest
from gpu_support import ROOT

import ringlaunch as rl

DATA = ROOT / "tests" / "driver" / "data"  # made from fat.cu there
SIGNATURES = {
    "compiled_for": ["pointer"],
    "step": ["pointer", "uint32", "uint32"],
    "mixed": ["pointer", "int8", "int16", "bytes[12, 4]", "float64", "bool"],
}


@pytest.fixture(autouse=True)
def _of_the_architecture(client):
    if client.daemon.architecture != "sm_90":
        pytest.skip(f"the fat binaries have code for sm_90, this device is {client.daemon.architecture}")


@pytest.mark.parametrize(("name", "compiled_for"), [("fat_cubins", 90), ("fat_ptx", 80)])
def test_the_code_for_the_device_is_taken_or_the_text_compiled(client, name, compiled_for):
    module = client.load(DATA / f"{name}.fatbin", signatures=SIGNATURES)
    assert sorted(module) == sorted(SIGNATURES)
    out = client.zeros(1, np.uint32)
    module["compiled_for"][1, 1](out)
    assert int(out.numpy()[0]) == compiled_for

    word, expected = client.array(np.array([5], np.uint32)), 5
    for i in range(1000):
        module["step"][1, 1](word, 3, i)
        expected = (expected * 3 + i) & 0xFFFFFFFF
    assert int(word.numpy()[0]) == expected

    values = client.zeros(5, np.float64)
    triple = np.array([1, 2, 3], np.float32).tobytes()
    module["mixed"][1, 1](values, -7, 300, triple, 2.5, True)
    assert values.numpy().tolist() == [-7, 300, 321, 2.5, 1]


def test_a_declaration_that_contradicts_the_fat_binary_is_refused(client):
    wrong = SIGNATURES | {"step": ["pointer", "uint64", "uint32"]}
    with pytest.raises(rl.BadImage, match="step"):
        client.load(DATA / "fat_cubins.fatbin", signatures=wrong)


def test_a_fat_binary_that_is_cut_short_is_refused(client):
    image = (DATA / "fat_cubins.fatbin").read_bytes()
    with pytest.raises(rl.BadImage, match="fat binary"):
        client.load(image[:-8], signatures=SIGNATURES)
