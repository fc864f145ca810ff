// The public Stream and Event: launches, copies, fills, waits.
#include <algorithm>
#include <cstring>
#include <ringlaunch/ringlaunch.hpp>

#include "client/src/client_state.hpp"
#include "client/src/clock.hpp"
#include "client/src/copies.hpp"
#include "client/src/enqueue.hpp"
#include "client/src/loans.hpp"
#include "client/src/waiter.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch {

namespace detail {

namespace {

std::string dim_text(Dim3 dim) {
    return std::to_string(dim.x) + " x " + std::to_string(dim.y) + " x " + std::to_string(dim.z);
}

std::string param_text(const KernelState& kernel, std::size_t i) {
    std::string text = "parameter " + std::to_string(i);
    if (i < kernel.params.size() && !kernel.params[i].name.empty())
        text += " (" + kernel.params[i].name + ")";
    return text + " of kernel " + kernel.name;
}

std::string type_text(ParamType type, std::uint32_t size) {
    return type == ParamType::bytes ? "a struct of " + std::to_string(size) + " bytes"
                                    : std::string(param_type_name(type));
}

// A struct of two bytes is how C++ spells a half; everything else must be the declared type.
bool fits(const ArgLayout& arg, const ArgLayout& param) noexcept {
    if (arg.offset != param.offset || arg.size != param.size) return false;
    if (arg.type == param.type) return true;
    return arg.type == ParamType::bytes && arg.size == 2 &&
           (param.type == ParamType::float16 || param.type == ParamType::bfloat16);
}

// Why the arguments are not the declared ones; ok: they are after all.
[[gnu::cold]] Status check_args(const StreamState& stream, const KernelState& kernel,
                                std::span<const ArgLayout> args) noexcept {
    try {
        if (!kernel.declared)
            return refuse(
                stream, Status::undeclared_kernel,
                "cannot launch kernel " + kernel.name +
                    ": its parameter types are not declared; declare them with RINGLAUNCH_EXPORT in the "
                    "source or with signatures at load()");
        if (args.size() != kernel.layout.size())
            return refuse(stream, Status::invalid_argument,
                          "cannot launch kernel " + kernel.name + ": it takes " +
                              std::to_string(kernel.layout.size()) + " arguments, but " +
                              std::to_string(args.size()) + " were given");
        for (std::size_t i = 0; i < args.size(); ++i) {
            if (fits(args[i], kernel.layout[i])) continue;
            if (args[i].type == kernel.layout[i].type && args[i].size == kernel.layout[i].size)
                return refuse(stream, Status::invalid_argument,
                              "cannot launch: " + param_text(kernel, i) + " stands at offset " +
                                  std::to_string(kernel.layout[i].offset) + ", but C++ would put it at " +
                                  std::to_string(args[i].offset) +
                                  "; give the struct the alignment it has in the kernel");
            return refuse(stream, Status::invalid_argument,
                          "cannot launch: " + param_text(kernel, i) + " is declared as " +
                              type_text(kernel.layout[i].type, kernel.layout[i].size) +
                              ", but the argument is " + type_text(args[i].type, args[i].size));
        }
    } catch (...) {  // no memory for the text
        return Status::invalid_argument;
    }
    return Status::ok;
}

Status refuse_empty_kernel(const StreamState& stream) noexcept {
    return refuse(stream, Status::closed,
                  "cannot launch: the Kernel is empty; make one with Module::kernel()");
}

Status refuse_kernel_of_another(const StreamState& stream, const KernelState& kernel) noexcept {
    try {
        return refuse(
            stream, Status::invalid_argument,
            "cannot launch kernel " + kernel.name +
                ": it is of another client than the stream; load its module with the stream's client");
    } catch (...) {  // no memory for the text
        return Status::invalid_argument;
    }
}

Status refuse_empty_buffer(const StreamState& stream, const KernelState& kernel, int index) noexcept {
    try {
        return refuse(stream, Status::invalid_argument,
                      "cannot launch: " + param_text(kernel, static_cast<std::size_t>(index)) +
                          " was given an empty Buffer or PinnedMemory; make one with Client::alloc() or "
                          "alloc_pinned(), or pass nullptr for a null pointer");
    } catch (...) {  // no memory for the text
        return Status::invalid_argument;
    }
}

enum class Whose { mine, anybodys };

// A range of a buffer or of pinned memory, or why it is none.
template <class Memory>
Status check_range(const StreamState& stream, const char* doing, const Memory& memory, std::size_t offset,
                   std::size_t bytes, Whose whose = Whose::mine) noexcept {
    const auto mine = [&] {
        return whose == Whose::anybodys || Access::state(memory)->client.get() == stream.client;
    };
    if (memory && mine() && offset <= memory.size() && bytes <= memory.size() - offset) return Status::ok;
    try {
        const std::string what = std::is_same_v<Memory, Buffer> ? "the buffer" : "the pinned memory";
        std::string text = std::string(doing) + ": ";
        if (!memory)
            text += what + " is empty";
        else if (!mine())
            text += what + " belongs to another client";
        else
            text += std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " leave " + what +
                    ", which has " + std::to_string(memory.size());
        return refuse(stream, Status::invalid_argument, text);
    } catch (...) {  // no memory for the text
        return Status::invalid_argument;
    }
}

// What belongs to another client is borrowed at its first use.
template <class Thing>
Status borrow_if_not_mine(const StreamState& stream, const ClientState* owner, Thing& thing) noexcept {
    if (owner == stream.client) [[likely]]
        return Status::ok;
    try {
        borrow(stream.keeper, thing);
        return Status::ok;
    } catch (const Error& error) {
        return refuse(stream, error.status(), error.what());
    } catch (const std::exception& error) {
        return refuse(stream, Status::internal_error, error.what());
    }
}

[[gnu::cold]] Status refuse_length(const StreamState& stream, const KernelState& kernel,
                                   std::uint32_t slots) noexcept {
    try {
        return refuse(stream, Status::record_too_long,
                      "cannot launch kernel " + kernel.name + ": its " + std::to_string(kernel.param_bytes) +
                          " bytes of parameters take " + std::to_string(slots) + " slots, but a ring of " +
                          std::to_string(stream.ring_slots) + " slots takes records of at most " +
                          std::to_string(stream.producer.max_record_slots()) +
                          "; open the stream with a larger ring");
    } catch (...) {  // no memory for the text
        return Status::record_too_long;
    }
}

// A launch that was not enqueued at once: says why not, or waits for room.
template <bool kPadded>
Status launch_slowly(StreamState& stream, const KernelState& kernel, Dim3 grid, Dim3 block,
                     std::uint32_t shared_bytes, std::span<const std::byte> params, bool wait) noexcept {
    if (!launchable(kernel, grid, block, shared_bytes))
        return refuse_launch(stream, kernel, grid, block, shared_bytes);
    const std::uint32_t slots = slots_of(kernel, grid, block, shared_bytes);
    for (;;) {
        Status status = enqueue_launch_slowly<kPadded>(stream, kernel, grid, block, shared_bytes, params);
        if (status == Status::record_too_long) return refuse_length(stream, kernel, slots);
        if (status != Status::ring_full || !wait) return status;
        status = wait_completed(stream, position_with_room(stream, slots));
        if (status != Status::ok) {
            remember_error(stream, status);
            return status;
        }
    }
}

}  // namespace

Status check_launch_args(const StreamState& stream, const KernelState& kernel, const ArgShape& args,
                         int empty_buffer) noexcept {
    if (args.digest != kernel.digest) {
        if (const Status status = check_args(stream, kernel, args.args); status != Status::ok) return status;
    }
    if (empty_buffer >= 0) return refuse_empty_buffer(stream, kernel, empty_buffer);
    if (args.padded_bytes < padded_param_bytes(kernel.param_bytes))
        return refuse(stream, Status::invalid_argument, "the kernel takes more bytes than its parameters");
    return Status::ok;
}

Status refuse_launch(StreamState& stream, const KernelState& kernel, Dim3 grid, Dim3 block,
                     std::uint32_t shared_bytes) noexcept {
    try {
        const std::string doing = "cannot launch kernel " + kernel.name + ": ";
        if (!kernel.declared) return check_args(stream, kernel, {});
        if (grid.x - 1 >= kernel.max_grid.x || grid.y - 1 >= kernel.max_grid.y ||
            grid.z - 1 >= kernel.max_grid.z)
            return refuse(stream, Status::invalid_argument,
                          doing + "a grid of " + dim_text(grid) +
                              " blocks; each side is at least 1, and at most " + dim_text(kernel.max_grid));
        if (shared_bytes > kernel.max_shared_bytes)
            return refuse(stream, Status::invalid_argument,
                          doing + std::to_string(shared_bytes) +
                              " bytes of dynamic shared memory, but it may use " +
                              std::to_string(kernel.max_shared_bytes));
        if ((block.x | block.y | block.z) == 0)
            return refuse(stream, Status::invalid_argument, doing + "it has no default block; give one");
        if (block.x > kernel.max_block.x || block.y > kernel.max_block.y || block.z > kernel.max_block.z)
            return refuse(stream, Status::invalid_argument,
                          doing + "a block of " + dim_text(block) + " threads; each side is at most " +
                              dim_text(kernel.max_block));
        return refuse(stream, Status::invalid_argument,
                      doing + "a block of " + dim_text(block) + " threads; it takes 1 to " +
                          std::to_string(kernel.max_threads));
    } catch (...) {  // no memory for the text
        return Status::invalid_argument;
    }
}

}  // namespace detail

