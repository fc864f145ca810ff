// A program that launches kernels through the daemon: two streams, an event between them, a result that is
// checked. It takes the daemon that runs, and starts a private one where there is none.
#include <cstdint>
#include <cstdio>
#include <ringlaunch/ringlaunch.hpp>
#include <vector>

namespace {

constexpr int kCount = 1 << 20;
constexpr std::uint32_t kBlock = 256;
constexpr int kRounds = 8;

// Enqueuing answers with a status; this program cannot go on after a bad one.
bool good(ringlaunch::Status status, const ringlaunch::Stream& stream, const char* doing) {
    if (status == ringlaunch::Status::ok) return true;
    std::fprintf(stderr, "%s: %s. %s\n", doing, stream.last_error().c_str(), stream.status().text.c_str());
    return false;
}

int run(const char* kernels) {
    ringlaunch::ConnectOptions options;
    options.start_private = true;
    options.driver = "host";  // the kernels beside this file are compiled by g++
    ringlaunch::Client client = ringlaunch::Client::connect(options);
    std::printf("daemon %d, %s\n", client.daemon().pid, client.daemon().device_name.c_str());

    const ringlaunch::Module module = client.load_file(kernels);
    const ringlaunch::Kernel saxpy = module.kernel("saxpy");
    const ringlaunch::Kernel count_up = module.kernel("count_up");
    ringlaunch::Stream compute = client.stream();
    ringlaunch::Stream upload = client.stream();

    const std::size_t bytes = kCount * sizeof(float);
    const ringlaunch::Buffer x = client.alloc(bytes);
    const ringlaunch::Buffer y = client.alloc(bytes);
    std::vector<float> values(kCount, 1.0f);
    const ringlaunch::Dim3 grid{(kCount + kBlock - 1) / kBlock};
    const ringlaunch::Dim3 block{kBlock};

    // y is copied in one stream while x is made in the other; the event orders the two.
    if (!good(upload.copy_to_device(y, values.data(), bytes), upload, "copying in")) return 1;
    if (!good(compute.launch(count_up, grid, block, x, kCount), compute, "launching count_up")) return 1;
    if (!good(compute.wait(upload.record()), compute, "waiting for the upload")) return 1;
    for (int round = 0; round < kRounds; ++round)
        if (!good(compute.launch(saxpy, grid, block, y, x, 0.5f, kCount), compute, "launching saxpy"))
            return 1;
    if (!good(compute.copy_to_host(values.data(), y, bytes), compute, "copying out")) return 1;

    for (int i = 0; i < kCount; ++i) {
        const float expected = 1.0f + 0.5f * kRounds * static_cast<float>(i);
        if (values[static_cast<std::size_t>(i)] == expected) continue;
        std::fprintf(stderr, "y[%d] is %g, not %g\n", i,
                     static_cast<double>(values[static_cast<std::size_t>(i)]), static_cast<double>(expected));
        return 1;
    }
    std::printf("y = 1 + %g x, for all of %d numbers\n", 0.5 * kRounds, kCount);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc > 1 ? argv[1] : SAXPY_KERNELS);
    } catch (const ringlaunch::Error& error) {
        std::fprintf(stderr, "%s: %s\n", std::string(ringlaunch::status_name(error.status())).c_str(),
                     error.what());
        return 1;
    }
}
