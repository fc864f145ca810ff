// The status page of one epoch of a stream, from the supervisor's side: made before the epoch, ended after
// it.
#pragma once

#include <cstdint>
#include <string>

#include "schema/pages.hpp"
#include "schema/segment.hpp"
#include "schema/status.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::supervisor {

// Where an epoch takes a stream up.
struct PageStart {
    std::uint64_t session = 0;
    std::uint64_t stream = 0;
    std::uint32_t epoch = 0;
    std::uint32_t slot_count = 0;
    std::uint64_t completed = 0;
    std::uint64_t issued = 0;  // more than `completed` only where the stream is stopped with work in doubt
    // Not ok: the page says Stopped, with this error.
    Status error = Status::ok;
    std::uint64_t error_position = 0;
    std::uint64_t error_kernel = 0;
    std::string error_text;
};

class EpochPage {
  public:
    EpochPage() = default;
    // A new page, not sealed yet. `before`: the page of the epoch before, whose counters go on. Throws.
    EpochPage(const PageStart& start, const EpochPage* before);

    explicit operator bool() const { return static_cast<bool>(fd_); }
    const UniqueFd& fd() const { return fd_; }
    const StatusPage& page() const { return *mapping_.as<StatusPage>(); }

    // From here on nobody makes another writable mapping: call once the executor has its own. Throws.
    void seal();
    bool sealed() const { return sealed_; }

    // A (completed) and B (issued), the latter never less than the former.
    std::uint64_t completed() const;
    std::uint64_t issued() const;
    bool stopped() const;
    // The error as text, whatever an executor left there.
    std::string error_text() const;

    // Only once the executor that wrote the page has been reaped: no producer sleeps on it from here on.
    void end();

  private:
    UniqueFd fd_;
    Mapping mapping_;
    bool sealed_ = false;
};

}  // namespace ringlaunch::supervisor
