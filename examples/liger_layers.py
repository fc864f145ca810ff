"""Layers of Liger-Kernel in a small language model that learns: a program that knows nothing of ringlaunch.

    pip install torch liger-kernel
    python examples/liger_layers.py                                              # Triton launches the kernels
    python -m ringlaunch run --report --mode inline examples/liger_layers.py     # ringlaunch does

Both print the same losses to the last bit, and how long a step takes.
"""

import argparse
import os
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # so that two runs are one to the last bit

import torch
from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
from liger_kernel.ops.layer_norm import LigerLayerNormFunction
from liger_kernel.ops.rms_norm import LigerRMSNormFunction
from liger_kernel.ops.swiglu import LigerSiLUMulFunction


class Block(torch.nn.Module):
    """RMS norm, and a gated layer behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(width))
        self.gate = torch.nn.Linear(width, 2 * width, bias=False)
        self.up = torch.nn.Linear(width, 2 * width, bias=False)
        self.down = torch.nn.Linear(2 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal = LigerRMSNormFunction.apply(x, self.scale, 1e-6, 0.0, "llama", False)
        return x + self.down(LigerSiLUMulFunction.apply(self.gate(normal), self.up(normal)))


class Model(torch.nn.Module):
    def __init__(self, words: int, width: int, depth: int) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(words, width)
        self.blocks = torch.nn.ModuleList(Block(width) for _ in range(depth))
        self.weight, self.bias = torch.nn.Parameter(torch.ones(width)), torch.nn.Parameter(torch.zeros(width))
        self.out = torch.nn.Linear(width, words, bias=False)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = self.words(text)
        for block in self.blocks:
            x = block(x)
        x = LigerLayerNormFunction.apply(x, self.weight, self.bias, 1e-5)
        found = self.out(x).flatten(0, 1)
        loss = LigerCrossEntropyFunction.apply(found, following.flatten(), None)
        return loss[0] if isinstance(loss, tuple) else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    given = parser.parse_args()

    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    model = Model(1000, given.width, given.depth).cuda()
    learner = torch.optim.SGD(model.parameters(), lr=0.1)
    text = torch.randint(0, 1000, (4, 65), device="cuda")
    losses, times = [], []
    for _ in range(given.steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        loss = model(text[:, :-1].contiguous(), text[:, 1:].contiguous())
        learner.zero_grad()
        loss.backward()
        learner.step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        losses.append(loss.item())
    for step, loss in enumerate(losses):
        print(f"step {step}: loss {loss:.4f} ({loss.hex()})")
    print(f"# a step: {sorted(times)[len(times) // 2] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