using detail::Access;
using detail::KernelState;

Status Stream::launch_slowly(const Kernel& kernel, Dim3 grid, Dim3 block, const detail::ArgShape& args,
                             int empty_buffer, const std::uint64_t* params, bool wait) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    if (!kernel) return detail::refuse_empty_kernel(stream);
    const KernelState& of = *Access::state(kernel);
    if (of.owner != stream.owner) return detail::refuse_kernel_of_another(stream, of);
    if (const Status status = detail::check_launch_args(stream, of, args, empty_buffer); status != Status::ok)
        return status;
    return detail::launch_slowly<true>(stream, of, grid, block, 0,
                                       {reinterpret_cast<const std::byte*>(params), of.param_bytes}, wait);
}

Status Stream::launch_packed_slowly(const Kernel& kernel, Dim3 grid, Dim3 block, std::uint32_t shared_bytes,
                                    std::span<const std::byte> params, bool wait) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    if (!kernel) return detail::refuse_empty_kernel(stream);
    const KernelState& of = *Access::state(kernel);
    if (of.owner != stream.owner) return detail::refuse_kernel_of_another(stream, of);
    if (params.size() != of.param_bytes) {
        try {
            return detail::refuse(stream, Status::invalid_argument,
                                  "cannot launch kernel " + of.name + ": it takes " +
                                      std::to_string(of.param_bytes) + " bytes of parameters, but " +
                                      std::to_string(params.size()) + " were given");
        } catch (...) {  // no memory for the text
            return Status::invalid_argument;
        }
    }
    return detail::launch_slowly<false>(stream, of, grid, block, shared_bytes, params, wait);
}

