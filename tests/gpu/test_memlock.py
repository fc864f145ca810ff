"""What CUDA pins for a daemon whose user may lock next to nothing: staging memory, which is registered with CUDA."""

import os
import subprocess
import tempfile
import time

import numpy as np
import pytest
from gpu_support import WATCHDOG_S, daemon_program

import ringlaunch as rl

NOBODY = 65534
DRIVER = "cuda"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a daemon of another user")
def test_staging_memory_is_registered_beyond_the_limit_of_locked_memory():
    """`ulimit -l 64` (KiB) and no privilege: 256 MiB of pinned arrays are there all the same, and are copied from."""
    with tempfile.TemporaryDirectory(prefix="rl-lock-") as folder:
        os.chown(folder, NOBODY, NOBODY)
        os.chmod(folder, 0o755)
        socket = os.path.join(folder, "daemon.sock")
        command = [daemon_program(), "serve", "--driver", DRIVER, "--socket", socket, "--allow-uid", "0"]
        with open(os.path.join(folder, "log"), "w+") as log:
            daemon = subprocess.Popen(
                ["sh", "-c", 'ulimit -l 64 && exec "$@"', "sh", *command],
                stdout=log,
                stderr=log,
                cwd="/",
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
            )
            try:
                end = time.monotonic() + WATCHDOG_S
                while not os.path.exists(socket) and daemon.poll() is None and time.monotonic() < end:
                    time.sleep(0.02)
                log.seek(0)
                said = log.read()
                if daemon.poll() in (126, 127) or "Permission denied" in said:
                    pytest.skip(f"user {NOBODY} may not run the daemon, or use the GPU, here: {said}")
                with rl.connect(socket=socket, start=False, daemon_uid=NOBODY, timeout=WATCHDOG_S) as client:
                    assert client.daemon.driver == DRIVER
                    source, out = (client.pinned_empty(32 << 20, np.uint32) for _ in range(2))
                    source[:] = np.arange(source.size, dtype=np.uint32)
                    there = client.empty(source.size, np.uint32)
                    there.copy_from(source)
                    there.copy_to(out)
                    client.synchronize(WATCHDOG_S)
                    assert DRIVER == "null" or np.array_equal(out, source)
            finally:
                daemon.terminate()
                daemon.wait(WATCHDOG_S)
