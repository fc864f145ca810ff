// What the client tests share: a folder of their own, and bounded waiting.
#pragma once

#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace ringlaunch::testing {

using namespace std::chrono_literals;

// Bounds every wait of a test that should not take long.
inline constexpr std::uint64_t kPatienceNs = 30'000'000'000;

// Looks until it is so, or the patience is over.
template <class Condition>
bool eventually(Condition&& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(kPatienceNs);
    do {
        if (condition()) return true;
        std::this_thread::sleep_for(2ms);
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

class TestFolder {
  public:
    TestFolder() {
        char folder[] = "/tmp/ringlaunch-test-XXXXXX";
        if (::mkdtemp(folder) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
        path_ = folder;
    }
    ~TestFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TestFolder(const TestFolder&) = delete;
    TestFolder& operator=(const TestFolder&) = delete;
    const std::string& path() const { return path_; }
    std::string socket() const { return path_ + "/daemon.sock"; }

  private:
    std::string path_;
};

inline std::string read_file(const std::string& path) {
    std::ifstream in(path);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

}  // namespace ringlaunch::testing
