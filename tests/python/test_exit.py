"""The end of the interpreter with work in flight: no crash, no hang, no word on stderr.

Each with a daemon of its own: a session that ends with a long kernel running costs its neighbours a restart.
"""

import pytest

ENDS = {
    "falling off the end": "",
    "sys.exit": "sys.exit(0)",
    "os._exit": "sys.stdout.flush(); os._exit(0)",
    "a thread that waits": """
thread = threading.Thread(target=stream.synchronize, daemon=True)
thread.start()
time.sleep(0.05)
""",
    "threads that launch": """
def launches():
    while True:
        kernels["increment"][1, 1](x, stream=stream)
for _ in range(3):
    threading.Thread(target=launches, daemon=True).start()
time.sleep(0.05)
""",
    "a thread that copies": """
def copies():
    while True:
        x.copy_from(np.ones(x.size, np.int32), other)
        x.numpy(other)
other = client.stream()
threading.Thread(target=copies, daemon=True).start()
time.sleep(0.05)
""",
    "a cycle that holds everything": """
class Holder: pass
holder = Holder()
holder.all = [holder, client, stream, x, kernels, kernels["increment"][1, 1], stream.record()]
del client, stream, x, kernels
""",
    "an awaited event": """
import asyncio
async def main():
    async def later():
        await stream.record()
    task = asyncio.create_task(later())
    await asyncio.sleep(0.05)
asyncio.run(main())
""",
    "a full ring": "for _ in range(60): stream.record()",
    "a closed client": "client.close()",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_the_interpreter_ends(run_script, own_host, end):
    done = run_script(
        f"""
x = client.zeros(100_000, np.int32)
stream = client.stream(ring_slots=64)
client.synchronize()
kernels["nap"][1, 1](3_000, stream=stream)
kernels["increment"][1, 1](x, stream=stream)
print("end", flush=True)
{end}
""",
        daemon=own_host,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_an_uncaught_exception_ends_a_block_at_once(run_script, own_host):
    done = run_script(
        """
with client:
    kernels["nap"][1, 1](100_000)
    raise SystemExit(7)
""",
        daemon=own_host,
    )
    assert (done.returncode, done.stderr) == (7, "")
