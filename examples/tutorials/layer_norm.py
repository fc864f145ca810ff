"""Layer norm, forward and backward, and as a function that torch differentiates.

    python examples/tutorials/layer_norm.py

The gradients of weight and bias are sums over all rows. Each program of the backward kernel goes through some rows and
keeps the sums of these in registers; a second kernel adds up what the programs have. Nothing is locked, and the order
of the additions is always the same.
"""

import sys

import numpy as np
import triton
import triton.language as tl
import tutorial

import ringlaunch as rl

PARTS = 64  # programs that sum up gradients of weight and bias


@rl.jit
def forward_kernel(x, weight, bias, out, mean, inverse, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < columns
    values = tl.load(x + row * columns + i, inside, other=0.0).to(tl.float32)
    average = tl.sum(values, axis=0) / columns
    centred = tl.where(inside, values - average, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    tl.store(mean + row, average)
    tl.store(inverse + row, scale)
    result = centred * scale * tl.load(weight + i, inside, other=0.0) + tl.load(bias + i, inside, other=0.0)
    tl.store(out + row * columns + i, result, inside)


@rl.jit
def backward_kernel(dout, x, weight, mean, inverse, dx, weight_parts, bias_parts, rows, columns, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    inside = i < columns
    factor = tl.load(weight + i, inside, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    bias_sum = tl.zeros((BLOCK,), tl.float32)
    for number in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = number.to(tl.int64)
        scale = tl.load(inverse + row)
        values = tl.load(x + row * columns + i, inside, other=0.0).to(tl.float32)
        normal = tl.where(inside, (values - tl.load(mean + row)) * scale, 0.0)
        gradient = tl.load(dout + row * columns + i, inside, other=0.0).to(tl.float32)
        weight_sum += gradient * normal
        bias_sum += gradient
        scaled = gradient * factor
        along = tl.sum(scaled * normal, axis=0) / columns
        level = tl.sum(scaled, axis=0) / columns
        tl.store(dx + row * columns + i, (scaled - normal * along - level) * scale, inside)
    part = tl.program_id(0).to(tl.int64) * columns
    tl.store(weight_parts + part + i, weight_sum, inside)
    tl.store(bias_parts + part + i, bias_sum, inside)


@rl.jit
def sum_kernel(weight_parts, bias_parts, dweight, dbias, parts, columns, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    part = tl.arange(0, PARTS)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = part[:, None] * columns + i[None, :]
    inside = (part < parts)[:, None] & (i < columns)[None, :]
    tl.store(dweight + i, tl.sum(tl.load(weight_parts + at, inside, other=0.0), axis=0), i < columns)
    tl.store(dbias + i, tl.sum(tl.load(bias_parts + at, inside, other=0.0), axis=0), i < columns)


def warps_of(block):
    return min(max(block // 256, 1), 8)


def forward(x, weight, bias, out, mean, inverse, rows, columns, eps=1e-5):
    """Of each row: out = (x - its mean) / its deviation * weight + bias; mean and 1 / deviation are kept."""
    block = triton.next_power_of_2(columns)
    forward_kernel[(rows,)](
        x, weight, bias, out, mean, inverse, columns, eps, BLOCK=block, num_warps=warps_of(block)
    )  # fmt: skip


def backward(dout, x, weight, mean, inverse, dx, weight_parts, bias_parts, dweight, dbias, rows, columns):
    """The gradients; the parts are float32 of (PARTS, columns)."""
    block, parts = triton.next_power_of_2(columns), min(PARTS, rows)
    backward_kernel[(parts,)](
        dout, x, weight, mean, inverse, dx, weight_parts, bias_parts, rows, columns,
        BLOCK=block, num_warps=warps_of(block),
    )  # fmt: skip
    sum_kernel[(triton.cdiv(columns, 128),)](
        weight_parts, bias_parts, dweight, dbias, parts, columns, PARTS=PARTS, BLOCK=128
    )


def torch_function():
    """`layer_norm(x, weight, bias, eps)` for tensors of torch, differentiable."""
    import torch

    class LayerNorm(torch.autograd.Function):
        @staticmethod
        def forward(context, x, weight, bias, eps=1e-5):
            rows, columns = x.numel() // x.shape[-1], x.shape[-1]
            x = x.contiguous()
            out = torch.empty_like(x)
            mean, inverse = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
            forward(x, weight, bias, out, mean, inverse, rows, columns, eps)
            context.save_for_backward(x, weight, mean, inverse)
            return out

        @staticmethod
        def backward(context, dout):
            x, weight, mean, inverse = context.saved_tensors
            rows, columns = x.numel() // x.shape[-1], x.shape[-1]
            dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
            parts = [torch.empty((PARTS, columns), dtype=torch.float32, device=x.device) for _ in range(2)]
            backward(dout.contiguous(), x, weight, mean, inverse, dx, *parts, dweight, dbias, rows, columns)
            return dx, dweight, dbias, None

    return LayerNorm.apply


def with_numpy(x, weight, bias, dout, eps=1e-5):
    """out, dx, dweight and dbias in float64."""
    x, dout = x.astype(np.float64), dout.astype(np.float64)
    inverse = 1 / np.sqrt(x.var(axis=1, keepdims=True) + eps)
    normal = (x - x.mean(axis=1, keepdims=True)) * inverse
    scaled = dout * weight
    along, level = (scaled * normal).mean(axis=1, keepdims=True), scaled.mean(axis=1, keepdims=True)
    dx = (scaled - normal * along - level) * inverse
    return normal * weight + bias, dx, (dout * normal).sum(axis=0), dout.sum(axis=0)


def compare(client):
    random = np.random.default_rng(0)
    for rows, columns in ((1151, 1000), (3, 64)):
        a, gradient = (random.standard_normal((rows, columns), np.float32) for _ in range(2))
        w, b = (random.random(columns, np.float32) for _ in range(2))
        x, weight, bias, dout = (client.array(each) for each in (a, w, b, gradient))
        out, dx = client.zeros((rows, columns)), client.zeros((rows, columns))
        mean, inverse = client.zeros(rows), client.zeros(rows)
        weight_parts, bias_parts = client.zeros((PARTS, columns)), client.zeros((PARTS, columns))
        dweight, dbias = client.zeros(columns), client.zeros(columns)
        forward(x, weight, bias, out, mean, inverse, rows, columns)
        backward(dout, x, weight, mean, inverse, dx, weight_parts, bias_parts, dweight, dbias, rows, columns)
        found = (each.numpy() for each in (out, dx, dweight, dbias))
        for name, is_, expected in zip(("forward", "dx", "dweight", "dbias"), found, with_numpy(a, w, b, gradient)):
            yield f"{rows} x {columns}, {name}", is_, expected, 1e-3, 1e-3
    yield from compare_through_torch(random)


def compare_through_torch(random):
    """The same kernels on tensors of torch: launched by this process, on torch's stream."""
    try:
        import torch
    except ModuleNotFoundError:
        return
    if not torch.cuda.is_available():
        return
    shape = (300, 512)
    given = [random.standard_normal(shape, np.float32), *(random.random(shape[1], np.float32) for _ in range(2))]
    gradient = random.standard_normal(shape, np.float32)
    x, weight, bias = (torch.from_numpy(each).cuda().requires_grad_() for each in given)
    out = torch_function()(x, weight, bias)
    out.backward(torch.from_numpy(gradient).cuda())
    found = (out.detach(), x.grad, weight.grad, bias.grad)
    for name, is_, expected in zip(("forward", "dx", "dweight", "dbias"), found, with_numpy(*given, gradient)):
        yield f"through torch, {name}", is_.cpu().numpy(), expected, 1e-3, 1e-3


if __name__ == "__main__":
    sys.exit(tutorial.run(__doc__, compare))
