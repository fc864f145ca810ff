#include "client/src/copies.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "client/src/client_state.hpp"
#include "client/src/enqueue.hpp"
#include "schema/error.hpp"

namespace ringlaunch::detail {

namespace {

Status have_staging(StreamState& stream) noexcept {
    if (stream.staging) return Status::ok;
    if (const Status status = reserve(stream, 1); status != Status::ok && status != Status::ring_full)
        return status;
    try {
        ClientState::Staging made = stream.client->add_staging(stream.client->staging_bytes);
        ::madvise(made.segment.data(), made.segment.size(), MADV_DONTFORK);
        stream.staging = std::make_unique<StagingRing>(made.id, std::move(made.segment));
        return Status::ok;
    } catch (const Error& error) {
        remember_error(stream, error.status(), error.what());
        return error.status();
    } catch (const std::exception& error) {
        remember_error(stream, Status::internal_error, error.what());
        return Status::internal_error;
    }
}

// relaxed would do for the positions, but acquire lets the region's bytes be written anew after the device
// read them.
std::uint64_t completed(const StreamState& stream) noexcept {
    return stream.current().completed.load(std::memory_order_acquire);  // sync: COMPLETED
}

}  // namespace

Status copy_staged(StreamState& stream, schema::RecordKind kind, std::uint64_t device, std::uint64_t staging,
                   std::size_t offset, std::size_t bytes) noexcept {
    schema::CopyRecord record{};
    record.mutate_device(device);
    record.mutate_other(offset);
    record.mutate_bytes(bytes);
    record.mutate_staging(staging);
    return enqueue(stream, kind, record);
}

Status copy_in(StreamState& stream, std::uint64_t device, const std::byte* from, std::size_t bytes) noexcept {
    if (stream.recorder != nullptr) return record_record(stream, schema::RecordKind::CopyToDevice, nullptr);
    if (const Status status = have_staging(stream); status != Status::ok) return status;
    StagingRing& staging = *stream.staging;
    for (std::size_t done = 0; done < bytes;) {
        const std::size_t piece = std::min(bytes - done, staging.piece_bytes());
        auto region = staging.take(piece, completed(stream));
        if (!region) {
            // A region that the host still uses would be a copy_out() of another thread at the same time.
            const auto oldest = staging.oldest();
            if (!oldest) {
                remember_error(stream, Status::invalid_argument,
                               "two threads copy on one stream at the same time");
                return Status::invalid_argument;
            }
            if (const Status status = wait_completed(stream, *oldest); status != Status::ok) {
                remember_error(stream, status);
                return status;
            }
            continue;
        }
        std::memcpy(staging.at(region->offset), from + done, piece);
        const Status status = copy_staged(stream, schema::RecordKind::CopyToDevice, device + done,
                                          staging.id(), region->offset, piece);
        // Nothing was enqueued: the region is free at once.
        staging.finish(*region, status == Status::ok ? stream.producer.position() : 0);
        if (status != Status::ok) return status;
        done += piece;
    }
    return Status::ok;
}

Status copy_out(StreamState& stream, std::byte* to, std::uint64_t device, std::size_t bytes) noexcept {
    if (stream.recorder != nullptr) return record_record(stream, schema::RecordKind::CopyToHost, nullptr);
    if (const Status status = have_staging(stream); status != Status::ok) return status;
    StagingRing& staging = *stream.staging;
    struct Piece {
        StagingRing::Region region;
        std::size_t at = 0, bytes = 0;
        std::uint64_t position = 0;
    };
    constexpr std::size_t kPieces = 4;
    Piece pieces[kPieces];
    std::size_t first = 0, next = 0;  // numbers of pieces
    std::size_t asked = 0;
    Status status = Status::ok;

    while (status == Status::ok && (asked < bytes || first != next)) {
        if (asked < bytes && next - first < kPieces) {
            const std::size_t size = std::min(bytes - asked, staging.piece_bytes());
            if (const auto region = staging.take(size, completed(stream))) {
                status = copy_staged(stream, schema::RecordKind::CopyToHost, device + asked, staging.id(),
                                     region->offset, size);
                if (status != Status::ok) {
                    staging.finish(*region, 0);
                    break;
                }
                pieces[next++ % kPieces] = {*region, asked, size, stream.producer.position()};
                asked += size;
                continue;
            }
        }
        if (first == next) {
            const auto oldest = staging.oldest();
            if (!oldest) {
                remember_error(stream, Status::invalid_argument,
                               "two threads copy on one stream at the same time");
                return Status::invalid_argument;
            }
            status = wait_completed(stream, *oldest);
            continue;
        }
        const Piece& piece = pieces[first % kPieces];
        status = wait_completed(stream, piece.position);
        if (status != Status::ok) break;
        std::memcpy(to + piece.at, staging.at(piece.region.offset), piece.bytes);
        staging.finish(piece.region, piece.position);
        ++first;
    }
    // After a failure the device may still write these, until the stream has passed them.
    for (; first != next; ++first)
        staging.finish(pieces[first % kPieces].region, pieces[first % kPieces].position);
    if (status != Status::ok) remember_error(stream, status);
    return status;
}

}  // namespace ringlaunch::detail
