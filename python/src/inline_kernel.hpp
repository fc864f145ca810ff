// A kernel that is launched by the calling thread, in this program's own CUDA context, on a stream of its
// own: what Triton has compiled and loaded there.
//
// CUDA's types stay in inline_cuda.cpp; a build without cuda.h has inline_absent.cpp in its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <utility>
#include <vector>

#include "inline_seats.hpp"
#include "inline_worker.hpp"
#include "triton_maps.hpp"

namespace ringlaunch::driver {
class Kernel;
}

namespace ringlaunch::python {

struct InlineShape {
    std::string name;
    std::uint64_t function = 0;  // CUfunction, of the current context
    Dim3 block;
    std::uint32_t shared_bytes = 0;
    std::uint32_t cluster = 1;  // blocks
    bool cooperative = false;
    bool programmatic = false;
};

class InlineKernel {
  public:
    struct Place {
        std::uint32_t offset = 0, size = 0;
    };
    // How one launch goes, and what became of it.
    struct Turn {
        Way way = Way::plain;
        Seat* seat = nullptr;
        bool lost = false;  // its graph cannot be used any more
        int result = 0;     // CUresult
    };

    virtual ~InlineKernel() = default;

    virtual std::uint64_t context() const noexcept = 0;  // CUcontext
    virtual int device() const noexcept = 0;             // its number in this program
    virtual const std::vector<Place>& params() const noexcept = 0;
    virtual std::size_t graphs() const noexcept = 0;

    // The three steps of a launch. First and last under the interpreter lock; the one between needs none,
    // since it may wait for the device for as long as a full queue takes to drain. `grid`: with clusters.
    virtual Turn begin(std::uint64_t stream) noexcept = 0;
    virtual void issue(Turn& turn, const Dim3& grid, const std::byte* params,
                       std::uint64_t stream) noexcept = 0;
    virtual void end(const Turn& turn) noexcept = 0;

    // For an issuer: what is launched by whoever holds its lock.
    const InlineShape& shape() const noexcept { return shape_; }
    virtual driver::Kernel& node() noexcept = 0;
    virtual std::uint32_t param_bytes() const noexcept = 0;
    virtual int launch_plainly(const Dim3& grid, const std::byte* params, std::uint64_t stream) noexcept = 0;

  protected:
    explicit InlineKernel(InlineShape shape) : shape_(std::move(shape)) {}
    const InlineShape shape_;
};

// Throws Error{unsupported} where there is no libcuda, or this build cannot use it.
void load_cuda();

// The calling thread's CUcontext; 0: it has none. After load_cuda().
std::uint64_t current_context() noexcept;

// What the driver calls memory of this program on the device, in place of what it was given. False: a kernel
// cannot use it.
bool device_address(std::uint64_t& address) noexcept;

// Of the current context.
struct InlineDevice {
    int number = 0;        // in this program
    int architecture = 0;  // 90 for sm_90
    int most_shared_bytes = 0;
};
InlineDevice inline_device();

struct InlineFunction {
    std::uint64_t function = 0;  // CUfunction
    int registers = 0, local_bytes = 0, static_shared_bytes = 0, max_threads = 0;
};
// Loads an image into the current context, for good: whoever launches keeps no reference to it, and a launch
// graph none to its module. `large_clusters`: of more than 8 blocks. Throws Error.
InlineFunction load_inline_function(const std::string& image, const std::string& entry, bool large_clusters);
// Lets a block of the function have so much dynamic shared memory.
void allow_inline_shared(std::uint64_t function, std::uint32_t bytes);

// Asks the driver what the function takes. Throws Error.
std::unique_ptr<InlineKernel> make_inline_kernel(const InlineShape& shape);

// Has launches in `stream` to be plain ones, by the thread that makes them? It is being captured, or is
// another stream for each thread.
bool launches_by_itself(std::uint64_t stream) noexcept;

// What a region's worker issues with.
class StreamIssuer : public Issuer {
  public:
    // Where launches go from now on. While nothing is issued.
    virtual void aim(std::uint64_t context, std::uint64_t stream) = 0;
    // What is kept to launch the kernel goes. While nothing is issued.
    virtual void forget(InlineKernel& kernel) noexcept = 0;
};
std::unique_ptr<StreamIssuer> make_issuer();

// The map of a tensor in this program (triton_maps.hpp). Answers a CUresult.
int encode_tensor_map(const triton::TensorMapKind& kind, const std::uint64_t* of, TensorMap& out) noexcept;

// "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
std::string inline_error_text(int result);

// How many graphs a context may have at a time; for tests.
void set_most_inline_graphs(std::size_t most);

}  // namespace ringlaunch::python
