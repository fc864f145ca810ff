"""Classifies the 1,797 hand-written digits of the UCI data set on a ringlaunch daemon, layer by layer.

    python examples/digits.py                    the running daemon; starts a private one if there is none
    python examples/digits.py --wrong-weight     shows that one wrong weight is found

Every layer of the small network (digits_train.py made it) is a kernel of its own (digits_kernels.cu), launched one
by one: seven launches a digit. Every logit that comes back is compared with a NumPy forward pass. The exit code is
0 only if all agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from digits_train import CLASSES, REQUIRED_ACCURACY, forward, load_digits

HERE = Path(__file__).parent
TOLERANCE = 1e-4
LAUNCHES_PER_DIGIT = 7
# So many digits are enqueued before the next wait: their launches fit into the ring, so that what is measured is the
# enqueue and not the wait for room.
BURST = 200
PERCENTILES = (50, 99, 99.9)


def classify(client, images: np.ndarray, network: dict[str, np.ndarray], advance) -> dict[str, np.ndarray]:
    """Launches every layer for every image; what came back, and what each enqueue took (`enqueue_ns`).

    `advance(n)` is called when n more digits are done.
    """
    module = client.compile((HERE / "digits_kernels.cu").read_text(), name="digits_kernels.cu")
    matrix_vector, bias, relu, softmax, argmax = (
        module.kernel(name) for name in ("matrix_vector", "bias", "relu", "softmax", "argmax")
    )
    count, inputs = images.shape
    hidden = len(network["hidden_bias"])

    x = client.array(images)
    w1, b1 = client.array(network["hidden_weights"]), client.array(network["hidden_bias"])
    w2, b2 = client.array(network["output_weights"]), client.array(network["output_bias"])
    # What no kernel has written stays NaN (or -1), which agrees with nothing.
    sum1, biased1, hidden1 = (client.array(np.full((count, hidden), np.nan, np.float32)) for _ in range(3))
    sum2, logits, probabilities = (client.array(np.full((count, CLASSES), np.nan, np.float32)) for _ in range(3))
    labels = client.array(np.full(count, -1, np.int32))
    client.synchronize()

    clock = time.perf_counter_ns
    marks = np.empty((count, LAUNCHES_PER_DIGIT + 1), np.int64)
    begin = clock()
    for first in range(0, count, BURST):
        burst = range(first, min(first + BURST, count))
        for digit in burst:
            t0 = clock()
            matrix_vector[1, hidden](w1, x, sum1, digit, hidden, inputs)
            t1 = clock()
            bias[1, hidden](sum1, b1, biased1, digit, hidden)
            t2 = clock()
            relu[1, hidden](biased1, hidden1, digit, hidden)
            t3 = clock()
            matrix_vector[1, CLASSES](w2, hidden1, sum2, digit, CLASSES, hidden)
            t4 = clock()
            bias[1, CLASSES](sum2, b2, logits, digit, CLASSES)
            t5 = clock()
            softmax[1, CLASSES](logits, probabilities, digit, CLASSES)
            t6 = clock()
            argmax[1, 1](probabilities, labels, digit, CLASSES)
            t7 = clock()
            marks[digit] = t0, t1, t2, t3, t4, t5, t6, t7
        client.synchronize()
        advance(len(burst))
    seconds = (clock() - begin) / 1e9

    return {
        "logits": logits.numpy(),
        "probabilities": probabilities.numpy(),
        "labels": labels.numpy(),
        "enqueue_ns": np.diff(marks, axis=1).ravel(),
        "seconds": seconds,
    }


def reference(images: np.ndarray, network: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same by a NumPy forward pass, in double precision."""
    exact = {name: value.astype(np.float64) for name, value in network.items()}
    logits = forward(exact, images.astype(np.float64))[1]
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return {"logits": logits, "probabilities": probabilities, "labels": logits.argmax(axis=1)}


