#include "daemon/driver/cuda_fault_dumps.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <system_error>

#include "daemon/driver/culprit.hpp"
#include "daemon/driver/fault_dump.hpp"
#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

// What the pipe takes before anybody has looked, the least there is, and what it takes then.
constexpr int kHeldBytes = 4096, kFlowingBytes = 1 << 20;
// The fault is reported when the dump has been written; this is for one that was not.
constexpr std::chrono::milliseconds kPatience{500};

[[noreturn]] void fail() {
    throw std::system_error(errno, std::generic_category(), "cannot make the pipe for GPU core dumps");
}

std::string path_of(const UniqueFd& fd) {
    return "/proc/self/fd/" + std::to_string(fd.get());
}

// Each stream once. One that does not fit makes the page count more than it holds: see read_fault_page().
void list(FaultPage& page, const FaultedLaunch& launch) {
    if (launch.stream == page.stream) return;
    for (std::size_t i = 0; i < std::min<std::size_t>(page.also_count, std::size(page.also)); ++i)
        if (page.also[i].stream == launch.stream) return;
    if (page.also_count < std::size(page.also)) page.also[page.also_count] = launch;
    ++page.also_count;
}

void put_text(FaultPage& page, const std::string& text) {
    std::memset(page.text, 0, sizeof page.text);
    std::memcpy(page.text, text.data(), std::min(text.size(), sizeof page.text - 1));
}

}  // namespace

FaultDumps::FaultDumps(std::size_t most_bytes) : stop_(::eventfd(0, EFD_CLOEXEC)), most_bytes_(most_bytes) {
    int ends[2];
    if (!stop_ || ::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) fail();
    pipe_.reset(ends[0]);
    own_end_.reset(ends[1]);
    if (::fcntl(ends[0], F_SETPIPE_SZ, kHeldBytes) < 0) fail();
    // Nothing but what tells who it was, and no abort().
    constexpr const char* kContents =
        "skip_nonrelocated_elf_images,skip_global_memory,skip_shared_memory,skip_local_memory,"
        "skip_constbank_memory,skip_abort";
    ::setenv("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "1", 1);
    ::setenv("CUDA_COREDUMP_FILE", path_of(pipe_).c_str(), 1);
    ::setenv("CUDA_COREDUMP_GENERATION_FLAGS", kContents, 1);
    watcher_ = std::thread([this] { watch(); });
    ::pthread_setname_np(watcher_.native_handle(), "rl-dumps");
}

FaultDumps::~FaultDumps() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t wrote = ::write(stop_.get(), &one, sizeof one);
    watcher_.join();
}

// True: the dump has come to its end.
bool FaultDumps::read_some() {
    if (dump_ == nullptr) {
        dump_.reset(new (std::nothrow) std::byte[most_bytes_]);
        if (dump_ == nullptr) most_bytes_ = 0;
    }
    // All of it is read, for the device to go on; what is beyond the bound goes nowhere.
    std::byte scrap[1 << 16];
    const std::size_t room = most_bytes_ - std::min(most_bytes_, dump_bytes_);
    const ssize_t got =
        ::read(pipe_.get(), room != 0 ? dump_.get() + dump_bytes_ : scrap, room != 0 ? room : sizeof scrap);
    if (got < 0) return errno != EAGAIN && errno != EINTR;
    dump_bytes_ += static_cast<std::size_t>(got);
    return got == 0;
}

void FaultDumps::watch() {
    for (bool begun = false, whole = false; !whole;) {
        pollfd watched[2] = {{pipe_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
        if (::poll(watched, 2, -1) < 0) {
            if (errno == EINTR) continue;
            return;
        }
        if (watched[1].revents != 0) return;
        // Before anything is read: the device stands still until all of it is.
        if (!begun) journals_.look();
        whole = read_some();
        if (begun || dump_bytes_ == 0) continue;
        begun = true;
        // CUDA has the pipe open by now: so it ends when CUDA is through.
        own_end_.reset();
        // Faster, no more.
        [[maybe_unused]] const int size = ::fcntl(pipe_.get(), F_SETPIPE_SZ, kFlowingBytes);
    }
    {
        const std::lock_guard lock(mutex_);
        whole_ = true;
    }
    changed_.notify_all();
    const std::uint64_t one = 1;
    // relaxed: a number. A full counter is a signal too. Once is enough: the thread asks before each sleep.
    [[maybe_unused]] const ssize_t wrote =
        ::write(wake_fd_.load(std::memory_order_relaxed), &one, sizeof one);
}

bool FaultDumps::whole() const {
    const std::lock_guard lock(mutex_);
    return whole_;
}

std::span<const std::byte> FaultDumps::wait_for_dump() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [this] { return whole_; }))
        throw Error(Status::driver_error, "CUDA wrote no GPU core dump");
    if (dump_bytes_ > most_bytes_)
        throw Error(Status::driver_error, "the GPU core dump of " + std::to_string(dump_bytes_) +
                                              " bytes is larger than the " + std::to_string(most_bytes_) +
                                              " bytes that are kept of one");
    return {dump_.get(), dump_bytes_};
}

std::string FaultDumps::accuse(const std::string& lost, FaultPage* page) noexcept {
    // relaxed: a look; the dispatch thread is the only one that writes here.
    if (page == nullptr || page->kind.load(std::memory_order_relaxed) != 0) return lost;
    try {
        return read_and_accuse(lost, *page);
    } catch (const std::exception& error) {
        return "nobody can be accused: " + std::string(error.what()) + "; " + lost;
    }
}

std::string FaultDumps::read_and_accuse(const std::string& lost, FaultPage& page) {
    const FaultDump dump = read_fault_dump(wait_for_dump());
    journals_.publish();
    const std::vector<Culprit> culprits = journals_.read(
        [&](std::span<const LaunchJournal* const> journals) { return find_culprits(dump, journals); });
    std::string text;
    for (const Culprit& culprit : culprits) text += (text.empty() ? "" : "; ") + culprit.what;
    if (text.empty()) return "nobody can be accused: the GPU core dump shows no fault; " + lost;
    const auto is_exact = [](const Culprit& culprit) { return culprit.launches.size() == 1; };
    if (std::all_of(culprits.begin(), culprits.end(), is_exact)) {
        const FaultedLaunch& first = culprits[0].launches[0];
        page.stream = first.stream;
        page.position = first.position;
        page.kernel = first.kernel;
        for (std::size_t i = 1; i < culprits.size(); ++i) list(page, culprits[i].launches[0]);
    } else if (std::none_of(culprits.begin(), culprits.end(),
                            [](const Culprit& culprit) { return culprit.launches.empty(); })) {
        // Whoever cannot be told from another is not accused.
        for (const Culprit& culprit : culprits)
            for (const FaultedLaunch& launch : culprit.launches) list(page, launch);
        text += ", where several streams were";
    } else {
        text += ", in none of the launches that are known";
    }
    put_text(page, text);
    // sync: FAULT (pairs with the supervisor's read once this process has been reaped): the rest belongs to
    // it.
    page.kind.store(static_cast<std::uint32_t>(FaultKind::device), std::memory_order_release);
    return text + "; " + lost;
}

}  // namespace ringlaunch::driver
