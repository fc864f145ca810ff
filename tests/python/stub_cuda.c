// A libcuda that has one device of Triton's kind and launches nothing: it keeps what Triton's launcher hands to it.
#include <stdint.h>
#include <string.h>

typedef int Result;

struct Config {
    unsigned grid[3], block[3], shared;
    void* stream;
    void* attributes;
    unsigned attribute_count;
};

static unsigned sizes[512], size_count;
static unsigned char params[8192];
static unsigned shape[8];
static unsigned launches;

// For the test: how large each parameter is, and what came.
void stub_expect(const unsigned* given, unsigned count) {
    memcpy(sizes, given, count * sizeof *given);
    size_count = count;
    launches = 0;
}
unsigned stub_launches(void) { return launches; }
const unsigned* stub_shape(void) { return shape; }
const unsigned char* stub_params(void) { return params; }

Result cuLaunchKernelEx(const struct Config* config, void* function, void** given, void** extra) {
    (void)function, (void)extra;
    ++launches;
    memcpy(shape, config->grid, 7 * sizeof *shape);
    shape[7] = config->attribute_count;
    unsigned char* at = params;
    for (unsigned i = 0; i < size_count; ++i) {
        memcpy(at, given[i], sizes[i]);
        at += sizes[i];
    }
    return 0;
}

Result cuInit(unsigned flags) { return flags != 0; }
Result cuDeviceGetCount(int* count) { return *count = 1, 0; }
Result cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
Result cuDriverGetVersion(int* version) { return *version = 13000, 0; }
Result cuDeviceGetAttribute(int* value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 97 ? 232448 : 1024;
    return 0;
}
Result cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)(intptr_t)(device + 1), 0; }
Result cuCtxGetCurrent(void** context) { return *context = (void*)1, 0; }
Result cuCtxSetCurrent(void* context) { return context == 0; }
Result cuCtxGetDevice(int* device) { return *device = 0, 0; }
Result cuCtxGetLimit(uint64_t* value, int limit) { return *value = (uint64_t)limit, 0; }
Result cuCtxSetLimit(int limit, uint64_t value) { return limit < 0 && value == 0; }
Result cuGetErrorString(Result error, const char** text) { return *text = error ? "refused" : "no error", 0; }
Result cuModuleLoadData(void** module, const void* image) { return *module = (void*)16, image == 0; }
Result cuModuleUnload(void* module) { return module == 0; }
Result cuModuleGetFunction(void** function, void* module, const char* name) {
    return *function = (void*)32, module == 0 || name == 0;
}
Result cuFuncGetAttribute(int* value, int attribute, void* function) {
    return *value = attribute == 0 ? 1024 : 0, function == 0;
}
Result cuFuncSetAttribute(void* function, int attribute, int value) { return function == 0 && attribute == value; }
Result cuFuncSetCacheConfig(void* function, int config) { return function == 0 && config == 0; }
Result cuOccupancyMaxActiveClusters(int* count, void* function, const void* config) {
    return *count = 1, function == 0 || config == 0;
}
Result cuPointerGetAttribute(void* value, int attribute, uint64_t pointer) {
    (void)attribute;
    memcpy(value, &pointer, sizeof pointer);
    return 0;
}
Result cuStreamIsCapturing(void* stream, int* status) { return *status = 0, stream == (void*)-1; }
Result cuTensorMapEncodeTiled(void) { return 1; }
Result cuTensorMapEncodeIm2col(void) { return 1; }
