// What the benchmarks of launching launch, and what must come of it: each launch changes words in device
// memory so that one that is lost, doubled, out of order or has wrong parameters shows in the end. Ours and a
// plain loop of cuLaunchKernel beside each other.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/cuda_peer.hpp"
#include "bench/daemon.hpp"
#include "bench/report.hpp"

namespace ringlaunch::bench {

inline constexpr unsigned kFactor = 1664525;
inline constexpr unsigned kWords = 8, kFunctions = 24, kLoop = 100;
using Words = std::array<std::array<unsigned, kWords>, 2>;

// A launch: which of the work's kernels, with these five parameters (the first is one of two arrays).
struct Call {
    unsigned kernel, array, a, b;
    int at;
    float more;
};

class Work {
  public:
    enum class Kind { nothing, functions, dependent, hold, loop };
    // `ticks`: how long a kernel that holds takes.
    explicit Work(Kind kind, unsigned ticks = 0) : kind_(kind), ticks_(ticks) {}

    std::vector<std::string> kernels() const {
        switch (kind_) {
            case Kind::nothing:
                return {"seldom"};
            case Kind::dependent:
                return {"mix"};
            case Kind::hold:
                return {"hold"};
            case Kind::functions:
            case Kind::loop:
                break;
        }
        std::vector<std::string> names;
        for (unsigned k = 0; k < kFunctions; ++k) names.push_back("mix_" + std::to_string(k));
        return names;
    }
    Call call(std::uint64_t i) const {
        const auto b = static_cast<unsigned>(i);
        const auto more = static_cast<float>(i % 100);
        switch (kind_) {
            case Kind::nothing:  // one in 256 writes
                return {0,
                        (b ^ b / 256) % 2,
                        i % 256 == 255 ? kFactor : 2 * b,
                        b,
                        static_cast<int>(b / 256 % kWords),
                        more};
            case Kind::functions:
                return {static_cast<unsigned>(i * 0x9e3779b97f4a7c15 >> 40) % kFunctions,
                        0,
                        kFactor + 2 * (b % 1000),
                        b,
                        0,
                        more};
            case Kind::dependent:
                return {0, 0, kFactor + 2 * (b % 1000), b, 0, more};
            case Kind::loop: {  // the same kLoop launches again and again
                const unsigned k = b % kLoop;
                return {k * 7 % kFunctions, 0, kFactor + 2 * k, k, 0, static_cast<float>(k)};
            }
            case Kind::hold:
                break;
        }
        return {0, 0, ticks_, b, 0, more};
    }
    // What launch `i` makes of the words.
    void apply(Words& words, std::uint64_t i) const {
        const Call call_i = call(i);
        unsigned& word = words[call_i.array][static_cast<std::size_t>(call_i.at)];
        unsigned factor = call_i.a + 2 * call_i.kernel;
        if (kind_ == Kind::hold) factor = kFactor;
        if (kind_ == Kind::nothing && call_i.a % 2 == 0) return;
        word = word * factor + call_i.b + static_cast<unsigned>(call_i.more);
    }

  private:
    Kind kind_;
    unsigned ticks_;
};

// A client of a daemon that does a work: all of its launches in one stream.
class OurWork {
  public:
    OurWork(Client& client, const std::string& kernels, const Work& work)
        : work_(work), stream_(client.stream()) {
        const Module module = client.load_file(kernels);
        for (const std::string& name : work.kernels()) kernels_.push_back(module.kernel(name));
        for (Buffer& words : words_) {
            words = client.alloc(sizeof(unsigned) * kWords);
            must(stream_.fill(words, 0, 4, 0, words.size()), "clearing the words");
        }
        wait();
    }
    void launch(std::uint64_t i) {
        const Call call = work_.call(i);
        must(stream_.launch(kernels_[call.kernel], {1}, {1}, words_[call.array], call.a, call.b, call.at,
                            call.more),
             "launching");
    }
    void wait() { must(stream_.synchronize(), "waiting"); }
    Words read() {
        Words found;
        for (std::size_t k = 0; k < 2; ++k)
            must(stream_.copy_to_host(found[k].data(), words_[k], sizeof found[k]), "reading the words");
        return found;
    }

  private:
    Work work_;
    Stream stream_;
    std::vector<Kernel> kernels_;
    Buffer words_[2];
};

// The same with plain CUDA.
class PlainWork {
  public:
    PlainWork(const PlainCuda& cuda, const Work& work) : PlainWork(cuda, work, cuda.stream()) {}
    PlainWork(const PlainCuda& cuda, const Work& work, CUstream stream)
        : cuda_(cuda), stream_(stream), work_(work) {
        for (const std::string& name : work.kernels()) kernels_.push_back(cuda.kernel(name.c_str()));
    }
    // The parameters of one launch as CUDA wants them.
    struct Params {
        CUdeviceptr words;
        Call call;
        void* pointers[5] = {&words, &call.a, &call.b, &call.at, &call.more};
        Params(CUdeviceptr at, const Call& of) : words(at), call(of) {}
        Params(const Params&) = delete;
        Params& operator=(const Params&) = delete;
    };
    Params params(std::uint64_t i) const {
        const Call call = work_.call(i);
        return {words_[call.array].address(), call};
    }
    CUfunction function(const Params& params) const { return kernels_[params.call.kernel]; }
    CUDA_KERNEL_NODE_PARAMS node(Params& params) const {
        return peer_node(function(params), 1, params.pointers);
    }
    void launch(std::uint64_t i) const {
        Params all = params(i);
        cuda_.launch(function(all), 1, 1, all.pointers, stream_);
    }
    void wait() const { check_peer(peer_api().cuStreamSynchronize_(stream_), "waiting for the stream"); }
    Words read() const {
        Words found;
        for (std::size_t k = 0; k < 2; ++k)
            check_peer(peer_api().cuMemcpyDtoH_(found[k].data(), words_[k].address(), sizeof found[k]),
                       "reading the words");
        return found;
    }
    CUstream stream() const { return stream_; }

  private:
    const PlainCuda& cuda_;
    CUstream stream_;
    Work work_;
    std::vector<CUfunction> kernels_;
    PeerMemory words_[2]{PeerMemory(sizeof(unsigned) * kWords), PeerMemory(sizeof(unsigned) * kWords)};
};

inline void check_words(const Words& found, const Words& expected, const std::string& who) {
    if (found != expected) throw std::runtime_error(who + ": the words are not what the launches give");
}

// The last note of a table: on what it was measured, or that it was not.
inline std::string setting(Client& client) {
    const DaemonInfo& info = client.daemon();
    if (info.driver == "cuda") return gpu_and_driver() + "; ringlaunch " + info.version;
    return "without plain CUDA beside it: this is not the cuda driver" +
           std::string(info.driver == "null" ? ", and nothing runs or is compared" : "");
}

// How many ticks of the GPU's clock a nanosecond has, while it is busy.
inline double ticks_per_ns(const PlainCuda& cuda) {
    constexpr unsigned kTicks = 40'000'000;
    const PlainWork work(cuda, Work(Work::Kind::hold, kTicks));
    double least = 0;
    for (int i = 0; i < 5; ++i) {
        const std::uint64_t begin = now_ns();
        work.launch(0);
        work.wait();
        least = std::max(least, kTicks / static_cast<double>(now_ns() - begin));
    }
    return least;
}

}  // namespace ringlaunch::bench
