// The daemon's processes are closed to other processes of their user: their memory and descriptors in /proc.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <new>
#include <set>

#include "tests/supervisor/harness.hpp"

namespace ringlaunch::test {
namespace {

// Where the tests run as root, daemon and stranger are somebody without root's rights. 0: as they are.
uid_t somebody() {
    return ::getuid() == 0 ? 65534 : 0;
}

void become(uid_t uid) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (uid != 0 && (::setgid(uid) != 0 || ::setuid(uid) != 0)) ::_exit(100);
}

std::string proc(pid_t process, const std::string& file) {
    return "/proc/" + std::to_string(process) + "/" + file;
}

TEST(Daemon, AProcessOfTheSameUserCannotReachItsDescriptors) {
    const uid_t uid = somebody();
    const Daemon daemon({"allow_uid=" + std::to_string(::getuid())}, {}, uid);
    EXPECT_NE(SessionClient(daemon.socket()).session(), 0u);  // its executor works
    const pid_t executor = daemon.executor();
    ASSERT_NE(executor, 0);
    for (const pid_t target : {daemon.pid(), executor}) {
        const pid_t child = ::fork();
        if (child == 0) {
            become(uid);
            int reached = 0;
            for (int fd = 0; fd < 64; ++fd)
                if (::open(proc(target, "fd/" + std::to_string(fd)).c_str(), O_RDWR) >= 0) ++reached;
            if (::open(proc(target, "mem").c_str(), O_RDWR) >= 0) ++reached;
            ::_exit(reached);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFEXITED(status));
        EXPECT_EQ(WEXITSTATUS(status), 0) << (target == executor ? "the executor" : "the supervisor");
    }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // whose reports need a readable program

std::vector<pid_t> children_of(pid_t process) {
    std::vector<pid_t> found;
    std::ifstream list(proc(process, "task/" + std::to_string(process) + "/children"));
    for (pid_t child = 0; list >> child;) found.push_back(child);
    return found;
}

// What the stranger has seen so far; it writes, the test reads.
struct Sight {
    std::atomic<bool> stop{false};
    std::atomic<int> executors{0};  // that it has tried to open
    std::atomic<int> tries{0};
    std::atomic<int> executors_opened{0};
    std::atomic<int> alive{0};  // what it opened at any time and can still reach, once it was stopped
};

// Opens the memory of every child of `parent` and of their children, again and again, and keeps it.
void poll_memory(pid_t parent, Sight& sight) {
    std::array<int, 512> kept;  // the latest
    kept.fill(-1);
    std::size_t next = 0;
    std::set<pid_t> executors;
    const auto open_memory = [&](pid_t process) {
        const int fd = ::open(proc(process, "mem").c_str(), O_RDWR | O_CLOEXEC);
        sight.tries.fetch_add(1, std::memory_order_relaxed);  // a count, read by itself
        if (fd < 0) return false;
        int& place = kept[next++ % kept.size()];
        if (place >= 0) ::close(place);
        place = fd;
        return true;
    };
    while (!sight.stop) {
        for (const pid_t daemon : children_of(parent)) {
            if (daemon == ::getpid()) continue;
            open_memory(daemon);
            for (const pid_t executor : children_of(daemon)) {
                executors.insert(executor);
                if (open_memory(executor)) ++sight.executors_opened;
            }
            sight.executors = static_cast<int>(executors.size());
        }
    }
    for (const int fd : kept) {
        char byte = 0;
        // Of a process that is no more, or is another program since, nothing is read: 0. Of one that lives,
        // this address is refused.
        if (fd >= 0 && ::pread(fd, &byte, 1, 4096) != 0) ++sight.alive;
    }
}

TEST(Daemon, NobodyOfTheSameUserEverOpensItsMemory) {
    void* shared = ::mmap(nullptr, sizeof(Sight), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    Sight& sight = *new (shared) Sight;
    const uid_t uid = somebody();
    const pid_t test = ::getpid();
    const pid_t stranger = ::fork();
    if (stranger == 0) {
        become(uid);
        poll_memory(test, sight);
        ::_exit(0);
    }
    constexpr int kStarts = 3, kRestarts = 5;
    int executors = 0;
    std::unique_ptr<Daemon> daemon;
    for (int start = 0; start < kStarts; ++start) {
        daemon = std::make_unique<Daemon>(std::vector<std::string>{"allow_uid=" + std::to_string(::getuid()),
                                                                   "first_delay_ms=1", "max_delay_ms=1"},
                                          "", uid);
        for (int restart = 0; restart <= kRestarts; ++restart) {
            ++executors;
            EXPECT_TRUE(eventually([&] { return sight.executors == executors; }));
            EXPECT_NE(SessionClient(daemon->socket()).session(),
                      0u);  // the executor works: nothing is left to open
            if (restart < kRestarts) ::kill(daemon->executor(), SIGKILL);
        }
    }
    sight.stop = true;
    int status = 0;
    ASSERT_EQ(::waitpid(stranger, &status, 0), stranger);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(sight.executors_opened, 0)
        << "of " << executors << " executors, in " << sight.tries << " tries";
    EXPECT_EQ(sight.alive, 0) << "another process of its user has kept the last daemon's memory";
    ::munmap(shared, sizeof(Sight));
}

#endif

}  // namespace
}  // namespace ringlaunch::test
