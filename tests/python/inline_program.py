"""What test_triton_here.py runs, each function in a process of its own: inline launches over a libcuda that runs
nothing and lists what it was given. Each checks by itself and prints its name last."""

import sys

from stub_program import Tensor, stub, wrapped, x

# ---- scenarios


def hits():
    """Each launch counts, the first one of its kind, which is Triton's, too."""
    kernel = wrapped()
    kernel[(0,)](x, 1, 1)
    (variant,) = kernel.cache
    assert variant.hits == 0 and stub.stub_count() == 0
    for grid in ((1,), (0,), (2, 2, 1), (2**16, 2**16)):
        kernel[grid](x, 1, 1)
    assert variant.hits == stub.stub_count() == 2
    kernel[(1,)](Tensor(4100), 1, 1)
    kernel[lambda meta: (1, 0)](Tensor(4100), 1, 1)
    kernel[lambda meta: (1, 1)](Tensor(4100), 1, 1)
    assert [each.hits for each in kernel.cache] == [2, 2] and stub.stub_count() == 4


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print(sys.argv[1])
