// An honest session beside a hostile one: launches, copies back and compares, again and again, until it is
// told to end. What it finds wrong it keeps.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "tests/cli/raw_client.hpp"

namespace ringlaunch::test {

class Neighbour {
  public:
    explicit Neighbour(const std::string& socket)
        : client_(socket), session_(greet(client_)), memory_(client_.allocate(kBytes)) {
        for (const auto& [name, id] : client_.load(TEST_KERNELS))
            if (name == "step") step_ = id;
        stream_ = client_.open_stream(1024);
        staging_ = client_.add_staging(kBytes);
        for (std::size_t i = 0; i < kBytes; ++i) staging_.bytes.data()[i] = pattern(i);
        std::memset(staging_.bytes.data(), 0, sizeof(std::uint32_t));
        const std::uint64_t end =
            client_.copy(stream_, schema::RecordKind::CopyToDevice, address(), staging_.id, 0, kBytes);
        if (!client_.wait_completed(stream_, end)) wrong_ = "its memory could not be written";
        thread_ = std::thread([this] { run(); });
    }
    ~Neighbour() { end(); }

    // What went wrong; "": nothing.
    std::string end() {
        over_ = true;
        if (thread_.joinable()) thread_.join();
        return wrong_;
    }
    // Rounds of kBurst launches, each with its result compared.
    std::uint64_t rounds() const { return rounds_; }
    std::uint64_t launches() const { return rounds_ * kBurst; }
    // False: it found something wrong, or no more rounds came.
    bool goes_on() const {
        const std::uint64_t more = rounds_ + 2;
        for (const auto deadline = Clock::now() + kPatience; rounds_ < more && Clock::now() < deadline;) {
            if (failed_) return false;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return rounds_ >= more;
    }
    std::uint64_t address() const { return memory_.second; }
    std::uint64_t stream() const { return stream_.id; }
    std::uint64_t staging() const { return staging_.id; }
    std::uint64_t staging_address() const { return staging_.address; }

    static constexpr std::uint64_t kBytes = 64 << 10;
    static constexpr unsigned kBurst = 100;

  private:
    static std::uint64_t greet(RawClient& client) {
        client.hello();
        return client.session;
    }
    static std::byte pattern(std::size_t i) { return static_cast<std::byte>(i * 7 + i / 256); }

    void run() {
        try {
            while (!over_ && wrong_.empty()) {
                round();
                // Leaves the others of this machine some of it.
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        } catch (const std::exception& error) {
            wrong_ = error.what();
        }
        failed_ = !wrong_.empty();
    }

    void round() {
        for (unsigned i = 0; i < kBurst; ++i) {
            const std::uint32_t a = 1664525 + 2 * i, b = 1013904223 + static_cast<std::uint32_t>(rounds_);
            client_.launch(stream_, step_, 1, 1, Params().add(address()).add(a).add(b));
            expected_ = expected_ * a + b;
        }
        std::memset(staging_.bytes.data(), 0xee, kBytes);
        const std::uint64_t end =
            client_.copy(stream_, schema::RecordKind::CopyToHost, address(), staging_.id, 0, kBytes);
        if (!client_.wait_completed(stream_, end)) {
            wrong_ = "the stream does not go on at position " + std::to_string(stream_.completed()) + ": " +
                     stream_.page().error_text;
            return;
        }
        std::uint32_t found;
        std::memcpy(&found, staging_.bytes.data(), sizeof found);
        if (found != expected_)
            wrong_ = "the word is " + std::to_string(found) + ", not " + std::to_string(expected_) +
                     ", in round " + std::to_string(rounds_);
        for (std::size_t i = sizeof found; i < kBytes && wrong_.empty(); ++i)
            if (staging_.bytes.data()[i] != pattern(i))
                wrong_ = "byte " + std::to_string(i) + " of its memory was changed";
        if (wrong_.empty()) ++rounds_;
    }

    RawClient client_;
    std::uint64_t session_;
    std::pair<std::uint64_t, std::uint64_t> memory_;  // id and address
    std::uint64_t step_ = 0;
    RawStream stream_;
    RawClient::Staging staging_;
    std::uint32_t expected_ = 0;
    std::string wrong_;
    std::atomic<std::uint64_t> rounds_{0};
    std::atomic<bool> over_{false}, failed_{false};
    std::thread thread_;
};

}  // namespace ringlaunch::test