Status Stream::copy_to_device(const Buffer& to, const void* from, std::size_t bytes,
                              std::size_t offset) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    if (const Status status = detail::check_range(stream, "cannot copy to the device", to, offset, bytes);
        status != Status::ok)
        return status;
    return detail::copy_in(stream, to.address() + offset, static_cast<const std::byte*>(from), bytes);
}

Status Stream::copy_to_host(void* to, const Buffer& from, std::size_t bytes, std::size_t offset) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    if (const Status status = detail::check_range(stream, "cannot copy to the host", from, offset, bytes);
        status != Status::ok)
        return status;
    return detail::copy_out(stream, static_cast<std::byte*>(to), from.address() + offset, bytes);
}

Status Stream::copy(const Buffer& to, std::size_t to_offset, const Buffer& from, std::size_t from_offset,
                    std::size_t bytes) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    constexpr auto kAnybodys = detail::Whose::anybodys;
    Status status =
        detail::check_range(stream, "cannot copy: the destination", to, to_offset, bytes, kAnybodys);
    if (status == Status::ok)
        status = detail::check_range(stream, "cannot copy: the source", from, from_offset, bytes, kAnybodys);
    if (status != Status::ok || bytes == 0) return status;
    for (const Buffer* each : {&to, &from}) {
        const detail::BufferState& buffer = *Access::state(*each);
        status = detail::borrow_if_not_mine(stream, buffer.client.get(), buffer);
        if (status != Status::ok) return status;
    }
    schema::CopyRecord record{};
    record.mutate_device(to.address() + to_offset);
    record.mutate_other(from.address() + from_offset);
    record.mutate_bytes(bytes);
    return detail::enqueue(stream, schema::RecordKind::CopyOnDevice, record);
}

