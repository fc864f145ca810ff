#include "triton_region.hpp"

#include <pthread.h>

#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <ringlaunch/ring_producer.hpp>
#include <string>
#include <utility>

#include "errors.hpp"

#include "triton_inline.hpp"

namespace ringlaunch::python::triton {

namespace {

// Issued launches hold on to what they were given until there are so many lines of them: most have one.
constexpr std::uint64_t kReclaimLines = 64;

// A ring with its worker.
struct Lane {
    explicit Lane(std::unique_ptr<StreamIssuer> made) : issuer(std::move(made)), worker(*issuer) {}

    const std::unique_ptr<StreamIssuer> issuer;
    LaunchWorker worker;
    pthread_t owner{};   // the thread that is in the region
    bool aimed = false;  // launches in `context` on `stream` are as `by_itself` says
    bool by_itself = false;
    std::size_t paused = 0;  // operations of torch are running: what they launch is launched by itself
    std::uint64_t context = 0, stream = 0;
    std::uint64_t handed_over = 0;  // launches, for tests
};

// Made for the first region. It lives as long as the program: its thread is told to end before the
// interpreter does, but a thread of the program may be in a region even then.
Lane* lane = nullptr;
bool stopped = false;

// A forked child has no worker, and cannot use CUDA: it lets lie what the parent has.
void forget_all() {
    lane = nullptr;
    region_depth = 0;
}

bool make_lane() {
    static const bool guarded = ::pthread_atfork(nullptr, nullptr, forget_all) == 0;
    if (!guarded) {
        PyErr_NoMemory();
        return false;
    }
    try {
        lane = std::make_unique<Lane>(make_issuer()).release();
        return true;
    } catch (const Error& error) {
        set_error(error.status(), error.what());
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    }
    return false;
}

// Waits without the interpreter lock, where it is not over at once.
void drain() {
    Lane& mine = *lane;
    if (mine.worker.ring().issued() == mine.worker.ring().published()) return;
    PyThreadState* const state = PyEval_SaveThread();
    mine.worker.drain();
    PyEval_RestoreThread(state);
}

// Lets go of what launches were given that are issued by now. May run Python code.
void reclaim() {
    lane->worker.ring().reclaim([](void* object) { Py_DECREF(static_cast<PyObject*>(object)); });
}

// False: a Python error is set.
bool check_failure() {
    if (!lane->worker.failed()) [[likely]]
        return true;
    drain();
    const std::optional<LaunchWorker::Failure> failure = lane->worker.take_failure();
    if (!failure) return true;  // another took it meanwhile
    std::string more;
    if (failure->dropped != 0)
        more = "; of the launches behind it in its region " + std::to_string(failure->dropped) +
               (failure->dropped == 1 ? " was not made either" : " were not made either");
    return refused_inline(failure->why.kernel, failure->grid, failure->why.result, more);
}

// All launches are issued when this returns, and what they held is let go of.
bool flush() {
    bool well = true;
    do {
        drain();
        well = well && check_failure();
        PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
        PyErr_Fetch(&type, &value, &trace);
        reclaim();  // which may launch
        PyErr_Restore(type, value, trace);
    } while (!lane->worker.ring().all_issued());
    return well;
}

void copy_words(std::byte* to, std::span<const std::byte> from) noexcept {
    for (std::size_t i = 0; i < from.size(); i += 8) {
        const std::uint64_t word = load_word(from.data() + i);
        std::memcpy(to + i, &word, sizeof word);
    }
}

// Launches go to this context and stream from now on.
bool aim(std::uint64_t context, std::uint64_t stream) {
    if (!flush()) return false;
    lane->context = context;
    lane->stream = stream;
    lane->by_itself = stopped || lane->paused != 0 || launches_by_itself(stream);
    lane->aimed = true;
    if (lane->by_itself) return true;
    try {
        const auto paused = lane->worker.pause();
        lane->issuer->aim(context, stream);
        return true;
    } catch (const std::bad_alloc&) {
        lane->aimed = false;
        PyErr_NoMemory();
        return false;
    }
}

}  // namespace

bool in_region_of_this_thread() noexcept {
    return lane->owner == ::pthread_self();
}

namespace {

[[gnu::always_inline]] inline void hand_over(LaunchRing::Entry& entry, const RegionLaunch& launch) {
    LaunchWorker& worker = lane->worker;
    copy_words(entry.params(), launch.params);
    for (PyObject* object : launch.holds) worker.ring().hold(Py_NewRef(object));
    worker.publish(entry);
    ++lane->handed_over;
    if (worker.ring().unreclaimed() > kReclaimLines) [[unlikely]]
        reclaim();
}

[[gnu::always_inline]] inline LaunchRing::Entry* reserve(const RegionLaunch& launch) noexcept {
    return lane->worker.ring().reserve(launch.kernel, launch.grid, launch.params.size(), launch.holds.size());
}

// Whatever stands in its way.
[[gnu::noinline]] bool launch_patiently(const RegionLaunch& launch) {
    LaunchRing::Entry* entry = nullptr;
    while (true) {
        // What is waited for here may run other code of this thread, which may leave the region.
        if (!in_region() || (lane->aimed && lane->by_itself && lane->stream == launch.stream))
            return launch_inline(launch.kernel, launch.name, launch.grid, launch.params.data(),
                                 launch.stream);
        if (!lane->aimed || lane->stream != launch.stream || lane->context != launch.context) {
            if (!aim(launch.context, launch.stream)) return false;
            continue;
        }
        if (!check_failure()) return false;
        entry = reserve(launch);
        if (entry != nullptr) break;
        PyThreadState* const state = PyEval_SaveThread();
        lane->worker.make_room();
        PyEval_RestoreThread(state);
        reclaim();
    }
    hand_over(*entry, launch);
    return true;
}

}  // namespace

bool launch_in_region(const RegionLaunch& launch) {
    const Lane& mine = *lane;
    if (mine.aimed && !mine.by_itself && mine.stream == launch.stream && mine.context == launch.context &&
        !mine.worker.failed()) [[likely]]
        if (LaunchRing::Entry* const entry = reserve(launch); entry != nullptr) [[likely]] {
            hand_over(*entry, launch);
            return true;
        }
    return launch_patiently(launch);
}

bool issue_region() {
    if (region_depth == 0) [[likely]]
        return true;
    lane->aimed = false;  // whatever comes now may begin to capture the stream
    if (in_region()) return flush();
    drain();
    return true;
}

void forget_in_region(InlineKernel& kernel) {
    if (lane == nullptr) return;
    PyThreadState* const state = PyEval_SaveThread();
    {
        const auto paused = lane->worker.pause();
        lane->issuer->forget(kernel);
    }
    PyEval_RestoreThread(state);
}

// triton_region_enter() -> how deep the thread is in the region now; 0: another thread is.
PyObject* region_enter(PyObject*, PyObject*) {
    if (lane == nullptr && !make_lane()) return nullptr;
    if (region_depth == 0) {
        lane->owner = ::pthread_self();
        lane->aimed = false;
        lane->paused = 0;
        if (!stopped) lane->worker.begin();
    } else if (!in_region()) {
        return PyLong_FromLong(0);
    }
    return PyLong_FromSize_t(++region_depth);
}

// triton_region_leave(): once all is issued. An error: of a launch; the region is left all the same. May be
// called by another thread, for one that is gone.
PyObject* region_leave(PyObject*, PyObject*) {
    if (region_depth == 0) Py_RETURN_NONE;
    const bool well = flush();
    if (region_depth != 0 && --region_depth == 0) lane->worker.end();
    if (!well) return nullptr;
    Py_RETURN_NONE;
}

// triton_region_flush(): everything that the region holds is issued when it returns.
PyObject* region_flush(PyObject*, PyObject*) {
    if (!issue_region()) return nullptr;
    Py_RETURN_NONE;
}

// triton_region_pause() -> is triton_region_resume() to be called? Everything that the region holds is issued
// when it returns, and in the thread of the region launches are made by themselves until then.
PyObject* region_pause(PyObject*, PyObject*) {
    if (!issue_region()) return nullptr;
    if (region_depth == 0 || !in_region()) Py_RETURN_FALSE;
    ++lane->paused;
    lane->aimed = false;
    Py_RETURN_TRUE;
}

// triton_region_resume(): does nothing where that region is over.
PyObject* region_resume(PyObject*, PyObject*) {
    if (region_depth != 0 && in_region() && lane->paused != 0) {
        --lane->paused;
        lane->aimed = false;
    }
    Py_RETURN_NONE;
}

// triton_region_stop(): there is no worker any more; regions launch by themselves from now on.
PyObject* region_stop(PyObject*, PyObject*) {
    stopped = true;
    if (lane == nullptr) Py_RETURN_NONE;
    lane->aimed = false;
    drain();
    PyThreadState* const state = PyEval_SaveThread();
    lane->worker.stop();
    PyEval_RestoreThread(state);
    Py_RETURN_NONE;
}

// triton_region_counts() -> (depth, launches handed over, entries not yet let go of, in lines): for tests.
PyObject* region_counts(PyObject*, PyObject*) {
    if (lane == nullptr) return Py_BuildValue("(iii)", 0, 0, 0);
    return Py_BuildValue("(nKK)", static_cast<Py_ssize_t>(region_depth),
                         static_cast<unsigned long long>(lane->handed_over),
                         static_cast<unsigned long long>(lane->worker.ring().unreclaimed()));
}

}  // namespace ringlaunch::python::triton
