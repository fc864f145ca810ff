#include "daemon/supervisor/sealed_program.hpp"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "schema/unique_fd.hpp"

namespace ringlaunch::supervisor {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

// Their reports name functions and lines, which they read from the program's file.
std::string execute_sealed(char* const*) {
    return "";
}

#else

namespace {

constexpr const char* kName = "ringlaunchd";
constexpr std::string_view kLink = "/memfd:ringlaunchd";
// Linux 6.3, where the machine may be set up to make memfds that are not executable; older ones refuse it.
constexpr unsigned kExecutable = 0x0010U;  // MFD_EXEC

std::string because(const char* what) {
    return std::string(what) + ": " + std::strerror(errno);
}

}  // namespace

std::string execute_sealed(char* const* argv) {
    char link[PATH_MAX];
    const ssize_t length = ::readlink("/proc/self/exe", link, sizeof link);
    if (length > 0 && std::string_view(link, static_cast<std::size_t>(length)).starts_with(kLink)) {
        ::prctl(PR_SET_NAME, kName);  // exec has named it after the descriptor
        return ::prctl(PR_GET_DUMPABLE) == 1
                   ? "the machine makes every program readable (sysctl fs.suid_dumpable is 1)"
                   : "";
    }
    if (::prctl(PR_GET_DUMPABLE) != 1) return "";  // its own file may not be read
    // Nobody puts a hand on the copy while it is made.
    ::prctl(PR_SET_DUMPABLE, 0);

    const UniqueFd program(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (!program || ::fstat(program.get(), &info) != 0) return because("cannot open its program");
    UniqueFd copy(::memfd_create(kName, MFD_CLOEXEC | MFD_ALLOW_SEALING | kExecutable));
    if (!copy && errno == EINVAL) copy.reset(::memfd_create(kName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!copy) return because("cannot make a memfd that can be executed");
    if (::fchmod(copy.get(), S_IXUSR | S_IXGRP | S_IXOTH) != 0)
        return because("cannot make the copy of its program unreadable");
    const std::string path = "/proc/self/fd/" + std::to_string(copy.get());
    if (const UniqueFd readable(::open(path.c_str(), O_RDONLY | O_CLOEXEC)); readable) return "";
    for (off_t done = 0; done < info.st_size;) {
        const auto left = static_cast<std::size_t>(info.st_size - done);
        const ssize_t now = ::sendfile(copy.get(), program.get(), &done, left);
        if (now < 0 && errno == EINTR) continue;
        if (now <= 0) return because("cannot copy its program");
    }
    if (::fcntl(copy.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
        return because("cannot seal the copy of its program");
    const UniqueFd file(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!file) return because("cannot open the copy of its program");
    copy.reset();  // what is open for writing is not executed
    ::execveat(file.get(), "", argv, environ, AT_EMPTY_PATH);
    return because("cannot execute the copy of its program");
}

#endif

}  // namespace ringlaunch::supervisor
