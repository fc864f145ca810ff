"""`await event`: several loops, several events, cancelling."""

import asyncio
import threading

import numpy as np
import pytest
from support import KERNELS, WATCHDOG_S, Gate

import ringlaunch as rl


async def later(event):
    await event


def test_awaiting_what_is_done(client):
    async def main():
        event = client.default_stream.record()
        event.wait()
        await event

    asyncio.run(main())


def test_the_loop_goes_on_while_an_event_is_awaited(client, kernels):
    async def main(gate):
        gate.hold(client.default_stream)
        event = client.default_stream.record()

        async def take_turns():
            for _ in range(10):
                assert not event.done()
                await asyncio.sleep(0)
            gate.open()

        await asyncio.wait_for(asyncio.gather(later(event), take_turns()), WATCHDOG_S)
        assert event.done()

    with Gate(client, kernels) as gate:
        asyncio.run(main(gate))


def test_many_events_of_many_streams(client, kernels):
    async def main():
        finished = []

        async def work(number):
            stream = client.stream()
            for step in range(5):
                kernels["nap"][1, 1](1 + number % 3, stream=stream)
                await stream.record()
                finished.append((number, step))

        await asyncio.wait_for(asyncio.gather(*map(work, range(8))), WATCHDOG_S)
        assert sorted(finished) == [(number, step) for number in range(8) for step in range(5)]

    asyncio.run(main())


def test_several_awaits_of_one_stream_in_any_order(client, kernels):
    async def main():
        stream = client.stream()
        events = []
        for _ in range(20):
            kernels["nap"][1, 1](2, stream=stream)
            events.append(stream.record())
        await asyncio.wait_for(asyncio.gather(*map(later, reversed(events)), later(events[3])), WATCHDOG_S)

    asyncio.run(main())


def test_cancelling_leaves_the_work_alone(client, kernels):
    async def main(gate):
        stream = client.stream()
        x = client.zeros(1, np.int32)
        gate.hold(stream)
        kernels["increment"][1, 1](x, stream=stream)
        event = stream.record()
        tasks = [asyncio.create_task(later(event)) for _ in range(3)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(later(event), 0.01)
        assert not event.done()
        gate.open()
        await asyncio.wait_for(asyncio.gather(*tasks[1:]), WATCHDOG_S)
        assert x.numpy(stream)[0] == 1
        assert not stream._waiter._awaited
        assert not stream._waiter._readers

    with Gate(client, kernels) as gate:
        asyncio.run(main(gate))


def test_a_loop_may_end_with_an_await_pending(client, kernels):
    stream = client.stream()

    async def main():
        task = asyncio.create_task(later(stream.record()))
        await asyncio.sleep(0.01)
        return task

    with Gate(client, kernels) as gate:
        gate.hold(stream)
        assert asyncio.run(main()).cancelled()

    async def again():
        await asyncio.wait_for(later(stream.record()), WATCHDOG_S)

    asyncio.run(again())


def test_loops_of_several_threads_await_one_stream(client, kernels):
    stream = client.stream()
    failures = []

    async def main(number):
        for _ in range(20):
            kernels["nap"][1, 1](1 + number, stream=stream)
            await asyncio.wait_for(later(stream.record()), WATCHDOG_S)

    def thread(number):
        try:
            asyncio.run(main(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(WATCHDOG_S)
    assert not failures
    assert not any(each.is_alive() for each in threads)


def test_awaits_beside_waits(client, kernels):
    """A thread that waits leads; the loop learns from it."""
    stream = client.stream()

    async def main():
        for _ in range(20):
            kernels["nap"][1, 1](3, stream=stream)
            event = stream.record()
            blocked = asyncio.to_thread(event.wait, WATCHDOG_S)
            await asyncio.wait_for(asyncio.gather(later(event), blocked), WATCHDOG_S)

    asyncio.run(main())


def test_an_await_raises_what_stopped_the_stream(own_host):
    with own_host.connect() as client:
        stream = client.stream()

        async def main():
            kernels = client.compile(KERNELS, name="kernels.cu")
            with Gate(client, kernels) as gate:
                gate.hold(stream)
                kernels["crash"][1, 1](None, stream=stream)
                awaiting = asyncio.create_task(later(stream.record()))
                await asyncio.sleep(0)  # until it awaits
            with pytest.raises(rl.KernelFault, match="crash"):
                await asyncio.wait_for(awaiting, WATCHDOG_S)

        asyncio.run(main())
        stream.close()


def test_an_await_ends_with_the_daemon(own_host):
    client = own_host.connect()

    async def main():
        kernels = client.compile(KERNELS, name="kernels.cu")
        kernels["nap"][1, 1](60_000)
        task = asyncio.create_task(later(client.default_stream.record()))
        await asyncio.sleep(0.05)
        own_host.process.kill()
        with pytest.raises(rl.DaemonLost):
            await asyncio.wait_for(task, WATCHDOG_S)

    asyncio.run(main())


def test_awaiting_what_was_closed(client):
    event = client.stream().record()
    event.wait(WATCHDOG_S)

    async def main():
        await event  # done is done
        client.close()
        with pytest.raises(rl.Closed):
            await client.default_stream.record()

    asyncio.run(main())
