// memfd_create, seals and their check, and the mapping.
#include "schema/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "schema/error.hpp"

namespace ringlaunch {

namespace {

[[noreturn]] void fail(const std::string& doing) {
    throw std::system_error(errno, std::generic_category(), doing);
}

int seal_bits(Sealing sealing) {
    constexpr int kAlways = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    switch (sealing) {
        case Sealing::shared:
            return kAlways;
        case Sealing::one_writer:
            return kAlways | F_SEAL_FUTURE_WRITE;
        case Sealing::immutable:
            return kAlways | F_SEAL_WRITE;
    }
    return kAlways;
}

// What Boost.Interprocess maps: anything that has a mapping handle.
class Mappable {
  public:
    explicit Mappable(int fd) : handle_{fd, false} {}
    boost::interprocess::mapping_handle_t get_mapping_handle() const { return handle_; }

  private:
    boost::interprocess::mapping_handle_t handle_;
};

std::string seal_names(int bits) {
    std::string names;
    const auto add = [&](int bit, const char* name) {
        if (bits & bit) names += names.empty() ? name : std::string(" | ") + name;
    };
    add(F_SEAL_SEAL, "SEAL");
    add(F_SEAL_SHRINK, "SHRINK");
    add(F_SEAL_GROW, "GROW");
    add(F_SEAL_WRITE, "WRITE");
    add(F_SEAL_FUTURE_WRITE, "FUTURE_WRITE");
    return names.empty() ? "none" : names;
}

}  // namespace

UniqueFd UniqueFd::duplicate() const {
    UniqueFd copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 3));
    if (!copy) fail("cannot duplicate descriptor " + std::to_string(fd_));
    return copy;
}

std::string no_descriptor_left() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    return "this process may open " + std::to_string(limit.rlim_cur) +
           " descriptors and has all of them open; close some or raise its limit (ulimit -n)";
}

std::string why_no_descriptor(int error) {
    return error == EMFILE ? no_descriptor_left() : std::strerror(error);
}

Mapping::Mapping(const UniqueFd& fd, std::size_t bytes, Access access, const std::string& what) {
    namespace ipc = boost::interprocess;
    try {
        region_ = ipc::mapped_region(
            Mappable(fd.get()), access == Access::read_only ? ipc::read_only : ipc::read_write, 0, bytes);
    } catch (const ipc::interprocess_exception& error) {
        throw std::system_error(error.get_native_error(), std::generic_category(), "cannot map " + what);
    }
}

UniqueFd make_memfd(const std::string& what, std::size_t bytes) {
    UniqueFd fd(
        ::memfd_create(("ringlaunch:" + what).substr(0, 200).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) fail("cannot make shared memory for " + what);
    if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
        const int found = errno;
        const std::string giving = "cannot give " + std::to_string(bytes) + " bytes to " + what;
        errno = found;
        fail(found == EFBIG ? giving + ", which is more than a file may have here (ulimit -f)" : giving);
    }
    return fd;
}

void seal(const UniqueFd& fd, Sealing sealing, const std::string& what) {
    if (::fcntl(fd.get(), F_ADD_SEALS, seal_bits(sealing)) != 0) fail("cannot seal " + what);
}

UniqueFd make_image(const std::string& what, std::span<const std::byte> bytes) {
    UniqueFd fd = make_memfd(what, bytes.size());
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t wrote =
            ::pwrite(fd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) fail("cannot write " + what);
        done += static_cast<std::size_t>(wrote);
    }
    seal(fd, Sealing::immutable, what);
    return fd;
}

std::size_t check_seals(const UniqueFd& fd, Sealing sealing, std::size_t bytes, const std::string& what) {
    const int wanted = seal_bits(sealing);
    const int found = ::fcntl(fd.get(), F_GET_SEALS);
    if (found < 0)
        throw Error(Status::bad_seals, what + " must be a sealed memfd, but the descriptor takes no seals");
    if ((found & wanted) != wanted)
        throw Error(Status::bad_seals, what + " must be sealed " + seal_names(wanted) +
                                           ", but its seals are " + seal_names(found));
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) fail("cannot look at " + what);
    const auto size = static_cast<std::size_t>(info.st_size);
    if (size < bytes)
        throw Error(Status::bad_seals, what + " should have " + std::to_string(bytes) + " bytes, but has " +
                                           std::to_string(size));
    return size;
}

}  // namespace ringlaunch
