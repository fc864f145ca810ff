// Launches and graph updates as tests make them: right ones, of one dimension, which a test then changes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "record_generated.h"
#include "schema/ring.hpp"

namespace ringlaunch::test {

template <class Record>
void set_shape(Record& record, std::uint32_t blocks, std::uint16_t threads) {
    record.mutate_grid_x(blocks);
    record.mutate_grid_y(1);
    record.mutate_grid_z(1);
    record.mutate_block_x(threads);
    record.mutate_block_y(1);
    record.mutate_block_z(1);
}

template <class Record>
void set_params(Record& record, std::uint32_t slots, std::span<const std::byte> params) {
    record.mutate_slots(static_cast<std::uint16_t>(slots));
    record.mutate_param_bytes(static_cast<std::uint16_t>(params.size()));
    const std::size_t in_head = std::min<std::size_t>(params.size(), record.params()->size());
    if (in_head != 0) std::memcpy(record.mutable_params()->Data(), params.data(), in_head);
}

inline schema::LaunchRecord launch_record(std::uint64_t kernel, std::span<const std::byte> params,
                                          std::uint32_t blocks = 1, std::uint16_t threads = 1) {
    schema::LaunchRecord record{};
    record.mutate_kind(schema::RecordKind::Launch);
    record.mutate_kernel(kernel);
    set_shape(record, blocks, threads);
    set_params(record, launch_slots(params.size()), params);
    return record;
}

inline schema::GraphUpdateRecord update_record(std::uint64_t graph, std::uint32_t node,
                                               std::span<const std::byte> params, std::uint32_t blocks = 1,
                                               std::uint16_t threads = 1) {
    schema::GraphUpdateRecord record{};
    record.mutate_kind(schema::RecordKind::GraphUpdate);
    record.mutate_graph(graph);
    record.mutate_node(node);
    set_shape(record, blocks, threads);
    set_params(record, update_slots(params.size()), params);
    return record;
}

// The parameters that do not stand in the head, behind what is published next.
inline void write_continuations(RingProducer<>& producer, std::span<const std::byte> params,
                                std::size_t in_head) {
    std::uint32_t slot = 1;
    for (std::size_t from = in_head; from < params.size(); from += kContinuationParamBytes)
        producer.write_continuation(slot++, params.data(), params.size(), from);
}

}  // namespace ringlaunch::test
