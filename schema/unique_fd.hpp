// An owned file descriptor.
#pragma once

#include <unistd.h>

#include <string>
#include <utility>

namespace ringlaunch {

class UniqueFd {
  public:
    UniqueFd() = default;
    explicit UniqueFd(int fd) : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        if (this != &other) reset(std::exchange(other.fd_, -1));
        return *this;
    }
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;
    ~UniqueFd() { reset(); }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release() { return std::exchange(fd_, -1); }
    void reset(int fd = -1) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = fd;
    }
    // A second descriptor of the same file, close-on-exec; throws std::system_error.
    UniqueFd duplicate() const;

  private:
    int fd_ = -1;
};

// For errors: how many descriptors this process may have open, that it has them all, and what to do.
std::string no_descriptor_left();
// The same where `error` is EMFILE, else what the OS says of it.
std::string why_no_descriptor(int error);

}  // namespace ringlaunch
