// Holds the include rules of DESIGN.md ("Where things stand") by reading every source of schema/, client/,
// daemon/, python/ and bench/: what one part includes of another, and where the heavy or fenced-in libraries
// may appear.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace ringlaunch {
namespace {

namespace fs = std::filesystem;

struct Include {
    std::string file;  // from the root of the sources
    int line = 0;
    std::string what;  // "schema/ring.hpp", "spdlog/spdlog.h"
};

bool begins(const std::string& text, const std::string& with) {
    return text.rfind(with, 0) == 0;
}

bool is_source(const fs::path& path) {
    const std::string extension = path.extension().string();
    return extension == ".hpp" || extension == ".cpp" || extension == ".h" || extension == ".cu";
}
bool is_header(const std::string& file) {
    return file.ends_with(".hpp") || file.ends_with(".h");
}

std::vector<Include> includes_of(std::istream& in, const std::string& file) {
    static const std::regex kInclude(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
    std::vector<Include> found;
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
        std::smatch match;
        if (std::regex_search(line, match, kInclude)) found.push_back({file, number, match[1]});
    }
    return found;
}

const std::vector<std::string>& sources() {
    static const std::vector<std::string> files = [] {
        std::vector<std::string> list;
        const fs::path root = RINGLAUNCH_SOURCE_DIR;
        for (const char* part : {"schema", "client", "daemon", "python", "bench"})
            for (const auto& entry : fs::recursive_directory_iterator(root / part))
                if (entry.is_regular_file() && is_source(entry.path()))
                    list.push_back(fs::relative(entry.path(), root).generic_string());
        std::sort(list.begin(), list.end());
        return list;
    }();
    return files;
}

const std::vector<Include>& all_includes() {
    static const std::vector<Include> includes = [] {
        std::vector<Include> list;
        for (const std::string& file : sources()) {
            std::ifstream in(fs::path(RINGLAUNCH_SOURCE_DIR) / file);
            for (Include& include : includes_of(in, file)) list.push_back(std::move(include));
        }
        return list;
    }();
    return includes;
}

// ---- the rules: "" where an include is fine, else why it is not
// ------------------------------------------------

struct Layer {
    std::string part;
    std::vector<std::string> forbidden;  // what its includes may not begin with
    std::string why;
};

const std::vector<Layer>& layers() {
    static const std::vector<Layer> rules = {
        {"schema/",
         {"client/", "daemon/", "python/", "ringlaunch/ringlaunch"},
         "the contract depends on nothing of ours"},
        {"client/",
         {"daemon/", "python/", "executor_control_generated"},
         "the client knows the daemon by the contract only"},
        {"daemon/",
         {"client/", "python/", "ringlaunch/ringlaunch"},
         "the daemon knows clients by the contract only"},
        {"python/", {"daemon/", "executor_control_generated"}, "the bindings stand on the client"},
        {"bench/",
         {"daemon/", "python/", "executor_control_generated"},
         "a benchmark knows the daemon as clients and operators do"},
        {"daemon/driver/",
         {"daemon/executor/", "daemon/supervisor/", "daemon/cli/"},
         "a driver is what an executor launches on, and knows nobody above it"},
        {"daemon/executor/",
         {"daemon/supervisor/", "daemon/cli/"},
         "an executor knows the supervisor by its messages"},
        {"daemon/supervisor/",
         {"daemon/executor/", "daemon/cli/"},
         "the supervisor knows executors by their messages"},
    };
    return rules;
}

// Launches in a client's own program use what the cuda driver knows of libcuda and of launch graphs: of what
// belongs to a daemon, nothing.
bool is_shared_with_inline(const Include& include) {
    static const std::vector<std::string> shared = {
        "daemon/driver/chain_policy.hpp",    "daemon/driver/cuda_api.hpp",
        "daemon/driver/cuda_graphs.hpp",     "daemon/driver/cuda_kernel.hpp",
        "daemon/driver/cuda_tensor_map.hpp", "daemon/driver/graph_pool.hpp",
    };
    return begins(include.file, "python/src/inline_") &&
           std::find(shared.begin(), shared.end(), include.what) != shared.end();
}

std::string broken_layer(const Include& include) {
    if (is_shared_with_inline(include)) return "";
    for (const Layer& layer : layers()) {
        if (!begins(include.file, layer.part)) continue;
        for (const std::string& forbidden : layer.forbidden)
            if (begins(include.what, forbidden)) return layer.why;
    }
    return "";
}

bool is_cuda(const std::string& what) {
    return begins(what, "cuda") || begins(what, "nvrtc") || begins(what, "cupti") ||
           begins(what, "driver_types");
}

std::string broken_fence(const Include& include) {
    if (is_cuda(include.what) && !begins(include.file, "daemon/driver/cuda") &&
        !begins(include.file, "bench/cuda_peer"))
        return "CUDA headers belong to daemon/driver/cuda*, and to bench/cuda_peer*";
    if ((begins(include.what, "pybind11/") || include.what == "Python.h") && !begins(include.file, "python/"))
        return "Python's headers belong to python/";
    return "";
}

std::string broken_lightness(const Include& include) {
    // What many files include: the contract, the driver interface, the client's public headers.
    const bool light = is_header(include.file) &&
                       (begins(include.file, "schema/") || begins(include.file, "client/include/") ||
                        include.file == "daemon/driver/driver.hpp");
    if (!light) return "";
    for (const char* heavy :
         {"boost/asio", "spdlog/", "fmt/", "nlohmann/", "CLI/", "iostream", "regex", "filesystem"})
        if (begins(include.what, heavy)) return "headers that many files include stay light";
    return "";
}

std::string broken_surface(const Include& include) {
    // One header to include, and it brings nothing that is not installed with it.
    if (begins(include.file, "client/include/") && begins(include.what, "client/"))
        return "the public headers include nothing of the library's inside";
    return "";
}

using Rule = std::string (*)(const Include&);

std::vector<std::string> broken(Rule rule) {
    std::vector<std::string> list;
    for (const Include& include : all_includes())
        if (const std::string why = rule(include); !why.empty())
            list.push_back(include.file + ':' + std::to_string(include.line) + " includes " + include.what +
                           ": " + why);
    return list;
}

// ---- the tests
// ---------------------------------------------------------------------------------------------------

TEST(IncludeRules, ReadTheSourcesAtAll) {
    EXPECT_GT(sources().size(), 20u);
    EXPECT_GT(all_includes().size(), 100u);
    for (const char* part : {"schema/", "client/", "daemon/", "python/", "bench/"})
        EXPECT_TRUE(std::any_of(sources().begin(), sources().end(),
                                [&](const auto& file) { return begins(file, part); }))
            << "no source in " << part;
}

TEST(IncludeRules, LayersIncludeDownwardsOnly) {
    EXPECT_THAT(broken(broken_layer), ::testing::IsEmpty());
}

TEST(IncludeRules, CudaAndPythonStayInTheirPlaces) {
    EXPECT_THAT(broken(broken_fence), ::testing::IsEmpty());
}

TEST(IncludeRules, HeadersThatManyIncludeStayLight) {
    EXPECT_THAT(broken(broken_lightness), ::testing::IsEmpty());
}

TEST(IncludeRules, PublicHeadersStandAlone) {
    EXPECT_THAT(broken(broken_surface), ::testing::IsEmpty());
}

TEST(IncludeRules, HeadersSayTheirJobFirstAndAreReadOnce) {
    for (const std::string& file : sources()) {
        if (!is_header(file)) continue;
        std::ifstream in(fs::path(RINGLAUNCH_SOURCE_DIR) / file);
        const std::string text{std::istreambuf_iterator<char>(in), {}};
        EXPECT_TRUE(begins(text, "//") || begins(text, "/*"))
            << file << " does not begin with what it is for";
        EXPECT_TRUE(text.find("#pragma once") != std::string::npos ||
                    text.find("#ifndef") != std::string::npos)
            << file;
    }
}

TEST(IncludeRules, WouldSeeWhatTheyForbid) {
    const auto one = [](const std::string& file, const std::string& what) { return Include{file, 1, what}; };
    EXPECT_NE(broken_layer(one("schema/ring.hpp", "daemon/driver/driver.hpp")), "");
    EXPECT_NE(broken_layer(one("client/src/stream.cpp", "daemon/executor/dispatcher.hpp")), "");
    EXPECT_NE(broken_layer(one("daemon/cli/status.cpp", "ringlaunch/ringlaunch.hpp")), "");
    EXPECT_NE(broken_layer(one("daemon/driver/host.cpp", "daemon/executor/dispatcher.hpp")), "");
    EXPECT_NE(broken_layer(one("daemon/supervisor/core.cpp", "daemon/executor/executor.hpp")), "");
    EXPECT_EQ(broken_layer(one("daemon/cli/serve.cpp", "daemon/supervisor/supervisor.hpp")), "");
    EXPECT_EQ(broken_layer(one("client/src/stream.cpp", "schema/ring.hpp")), "");
    EXPECT_EQ(broken_layer(one("python/src/inline_cuda.cpp", "daemon/driver/cuda_api.hpp")), "");
    EXPECT_EQ(broken_layer(one("python/src/inline_issuer.cpp", "daemon/driver/graph_pool.hpp")), "");
    EXPECT_NE(broken_layer(one("python/src/inline_cuda.cpp", "daemon/driver/cuda_module.hpp")), "");
    EXPECT_NE(broken_layer(one("python/src/triton_call.cpp", "daemon/driver/cuda_api.hpp")), "");
    EXPECT_NE(broken_fence(one("python/src/inline_cuda.cpp", "cuda.h")), "");
    EXPECT_NE(broken_fence(one("daemon/executor/dispatcher.cpp", "cuda.h")), "");
    EXPECT_NE(broken_fence(one("client/src/client.cpp", "cuda_runtime_api.h")), "");
    EXPECT_EQ(broken_fence(one("daemon/driver/cuda_driver.cpp", "cuda.h")), "");
    EXPECT_NE(broken_fence(one("bench/gpu_launch.cpp", "cuda.h")), "");
    EXPECT_EQ(broken_fence(one("bench/cuda_peer.hpp", "cuda.h")), "");
    EXPECT_NE(broken_layer(one("bench/throughput.cpp", "daemon/executor/dispatcher.hpp")), "");
    EXPECT_NE(broken_fence(one("client/src/client.cpp", "pybind11/pybind11.h")), "");
    EXPECT_NE(broken_lightness(one("schema/error.hpp", "spdlog/spdlog.h")), "");
    EXPECT_EQ(broken_lightness(one("daemon/cli/log.hpp", "spdlog/spdlog.h")), "");
    EXPECT_NE(broken_surface(one("client/include/ringlaunch/ringlaunch.hpp", "client/src/stream_state.hpp")),
              "");
    std::istringstream text("  #  include <a/b.h>\n// #include \"c\"\n#include \"d.hpp\" // e\n");
    const auto found = includes_of(text, "x");
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].what, "a/b.h");
    EXPECT_EQ(found[1].what, "d.hpp");
    EXPECT_EQ(found[1].line, 3);
}

}  // namespace
}  // namespace ringlaunch