Status Stream::copy(const Buffer& to, std::size_t to_offset, const PinnedMemory& from,
                    std::size_t from_offset, std::size_t bytes) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    Status status = detail::check_range(stream, "cannot copy to the device", to, to_offset, bytes);
    if (status == Status::ok)
        status = detail::check_range(stream, "cannot copy to the device", from, from_offset, bytes);
    if (status != Status::ok || bytes == 0) return status;
    return detail::copy_staged(stream, schema::RecordKind::CopyToDevice, to.address() + to_offset,
                               Access::state(from)->id, from_offset, bytes);
}

Status Stream::copy(const PinnedMemory& to, std::size_t to_offset, const Buffer& from,
                    std::size_t from_offset, std::size_t bytes) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    Status status = detail::check_range(stream, "cannot copy to the host", from, from_offset, bytes);
    if (status == Status::ok)
        status = detail::check_range(stream, "cannot copy to the host", to, to_offset, bytes);
    if (status != Status::ok || bytes == 0) return status;
    return detail::copy_staged(stream, schema::RecordKind::CopyToHost, from.address() + from_offset,
                               Access::state(to)->id, to_offset, bytes);
}

Status Stream::fill(const Buffer& to, std::uint32_t value, std::uint32_t width, std::size_t offset,
                    std::size_t bytes) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    const Status status = detail::check_range(stream, "cannot fill", to, offset, bytes);
    if (status != Status::ok) return status;
    if ((width != 1 && width != 2 && width != 4) || offset % width != 0 || bytes % width != 0)
        return detail::refuse(stream, Status::invalid_argument,
                              "cannot fill: the width is 1, 2 or 4 bytes and divides offset and length");
    if (bytes == 0) return Status::ok;
    schema::FillRecord record{};
    record.mutate_width(static_cast<std::uint8_t>(width));
    record.mutate_device(to.address() + offset);
    record.mutate_bytes(bytes);
    record.mutate_value(width == 4 ? value : value & ((1u << (8 * width)) - 1));
    return detail::enqueue(stream, schema::RecordKind::Fill, record);
}

Event Stream::record() noexcept {
    Event event;
    event.failure_ = Status::closed;
    if (!state_) return event;
    detail::StreamState& stream = *Access::state(*this);
    event.stream_ = Access::share(*this);
    schema::EventRecord record{};
    record.mutate_event(stream.next_event);
    event.failure_ = detail::enqueue(stream, schema::RecordKind::EventRecord, record);
    if (event.failure_ == Status::ok) {
        ++stream.next_event;
        event.position_ = stream.producer.position();
    }
    return event;
}

Status Stream::wait(const Event& event) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    if (!event.stream_)
        return detail::refuse(stream, Status::invalid_argument, "cannot wait: the event is empty");
    if (event.failure_ != Status::ok)
        return detail::refuse(stream, Status::invalid_argument, "cannot wait: the event was not recorded");
    // In a stream everything runs in order, and what has completed stays so.
    if (event.stream_.get() == &stream || event.done()) return Status::ok;
    if (const Status status = detail::borrow_if_not_mine(stream, event.stream_->client, *event.stream_);
        status != Status::ok)
        return status;
    schema::WaitRecord record{};
    record.mutate_stream(event.stream_->id);
    record.mutate_position(event.position_);
    return detail::enqueue(stream, schema::RecordKind::EventWait, record);
}

Status Stream::barrier() noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    schema::EventRecord record{};
    record.mutate_flags(schema::RecordFlag::ForceCompletion);
    record.mutate_event(stream.next_event);
    const Status status = detail::enqueue(stream, schema::RecordKind::EventRecord, record);
    if (status == Status::ok) ++stream.next_event;
    return status;
}

Status Stream::synchronize(std::optional<std::uint64_t> timeout_ns) noexcept {
    if (!state_) return Status::closed;
    detail::StreamState& stream = *Access::state(*this);
    const Status status = detail::wait_completed(
        stream, stream.published(), timeout_ns ? detail::deadline_in(*timeout_ns) : detail::kForever);
    if (status != Status::ok) detail::remember_error(stream, status);
    return status;
}

