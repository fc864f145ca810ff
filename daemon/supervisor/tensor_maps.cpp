// Maps of tensors: of which memory a client may have one. What they are made of, the driver judges.
#include "daemon/supervisor/core.hpp"
#include "schema/tensor_layout.hpp"

namespace ringlaunch::supervisor {

void Core::encode_tensor_map(Session& session, std::uint32_t request, const schema::EncodeTensorMap& encode) {
    const auto at = session.buffers.find(encode.buffer());
    if (at == session.buffers.end() || at->second.freeing)
        throw Error(Status::not_found, "cannot make a tensor map: this session has no buffer " +
                                           id_text(encode.buffer()) +
                                           " of its own (it was freed, or is another's)");
    const Buffer& buffer = at->second;
    const std::uint64_t address = encode.address();
    if (address < buffer.address || address - buffer.address >= buffer.bytes)
        throw Error(Status::invalid_argument,
                    "cannot make a tensor map: its address does not lie in buffer " + id_text(buffer.id));
    const std::uint64_t bytes = buffer.bytes - (address - buffer.address);
    const TensorLayout layout = read_layout(*encode.layout());
    request_opened(session);
    call(
        session, Call::OnDeath::repeat,
        [address, bytes, layout](Call::Wire& wire, Session&) {
            const auto written = write_layout(wire.builder, layout);
            wire.kind = internal::ExecutorRequest::MakeTensorMap;
            wire.request = internal::CreateMakeTensorMap(wire.builder, address, bytes, written).Union();
            return true;
        },
        [this, request](Session& in, Reply& reply) {
            const auto* made = reply.message == nullptr ? nullptr : reply.message->answer_as_TensorMapMade();
            if (reply.status != Status::ok || made == nullptr)
                return refuse_later(in.id, request,
                                    reply.status == Status::ok ? Status::internal_error : reply.status,
                                    reply.error);
            answer_later(in.id, request, [&](flatbuffers::FlatBufferBuilder& builder) -> Built {
                const auto map = builder.CreateVector(made->map()->data(), made->map()->size());
                return {schema::Answer::TensorMapEncoded,
                        schema::CreateTensorMapEncoded(builder, map).Union()};
            });
        });
}

}  // namespace ringlaunch::supervisor