def disagreements(result: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[str]:
    """What differs, a sentence each; empty if nothing does."""
    found = []
    for name in ("logits", "probabilities"):
        got = result[name]
        wrong = ~(np.abs(got - expected[name]) <= TOLERANCE)  # so that NaN is wrong
        if wrong.any():
            digit, place = np.argwhere(wrong)[0]
            found.append(
                f"{wrong.sum()} of {wrong.size} {name} differ from NumPy's by more than {TOLERANCE:g}, first that of "
                f"digit {digit}, class {place}: got {got[digit, place]:.6g}, expected "
                f"{expected[name][digit, place]:.6g}"
            )
            if np.isnan(got).any():
                found.append(f"{np.isnan(got).sum()} of {wrong.size} {name} were never computed")
    wrong = result["labels"] != expected["labels"]
    if wrong.any():
        found.append(f"{wrong.sum()} of {wrong.size} labels are not the class of NumPy's largest logit")
    return found


@contextmanager
def progress(total: int):
    """A bar at a terminal, else a line for every tenth; gives the function that advances it."""
    what = f"{total} digits, {total * LAUNCHES_PER_DIGIT} launches"
    if sys.stdout.isatty():
        from rich import progress as rich

        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
        # No refreshing thread: it would take the interpreter lock while an enqueue is measured.
        with rich.Progress(*columns, auto_refresh=False) as bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.update(task, advance=n, refresh=True)
        return

    done = 0

    def advance(n: int) -> None:
        nonlocal done
        before, done = done, done + n
        if before * 10 // total != done * 10 // total:
            print(f"  {done:4d} of {total} digits", flush=True)

    print(what, flush=True)
    yield advance


def clock_ns() -> float:
    """What a reading of the clock takes: it is part of every enqueue latency printed."""
    marks = [time.perf_counter_ns() for _ in range(1000)]
    return float(np.median(np.diff(marks)))


def report(result: dict[str, np.ndarray], labels: np.ndarray, held_out: np.ndarray) -> float | None:
    """Prints the figures; the accuracy on held-out digits, if there are any."""
    launches = len(result["enqueue_ns"])
    right = result["labels"] == labels
    print(f"accuracy            {right.mean():.2%} of all {len(right)} digits")
    if len(held_out):
        print(f"                    {right[held_out].mean():.2%} of the {len(held_out)} that were not trained on")
    seconds = result["seconds"]
    print(f"launches            {launches} in {seconds * 1e3:.1f} ms: {launches / seconds:,.0f} a second")
    p50, p99, p999 = np.percentile(result["enqueue_ns"], PERCENTILES) / 1e3
    print(
        f"enqueue latency     p50 {p50:.2f} us, p99 {p99:.2f} us, p99.9 {p999:.2f} us "
        f"({clock_ns() / 1e3:.2f} us of it the clock)"
    )
    return float(right[held_out].mean()) if len(held_out) else None


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", help="the daemon's socket (else $RINGLAUNCH_SOCKET, else the user's default)")
    parser.add_argument(
        "--driver", help="the driver of a private daemon, where one has to be started: host, cuda, null"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="classify only the first N digits")
    parser.add_argument("--weights", type=Path, default=HERE / "digits_weights.npz", help="the network's weights")
    parser.add_argument(
        "--wrong-weight",
        action="store_true",
        help="alter one weight on its way to the daemon: the comparison must fail",
    )
    arguments = parser.parse_args(argv)
    if arguments.limit is not None and arguments.limit < 1:
        parser.error(f"--limit takes 1 or more, not {arguments.limit}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        import ringlaunch as rl
    except ImportError as error:
        print(
            f"digits: the package ringlaunch cannot be imported ({error}); install it: pip install .", file=sys.stderr
        )
        return 1

    try:
        with np.load(arguments.weights) as file:
            network = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        print(
            f"digits: the weights {arguments.weights} cannot be read: {error}; digits_train.py makes them",
            file=sys.stderr,
        )
        return 1
    held_out = network.pop("held_out")
    images, labels = load_digits()
    images, labels = images[: arguments.limit], labels[: arguments.limit]
    held_out = held_out[held_out < len(images)]
    sent = dict(network)
    if arguments.wrong_weight:
        sent["output_weights"] = network["output_weights"].copy()
        sent["output_weights"][3, 7] += 0.5

    try:
        with rl.connect(socket=arguments.socket, driver=arguments.driver) as client:
            driver = client.daemon.driver
            print(f"daemon {client.daemon.pid}, driver {driver}, device {client.daemon.device_name}")
            with progress(len(images)) as advance:
                result = classify(client, images, sent, advance)
    except rl.Error as error:
        print(f"digits: FAILED while launching: {error}", file=sys.stderr)
        return 1

    accuracy = report(result, labels, held_out)
    expected = reference(images, network)
    found = disagreements(result, expected)
    if arguments.limit is None and accuracy is not None and accuracy < REQUIRED_ACCURACY:
        found.append(f"{accuracy:.2%} of the held-out digits are right, fewer than {REQUIRED_ACCURACY:.0%}")
    if found:
        print("digits: FAILED: " + "\n  ".join(found), file=sys.stderr)
        if driver == "null":
            print("  The null driver runs no kernel; use a daemon with --driver host.", file=sys.stderr)
        return 1
    worst = np.abs(result["logits"] - expected["logits"]).max()
    print(f"all {result['logits'].size} logits agree with NumPy (largest difference {worst:.1e})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
