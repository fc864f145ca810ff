"""What inline_program.py runs: kernels from files, in a program without Triton, over a libcuda that runs nothing.

usage: saved_program.py NAME FILE EXPECTED. Compares what launches were given with what they were where Triton is."""

import json
import sys

from stub_program import Float32, Tensor, entries, error_of, stub, takes, x


def launched(function):
    """Grid and parameters of each launch that it makes."""
    begin = stub.stub_count()
    function()
    return [[entry.grid, list(entry.words)] for entry in entries(begin)]


def call_first(kernel, _):
    for i in range(40):
        kernel[(i % 5 + 1,)](x if i % 3 else Tensor(4100), i, b=7 * i)
    kernel[lambda meta: (meta["a"], 2)](x, 4, 2**62)
    kernel[(1,)](x, 5, 6, stream=64 if i == 0 else None)


def call_layered(kernel, _):
    for i in range(12):
        kernel[lambda meta: (meta["M"] + meta["EVEN"],)](x, i % 4, b=i)


def call_tile(kernel, descriptor):
    out = Tensor(1 << 20)
    for i in range(20):
        described = descriptor(Tensor(4096 * (i % 3 + 1)), [64, 16 + 16 * (i % 2)], [16 + 16 * (i % 2), 1], [16, 16])
        kernel[(i + 1,)](described, out, N=16)


CALLS = {"first": call_first, "layered": call_layered, "tile": call_tile}


def main(name, path, expected_path):
    sys.modules["triton"] = None
    import ringlaunch as rl
    from ringlaunch import _core

    with open(expected_path) as file:
        expected = json.load(file)
    if name == "tile":
        takes(128, 4, 4, 8, 8, 8, 8, 8)
    given = {"heuristics": {"EVEN": lambda args: args["b"] % 2 == 0}} if name == "layered" else {}
    kernel = rl.load(path, mode="inline", **given)
    make = CALLS[name]
    for _ in range(2):
        assert launched(lambda: make(kernel, rl.TensorDescriptor)) == expected
    handed = _core.triton_region_counts()[1]

    def in_region():
        with rl.region():
            make(kernel, rl.TensorDescriptor)

    assert launched(in_region) == expected
    assert _core.triton_region_counts()[1] == handed + len(expected)
    innermost = kernel
    while not hasattr(innermost, "_slow_calls"):
        innermost = innermost.fn
    # One for each key, in which a tuple of constants, an alignment and None are of kinds of their own.
    assert innermost._slow_calls <= 8, innermost._slow_calls
    assert sum(variant.hits for variant in innermost.cache) == stub.stub_count()
    if name == "tile":
        for wrong in (
            rl.TensorDescriptor(Tensor(4096), [64, 16], [16, 1], [16, 8]),
            rl.TensorDescriptor(type("Half", (Tensor,), {"dtype": Float32("float16")})(), [64, 16], [16, 1], [16, 16]),
        ):
            error = error_of(rl.NotFound, lambda wrong=wrong: kernel[(1,)](wrong, x, N=16))
            assert "holds no variant for (described: tensordesc<fp" in str(error), error
    for value in ("text", Float32("float32"), object()):
        error = error_of((rl.ParamTypeError, rl.NotFound), lambda value=value: kernel[(1,)](value, value, value))
        assert "kernel" in str(error)
    print("the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
