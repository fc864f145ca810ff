"""A forked child has no session: what it inherited raises, and it can connect anew."""

CHILD = """
x = client.array(np.arange(4, dtype=np.float32))
scale = kernels["scale"]
launch = scale.bind(1, 32)
stream = client.stream()
event = stream.record()
client.synchronize()
kernels["nap"][1, 1](300, stream=stream)
pid = os.fork()
if pid == 0:
    status = 1
    try:
        for use in (
            lambda: launch(x, 2.0, 4),
            lambda: scale[1, 32](x, 2.0, 4),
            lambda: client.empty(3),
            lambda: client.stream(),
            lambda: client.load(b"x"),
            lambda: client.synchronize(),
            lambda: stream.synchronize(),
            lambda: stream.record(),
            lambda: stream.barrier(),
            lambda: stream.resume(),
            lambda: x.numpy(),
            lambda: x.fill(1.0),
            lambda: x.copy_from([1, 2, 3, 4]),
        ):
            try:
                use()
            except rl.Closed as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError("no exception")
        repr(client), repr(stream), repr(x), repr(event)
        with rl.connect(sys.argv[1], start=False) as mine:
            module = mine.compile(KERNELS, name="kernels.cu")
            y = mine.zeros(1, np.int32)
            module["increment"][1, 1](y)
            assert y.numpy()[0] == 1
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    {end}
_, status = os.waitpid(pid, 0)
assert status == 0, status
launch(x, 2.0, 4)
assert x.numpy().tolist() == [0, 2, 4, 6]
stream.synchronize()
print("done")
"""


def test_a_child_is_refused_and_the_parent_goes_on(run_script):
    done = run_script(CHILD.format(end="os._exit(status)"))
    assert done.stdout == "done\n", done.stderr


def test_a_child_may_end_as_programs_do(run_script):
    done = run_script(CHILD.format(end="sys.exit(status)"))
    assert done.stdout == "done\n", done.stderr


def test_a_child_of_a_busy_parent(run_script):
    """Forked while other threads launch and wait."""
    done = run_script(
        """
x = client.zeros(1, np.int32)
stop = False
def launches():
    launch = kernels["increment"].bind(1, 1, client.stream())
    while not stop:
        launch(x)
def waits():
    while not stop:
        client.synchronize()
threads = [threading.Thread(target=target) for target in (launches, waits)]
for thread in threads:
    thread.start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        try:
            kernels["increment"][1, 1](x)
        except rl.Closed:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
for thread in threads:
    thread.join()
client.synchronize()
print("done")
"""
    )
    assert done.stdout == "done\n", done.stderr


def test_multiprocessing_by_fork(run_script):
    done = run_script(
        """
import multiprocessing
def work(i):
    with rl.connect(sys.argv[1], start=False) as mine:
        x = mine.array(np.full(3, i, np.int32))
        mine.compile(KERNELS, name="kernels.cu")["increment"][1, 1](x)
        return x.numpy().tolist()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(4)) == [[i + 1, i, i] for i in range(4)]
print("done")
"""
    )
    assert done.stdout == "done\n", done.stderr
