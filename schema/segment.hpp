// Sealed shared memory: a memfd and its mapping (through Boost.Interprocess).
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <span>
#include <string>

#include "schema/unique_fd.hpp"

namespace ringlaunch {

// Which seals a segment bears. All of them bear SHRINK, GROW and SEAL.
enum class Sealing {
    shared,      // data that both sides write: rings, staging
    one_writer,  // and FUTURE_WRITE: existing writable mappings stay, nobody makes another
    immutable,   // and WRITE: images, which no one may map writable
};

// A mapping of (a part of) a memfd. Movable; unmaps when destroyed.
class Mapping {
  public:
    enum class Access { read_only, read_write };

    Mapping() = default;
    // Throws std::system_error naming `what`. The descriptor is not kept: the mapping outlives it.
    Mapping(const UniqueFd& fd, std::size_t bytes, Access access, const std::string& what);

    std::byte* data() const { return static_cast<std::byte*>(region_.get_address()); }
    std::size_t size() const { return region_.get_size(); }
    explicit operator bool() const { return region_.get_address() != nullptr; }
    template <class T>
    T* as(std::size_t offset = 0) const {
        return reinterpret_cast<T*>(data() + offset);
    }

  private:
    boost::interprocess::mapped_region region_;
};

// A new, zeroed memfd of `bytes`, not sealed yet, close-on-exec. Throws std::system_error naming `what`.
UniqueFd make_memfd(const std::string& what, std::size_t bytes);
// Throws std::system_error.
void seal(const UniqueFd& fd, Sealing sealing, const std::string& what);
// A sealed, immutable copy of `bytes`.
UniqueFd make_image(const std::string& what, std::span<const std::byte> bytes);
// Checks that a descriptor a peer sent is a memfd of at least `bytes` that bears these seals, and returns its
// true size. Throws Error{bad_seals} that says what was found.
std::size_t check_seals(const UniqueFd& fd, Sealing sealing, std::size_t bytes, const std::string& what);

}  // namespace ringlaunch
