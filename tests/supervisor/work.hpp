// What tests of restarts begin with: a session that has kernels, memory and a stream to look at it with.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "tests/supervisor/harness.hpp"

namespace ringlaunch::test {

// A session on the host driver with kernels, a gate, a log and a stream to look at things with.
struct Work {
    explicit Work(const Daemon& daemon) : client(daemon.socket()) {
        client.load_file(TEST_KERNELS);
        staging = client.add_staging(4096);
        gate = client.alloc(64);
        log = client.alloc(4096);
        count = client.alloc(64);
        side = client.open_stream(schema::OnRestart::Rerun, 256, "side");
    }
    unsigned look(std::uint64_t address) {
        EXPECT_TRUE(client.read(*side, staging, address, sizeof(unsigned)));
        unsigned value;
        std::memcpy(&value, staging.bytes.data(), sizeof value);
        return value;
    }
    void put(std::uint64_t address, unsigned value) {
        std::memcpy(staging.bytes.data(), &value, sizeof value);
        EXPECT_TRUE(client.write(*side, staging, address, sizeof value));
    }
    std::uint64_t append(TestStream& stream, unsigned value) {
        return stream.launch(client.kernel("append"), pack(log.address, count.address, value));
    }
    std::uint64_t hold(TestStream& stream) {
        return stream.launch(client.kernel("hold"), pack(gate.address));
    }
    std::uint64_t run(TestStream& stream, const std::string& kernel) {
        return stream.launch(client.kernel(kernel), {});
    }
    std::uint64_t crash(TestStream& stream) {
        return stream.launch(client.kernel("crash"), pack(std::uint64_t{0}));
    }

    SessionClient client;
    SessionClient::Staging staging;
    SessionClient::Memory gate, log, count;
    std::unique_ptr<TestStream> side;
};

// The stream's page as it is once no restart is under way.
inline bool settles(SessionClient& client, TestStream& stream, const std::function<bool()>& condition,
                    unsigned* epochs = nullptr) {
    return eventually([&] {
        while (stream.state() == schema::StreamState::Ended) {
            if (!client.next_epoch(stream)) return false;
            if (epochs != nullptr) ++*epochs;
        }
        return condition();
    });
}

}  // namespace ringlaunch::test