StreamStatus Stream::status() const {
    StreamStatus out;
    if (!state_) {
        out.status = Status::closed;
        out.text = "this Stream is empty; make one with Client::stream()";
        return out;
    }
    detail::StreamState& stream = *Access::state(*this);
    const bool forked = stream.client->forked.load(std::memory_order_relaxed);
    if (!forked) stream.client->connection->pump();
    // In a child the lock may be another thread's for ever, and nobody else is there.
    std::unique_lock lock(stream.mutex, std::defer_lock);
    if (!forked) lock.lock();
    const StatusPage& page = stream.current();
    // sync: STATE: the error fields belong to it.
    const auto state = static_cast<schema::StreamState>(page.state.load(std::memory_order_acquire));
    out.published = stream.published();
    out.completed = page.completed.load(std::memory_order_acquire);  // sync: COMPLETED
    out.issued = page.issued.load(std::memory_order_relaxed);        // relaxed: a number for people
    out.epoch = page.epoch;
    if (state == schema::StreamState::Stopped) {
        out.status = static_cast<Status>(page.error_status);
        if (out.status == Status::ok) out.status = Status::stream_stopped;
        out.issued = std::max(out.issued, stream.issued_before);
        out.error_position = page.error_position;
        out.text.assign(page.error_text, ::strnlen(page.error_text, sizeof page.error_text));
        // The page may have had no room for all of it.
        if (stream.stop_status == out.status && stream.stop_text.starts_with(out.text))
            out.text = stream.stop_text;
        if (out.text.empty()) out.text = status_text(out.status);
        const std::uint64_t kernel = page.error_kernel;
        if (lock) lock.unlock();  // the names stand under the client's lock, which comes first
        out.error_kernel = stream.client->kernel_name(kernel);
    } else if (state == schema::StreamState::Closed) {
        out.status = stream.client->life();
        if (out.status == Status::ok) out.status = Status::closed;
        if (lock) lock.unlock();
        out.text = stream.client->life_text();
    }
    return out;
}

void Stream::resume(bool rerun) {
    if (!state_) throw Error(Status::closed, "cannot resume: this Stream is empty");
    detail::StreamState& stream = *Access::state(*this);
    detail::ClientState& client = *stream.client;
    client.require_life("cannot resume a stream");
    client.connection->ask(
        {schema::Request::ResumeStream, schema::Answer::Done, 0,
         "cannot resume stream " + (stream.name.empty() ? id_text(stream.id) : stream.name)},
        [&](flatbuffers::FlatBufferBuilder& builder) {
            return schema::CreateResumeStream(builder, stream.id, rerun);
        });
}

std::string Stream::last_error() const {
    return state_ ? detail::remembered_error(*Access::state(*this)) : "this Stream is empty";
}
int Stream::wake_fd() const noexcept {
    return state_ ? detail::loop_fd(*Access::state(*this)) : -1;
}
void Stream::on_wake() const noexcept {
    if (state_) detail::on_wake(*Access::state(*this));
}

bool Event::done() const noexcept {
    if (!*this) return false;
    Status status = detail::look_at(*stream_, position_);
    // Of an epoch that is over: the notice with the next one's page may not have been taken in, and who only
    // asks would never hear of it. relaxed: only whether to look.
    if (status == Status::timed_out && stream_->current().state.load(std::memory_order_relaxed) != 0 &&
        !stream_->client->forked.load(std::memory_order_relaxed)) {
        stream_->client->connection->pump();
        status = detail::look_at(*stream_, position_);
    }
    return status == Status::ok;
}

Status Event::wait(std::optional<std::uint64_t> timeout_ns) const noexcept {
    if (!stream_) return Status::closed;
    if (failure_ != Status::ok) return failure_;
    return detail::wait_completed(*stream_, position_,
                                  timeout_ns ? detail::deadline_in(*timeout_ns) : detail::kForever);
}

Status Event::arm() const noexcept {
    if (!stream_) return Status::closed;
    if (failure_ != Status::ok) return failure_;
    return detail::arm(*stream_, position_);
}

}  // namespace ringlaunch
