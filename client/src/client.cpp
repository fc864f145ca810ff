// The public Client and Buffer.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <ringlaunch/ringlaunch.hpp>
#include <system_error>

#include "client/src/client_state.hpp"
#include "client/src/clock.hpp"
#include "client/src/connect.hpp"
#include "client/src/load.hpp"
#include "client/src/loans.hpp"
#include "client/src/waiter.hpp"
#include "schema/tensor_layout.hpp"

namespace ringlaunch {

namespace {

detail::ClientState& open_client(const std::shared_ptr<detail::ClientState>& state, const char* doing) {
    if (!state)
        throw Error(Status::closed, std::string(doing) + ": this Client is empty; make one with connect()");
    state->require_life(doing);
    return *state;
}

}  // namespace

Client Client::connect(const ConnectOptions& options) {
    Client client;
    client.state_ = detail::connect(options);
    return client;
}

Module Client::load(std::span<const std::byte> image, std::string name, const LoadOptions& options) {
    open_client(state_, "cannot load a module");
    UniqueFd fd;
    try {
        fd = make_image(name.empty() ? "module" : name, image);
    } catch (const std::system_error& error) {
        const int found = error.code().value();
        const bool no_descriptor = found == EMFILE || found == ENFILE;
        throw Error(found == ENOMEM ? Status::out_of_memory : Status::limit_reached,
                    "cannot load a module: " + (no_descriptor ? why_no_descriptor(found) : error.what()));
    }
    Module module;
    module.state_ = detail::load(state_, fd, image.size(), name, options);
    return module;
}

Module Client::load_file(const std::string& path, const LoadOptions& options) {
    open_client(state_, "cannot load a module");
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (!file || ::fstat(file.get(), &info) != 0)
        throw Error(errno == EMFILE || errno == ENFILE ? Status::limit_reached : Status::invalid_argument,
                    "cannot load a module: " + path + ": " + why_no_descriptor(errno));
    if (!S_ISREG(info.st_mode))
        throw Error(Status::invalid_argument, "cannot load a module: " + path + " is not a file");
    std::vector<std::byte> image(static_cast<std::size_t>(info.st_size));
    std::size_t done = 0;
    while (done < image.size()) {
        const ssize_t got = ::read(file.get(), image.data() + done, image.size() - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            throw Error(Status::invalid_argument, "cannot load a module: " + path + " cannot be read whole");
        done += static_cast<std::size_t>(got);
    }
    return load(image, path.substr(path.rfind('/') + 1), options);
}

Stream Client::stream(const StreamOptions& options) {
    detail::ClientState& client = open_client(state_, "cannot open a stream");
    Stream stream;
    stream.state_ = client.open_stream(state_, options);
    return stream;
}

Buffer Client::alloc(std::size_t bytes) {
    detail::ClientState& client = open_client(state_, "cannot allocate a buffer");
    client.sweep();
    auto state = std::make_shared<detail::BufferState>();
    const detail::Reply reply = client.connection->ask(
        {schema::Request::AllocBuffer, schema::Answer::BufferAllocated, 0,
         "cannot allocate " + std::to_string(bytes) + " bytes"},
        [&](flatbuffers::FlatBufferBuilder& builder) { return schema::CreateAllocBuffer(builder, bytes); });
    const schema::BufferAllocated& answer = *reply.view().answer_as_BufferAllocated();
    state->id = answer.buffer();
    state->address = answer.address();
    state->bytes = bytes;
    state->client = state_;
    Buffer buffer;
    buffer.address_ = state->address;
    buffer.size_ = bytes;
    buffer.state_ = std::move(state);
    return buffer;
}

PinnedMemory Client::alloc_pinned(std::size_t bytes) {
    detail::ClientState& client = open_client(state_, "cannot allocate pinned memory");
    client.sweep();
    detail::ClientState::Staging made = client.add_staging(bytes);
    auto state = std::make_shared<detail::PinnedState>();
    state->id = made.id;
    state->segment = std::move(made.segment);
    state->client = state_;
    PinnedMemory memory;
    memory.data_ = state->segment.data();
    memory.device_address_ = made.address;
    memory.size_ = bytes;
    memory.state_ = std::move(state);
    return memory;
}

TensorMap Client::tensor_map(const Buffer& buffer, std::uint64_t offset, const TensorLayout& layout) {
    const char* const doing = "cannot make a tensor map";
    detail::ClientState& client = open_client(state_, doing);
    const detail::BufferState* of = detail::Access::state(buffer);
    if (of == nullptr) throw Error(Status::invalid_argument, std::string(doing) + ": the buffer is empty");
    if (of->client.get() != &client)
        throw Error(Status::invalid_argument,
                    std::string(doing) + ": the buffer is another client's; ask that one");
    if (layout.rank == 0 || layout.rank > TensorLayout::kMaxRank)
        throw Error(Status::invalid_argument, std::string(doing) + ": the rank is " +
                                                  std::to_string(layout.rank) + ", it has to be 1 to 5");
    if (offset > of->bytes)
        throw Error(Status::invalid_argument, std::string(doing) + ": it begins at offset " +
                                                  std::to_string(offset) + " of a buffer of " +
                                                  std::to_string(of->bytes) + " bytes");
    const detail::Reply reply = client.connection->ask(
        {schema::Request::EncodeTensorMap, schema::Answer::TensorMapEncoded, 0, doing},
        [&](flatbuffers::FlatBufferBuilder& builder) {
            const auto written = write_layout(builder, layout);
            return schema::CreateEncodeTensorMap(builder, of->id, of->address + offset, written);
        });
    const auto& bytes = *reply.view().answer_as_TensorMapEncoded()->map();
    TensorMap map{};
    if (bytes.size() != map.size())
        throw Error(Status::malformed_message,
                    std::string(doing) + ": the daemon's has " + std::to_string(bytes.size()) + " bytes");
    std::memcpy(map.data(), bytes.data(), map.size());
    return map;
}

void Client::borrow(const Buffer& buffer) {
    open_client(state_, "cannot borrow a buffer");
    if (!buffer) throw Error(Status::invalid_argument, "cannot borrow a buffer: it is empty");
    detail::borrow(state_, *detail::Access::state(buffer));
}

void Client::borrow(const Event& event) {
    open_client(state_, "cannot borrow a stream");
    const std::shared_ptr<detail::StreamState> stream = detail::Access::stream(event);
    if (!stream) throw Error(Status::invalid_argument, "cannot borrow a stream: the event is empty");
    detail::borrow(state_, *stream);
}

Status Client::synchronize(std::optional<std::uint64_t> timeout_ns) noexcept {
    if (!state_) return Status::closed;
    if (const Status status = state_->life(); status != Status::ok) return status;
    const std::uint64_t deadline_ns = timeout_ns ? detail::deadline_in(*timeout_ns) : detail::kForever;
    Status worst = Status::ok;
    try {
        for (const auto& stream : state_->open_streams()) {
            const Status status = detail::wait_completed(*stream, stream->published(), deadline_ns);
            if (status != Status::ok && worst == Status::ok) worst = status;
        }
        state_->sweep();
    } catch (...) {
        return Status::out_of_memory;
    }
    return worst;
}

const DaemonInfo& Client::daemon() const {
    if (!state_) throw Error(Status::closed, "this Client is empty; make one with connect()");
    return state_->info;
}

std::string Client::warning() const {
    if (!state_ || state_->forked.load(std::memory_order_relaxed)) return {};
    state_->connection->pump();
    const std::lock_guard lock(state_->mutex);
    return state_->warning;
}

void Client::close() {
    if (state_) state_->close();
}

}  // namespace ringlaunch
