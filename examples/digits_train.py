"""Trains the network that digits.py runs and writes its weights, with NumPy alone.

    python examples/digits_train.py [--out examples/digits_weights.npz]

The data are the 1,797 hand-written 8 x 8 digits of the UCI data set, from the copy that scikit-learn ships. A fifth
of them is held out: the network never sees those, and the weights file says which they are. Same seed, same
NumPy: same weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

SEED = 20
HIDDEN = 32
CLASSES = 10
HELD_OUT_SHARE = 0.2
EPOCHS = 120
BATCH = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
REQUIRED_ACCURACY = 0.95


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The images, (1797, 64) float32 from 0 to 1, and what they show, (1797,) int32."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise SystemExit(
            "digits: reading the UCI digits needs the package scikit-learn, which ships them, and Python did not "
            f"find it ({error}); install it: {sys.executable} -m pip install scikit-learn"
        ) from error
    pixels, labels = load(return_X_y=True)
    return np.ascontiguousarray(pixels / 16.0, dtype=np.float32), labels.astype(np.int32)


def forward(network: dict[str, np.ndarray], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hidden layer and the logits of each image."""
    hidden = np.maximum(images @ network["hidden_weights"].T + network["hidden_bias"], 0)
    return hidden, hidden @ network["output_weights"].T + network["output_bias"]


def gradients(network: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Of the mean cross-entropy, by hand: two layers need no framework."""
    hidden, logits = forward(network, images)
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    softmax[np.arange(len(labels)), labels] -= 1
    d_logits = softmax / len(labels)
    d_hidden = (d_logits @ network["output_weights"]) * (hidden > 0)
    return {
        "hidden_weights": d_hidden.T @ images,
        "hidden_bias": d_hidden.sum(axis=0),
        "output_weights": d_logits.T @ hidden,
        "output_bias": d_logits.sum(axis=0),
    }


def train(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Adam with weight decay, the learning rate falling to zero over the epochs."""
    inputs = images.shape[1]
    network = {
        "hidden_weights": random.normal(0, np.sqrt(2 / inputs), (HIDDEN, inputs)),
        "hidden_bias": np.zeros(HIDDEN),
        "output_weights": random.normal(0, np.sqrt(1 / HIDDEN), (CLASSES, HIDDEN)),
        "output_bias": np.zeros(CLASSES),
    }
    mean = {name: np.zeros_like(value) for name, value in network.items()}
    square = {name: np.zeros_like(value) for name, value in network.items()}
    step = 0
    for epoch in range(EPOCHS):
        rate = LEARNING_RATE * (1 - epoch / EPOCHS)
        order = random.permutation(len(images))
        for begin in range(0, len(order), BATCH):
            batch = order[begin : begin + BATCH]
            step += 1
            for name, gradient in gradients(network, images[batch], labels[batch]).items():
                mean[name] = 0.9 * mean[name] + 0.1 * gradient
                square[name] = 0.999 * square[name] + 0.001 * gradient**2
                adam = (mean[name] / (1 - 0.9**step)) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
                network[name] -= rate * (adam + WEIGHT_DECAY * network[name])
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in network.items()}


def accuracy(network: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    return float((forward(network, images)[1].argmax(axis=1) == labels).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("digits_weights.npz"))
    out = parser.parse_args().out

    images, labels = load_digits()
    random = np.random.default_rng(SEED)
    order = random.permutation(len(images))
    held_out = np.sort(order[: int(len(images) * HELD_OUT_SHARE)]).astype(np.int32)
    seen = np.setdiff1d(np.arange(len(images)), held_out)

    network = train(images[seen], labels[seen], random)
    on_held_out = accuracy(network, images[held_out], labels[held_out])
    print(f"trained on {len(seen)} digits: {accuracy(network, images[seen], labels[seen]):.2%} of them right")
    print(f"held out {len(held_out)} digits: {on_held_out:.2%} of them right")
    if on_held_out < REQUIRED_ACCURACY:
        print(
            f"not written: {on_held_out:.2%} on held-out digits is less than {REQUIRED_ACCURACY:.0%}", file=sys.stderr
        )
        return 1
    np.savez_compressed(out, held_out=held_out, **network)
    print(f"wrote {out} ({out.stat().st_size} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
