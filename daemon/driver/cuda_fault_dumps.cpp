#include "daemon/driver/cuda_fault_dumps.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <system_error>
#include <thread>

#include "daemon/driver/culprit.hpp"
#include "daemon/driver/fault_dump.hpp"
#include "schema/error.hpp"
#include "schema/segment.hpp"

namespace ringlaunch::driver {

namespace {

// With every thread of a large device in it a dump has some hundred MiB, and each module's code besides.
constexpr rlim_t kMaxFileBytes = rlim_t{1} << 30;
// The fault is reported when the dump has been written; this is for one that was not.
constexpr std::chrono::milliseconds kPatience{500};
// How often the dispatch thread is woken from a dump on, and how long.
constexpr int kWakeMs = 5, kWakes = 1000;

// The dump, and the mapping that it points into.
struct ReadDump {
    Mapping mapping;
    FaultDump dump;
};

ReadDump read_file(const UniqueFd& file) {
    struct stat info {};
    if (::fstat(file.get(), &info) != 0 || info.st_size == 0)
        throw Error(Status::driver_error, "CUDA wrote no GPU core dump");
    ReadDump read;
    const auto bytes = static_cast<std::size_t>(info.st_size);
    read.mapping = Mapping(file, bytes, Mapping::Access::read_only, "the GPU core dump");
    read.dump = read_fault_dump({read.mapping.data(), bytes});
    return read;
}

ReadDump wait_for_file(const UniqueFd& file) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    for (;;) try {
            return read_file(file);
        } catch (const Error&) {
            if (std::chrono::steady_clock::now() >= end) throw;
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
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

FaultDumps::FaultDumps()
    : file_(make_memfd("gpu-core-dump", 0)),
      changes_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)),
      stop_(::eventfd(0, EFD_CLOEXEC)) {
    const std::string path = "/proc/self/fd/" + std::to_string(file_.get());
    if (!changes_ || !stop_ || ::inotify_add_watch(changes_.get(), path.c_str(), IN_OPEN | IN_MODIFY) < 0)
        throw std::system_error(errno, std::generic_category(), "cannot watch the file of a GPU core dump");
    // Nothing but what tells who it was, and no abort().
    constexpr const char* kContents =
        "skip_nonrelocated_elf_images,skip_global_memory,skip_shared_memory,skip_local_memory,"
        "skip_constbank_memory,skip_abort";
    ::setenv("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "1", 1);
    ::setenv("CUDA_COREDUMP_FILE", path.c_str(), 1);
    ::setenv("CUDA_COREDUMP_GENERATION_FLAGS", kContents, 1);
    // A file that would grow beyond is cut, which its reader finds.
    rlimit limit{};
    if (::getrlimit(RLIMIT_FSIZE, &limit) == 0) {
        limit.rlim_cur = std::min(limit.rlim_max, kMaxFileBytes);
        ::setrlimit(RLIMIT_FSIZE, &limit);
        ::signal(SIGXFSZ, SIG_IGN);
    }
    watcher_ = std::thread([this] { watch(); });
    ::pthread_setname_np(watcher_.native_handle(), "rl-dumps");
}

FaultDumps::~FaultDumps() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t wrote = ::write(stop_.get(), &one, sizeof one);
    watcher_.join();
}

std::uint64_t FaultDumps::size() const noexcept {
    struct stat info {};
    return ::fstat(file_.get(), &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

// Looks how far the streams are when the dump is opened and when its first bytes are there.
void FaultDumps::watch() {
    do {
        pollfd watched[2] = {{changes_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
        if (::poll(watched, 2, -1) < 0 && errno != EINTR) return;
        if (watched[1].revents != 0) return;
        std::byte events[4096];
        while (::read(changes_.get(), events, sizeof events) > 0) {
        }
    } while (!journals_.look([this] { return size(); }));
    pollfd stopped{stop_.get(), POLLIN, 0};
    for (int i = 0; i < kWakes && ::poll(&stopped, 1, kWakeMs) == 0; ++i) {
        const std::uint64_t one = 1;
        // relaxed: a number. A full counter is a signal too.
        [[maybe_unused]] const ssize_t wrote =
            ::write(wake_fd_.load(std::memory_order_relaxed), &one, sizeof one);
    }
}

std::string FaultDumps::accuse(const std::string& lost, FaultPage* page) noexcept {
    // relaxed: a look; the dispatch thread is the only one that writes here.
    if (page == nullptr || page->kind.load(std::memory_order_relaxed) != 0) return lost;
    page->completions_untrue = 1;
    try {
        return read_and_accuse(lost, *page);
    } catch (const std::exception& error) {
        return "nobody can be accused: " + std::string(error.what()) + "; " + lost;
    }
}

std::string FaultDumps::read_and_accuse(const std::string& lost, FaultPage& page) {
    const ReadDump read = wait_for_file(file_);
    journals_.look([this] { return size(); });  // where the watcher is behind
    const bool in_time = journals_.settle(size());
    const std::vector<Culprit> culprits = find_culprits(read.dump, journals_.all());
    std::string text;
    for (const Culprit& culprit : culprits) text += (text.empty() ? "" : "; ") + culprit.what;
    if (text.empty()) return "nobody can be accused: the GPU core dump shows no fault; " + lost;
    const auto is_exact = [](const Culprit& culprit) { return culprit.launches.size() == 1; };
    if (std::all_of(culprits.begin(), culprits.end(), is_exact)) {
        const FaultedLaunch& first = culprits[0].launches[0];
        page.stream = first.stream;
        page.position = first.position;
        page.kernel = first.kernel;
        page.program_counter = culprits[0].program_counter;
        for (std::size_t i = 1; i < culprits.size(); ++i) list(page, culprits[i].launches[0]);
    } else if (std::none_of(culprits.begin(), culprits.end(),
                            [](const Culprit& culprit) { return culprit.launches.empty(); })) {
        // Whoever cannot be told from another is not accused.
        for (const Culprit& culprit : culprits)
            for (const FaultedLaunch& launch : culprit.launches) list(page, launch);
        text += in_time ? ", where several streams were" : ", where several launches had been";
    } else {
        text += ", in none of the launches that are known";
    }
    put_text(page, text);
    // sync: FAULT (pairs with the supervisor's read once this process has been reaped): the rest belongs to
    // it.
    page.kind.store(static_cast<std::uint32_t>(FaultKind::device), std::memory_order_release);
    return text + "; " + (in_time ? "" : "its dump was whole before anybody looked; ") + lost;
}

}  // namespace ringlaunch::driver
