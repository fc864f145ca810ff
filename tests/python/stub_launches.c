// A libcuda with two devices that runs nothing and keeps a list of what it was given to launch, plainly and in launch
// graphs. What nobody should call here ends the program.
//
// A test may hold up whoever launches, have launches refused, and say that streams are being captured.
#include <cuda.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define kParamBytes 256
#define kMostParams 160
#define kMostNodes 64
#define kMostEntries 200000

typedef struct {
    CUfunction function;
    unsigned grid;
    unsigned char params[kParamBytes];
} Node;

typedef struct {
    unsigned long long function, stream, grid, nodes, words[kParamBytes / 8];
} Entry;

struct CUgraph_st {
    unsigned count;
    Node nodes[kMostNodes];
};
struct CUgraphExec_st {
    struct CUgraph_st graph;
    int busy;
};

static Entry* entries;
static unsigned count, functions, live_graphs, capturing, maps, param_count = 5;
static unsigned param_sizes[kMostParams] = {8, 8, 8, 8, 8}, param_offsets[kMostParams] = {0, 8, 16, 24, 32};
static unsigned long long refused;
static int held;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;

unsigned stub_count(void) {
    pthread_mutex_lock(&lock);
    unsigned now = count;
    pthread_mutex_unlock(&lock);
    return now;
}
const Entry* stub_entries(void) { return entries; }
void stub_params(unsigned number, const unsigned* sizes) {
    unsigned end = 0;
    param_count = number;
    for (unsigned i = 0; i < number; ++i) {
        const unsigned align = sizes[i] < 64 ? sizes[i] : 64;
        param_offsets[i] = (end + align - 1) / align * align;
        param_sizes[i] = sizes[i];
        end = param_offsets[i] + sizes[i];
    }
    if (number > kMostParams || end > kParamBytes) abort();
}
unsigned stub_maps(void) { return maps; }  // of tensors that were made
void stub_refuse(unsigned long long second_word) { refused = second_word; }
void stub_capture(unsigned is) { capturing = is; }
unsigned stub_graphs(void) { return live_graphs; }
void stub_hold(int is) {
    pthread_mutex_lock(&lock);
    held = is;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

static CUresult keep(const Node* nodes, unsigned number, CUstream stream) {
    pthread_mutex_lock(&lock);
    while (held) pthread_cond_wait(&moved, &lock);
    if (!entries) entries = malloc(kMostEntries * sizeof *entries);
    for (unsigned i = 0; i < number; ++i) {
        Entry entry = {(unsigned long long)nodes[i].function, (unsigned long long)stream, nodes[i].grid, number, {0}};
        memcpy(entry.words, nodes[i].params, kParamBytes);
        if (refused && entry.words[1] == refused) {  // a graph is refused as a whole, before anything of it happens
            pthread_mutex_unlock(&lock);
            return CUDA_ERROR_INVALID_VALUE;
        }
    }
    for (unsigned i = 0; i < number; ++i) {
        Entry* entry = &entries[count++];
        if (count >= kMostEntries) abort();
        *entry = (Entry){(unsigned long long)nodes[i].function, (unsigned long long)stream, nodes[i].grid, number, {0}};
        memcpy(entry->words, nodes[i].params, kParamBytes);
    }
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

// Parameters as an array of pointers, as Triton's launcher gives them, or in one piece.
static void take(Node* node, CUfunction function, unsigned grid, void** given, void** extra) {
    memset(node, 0, sizeof *node);
    node->function = function;
    node->grid = grid;
    if (given)
        for (unsigned i = 0; i < param_count; ++i) memcpy(node->params + param_offsets[i], given[i], param_sizes[i]);
    if (extra) memcpy(node->params, extra[1], *(size_t*)extra[3] < kParamBytes ? *(size_t*)extra[3] : kParamBytes);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** given, void** extra) {
    Node node;
    take(&node, function, config->gridDimX, given, extra);
    return keep(&node, 1, config->hStream);
}
CUresult cuGraphCreate(CUgraph* graph, unsigned flags) {
    *graph = calloc(1, sizeof **graph);
    __atomic_add_fetch(&live_graphs, 1, __ATOMIC_SEQ_CST);
    return flags != 0;
}
CUresult cuGraphAddKernelNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* behind, size_t number,
                              const CUDA_KERNEL_NODE_PARAMS* params) {
    if (number != (graph->count != 0) || (number && (size_t)behind[0] != graph->count)) abort();  // one row
    take(&graph->nodes[graph->count++], params->func, params->gridDimX, params->kernelParams, params->extra);
    *node = (CUgraphNode)(size_t)graph->count;
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiate(CUgraphExec* exec, CUgraph graph, unsigned long long flags) {
    *exec = calloc(1, sizeof **exec);
    (*exec)->graph = *graph;
    __atomic_add_fetch(&live_graphs, 1, __ATOMIC_SEQ_CST);
    return flags != 0;
}
CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) { return exec == 0 || stream == (CUstream)-1; }
static void enter(CUgraphExec exec) {
    if (__atomic_exchange_n(&exec->busy, 1, __ATOMIC_SEQ_CST)) abort();  // two threads at once
}
static void leave(CUgraphExec exec) { __atomic_store_n(&exec->busy, 0, __ATOMIC_SEQ_CST); }
CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* params) {
    enter(exec);
    Node* mine = &exec->graph.nodes[(size_t)node - 1];
    if (mine->function != params->func) abort();
    take(mine, params->func, params->gridDimX, params->kernelParams, params->extra);
    leave(exec);
    return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    enter(exec);
    CUresult result = keep(exec->graph.nodes, exec->graph.count, stream);
    leave(exec);
    return result;
}
CUresult cuGraphExecDestroy(CUgraphExec exec) {
    enter(exec);
    free(exec);
    __atomic_sub_fetch(&live_graphs, 1, __ATOMIC_SEQ_CST);
    return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
    free(graph);
    __atomic_sub_fetch(&live_graphs, 1, __ATOMIC_SEQ_CST);
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
    *status = capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return stream == (CUstream)-1;
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) { return mode == 0; }
CUresult cuInit(unsigned flags) { return flags != 0; }
CUresult cuDeviceGetCount(int* number) { return *number = 2, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    (void)device;
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 97 ? 232448 : 1024;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    return *context = (CUcontext)(size_t)(device + 1), CUDA_SUCCESS;
}
static __thread CUcontext current = (CUcontext)1;
CUresult cuCtxGetCurrent(CUcontext* context) { return *context = current, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { return current = context, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* device) { return *device = (int)(size_t)current - 1, CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t* value, CUlimit limit) { return *value = (size_t)limit, CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return limit == 99 && value == 0; }
CUresult cuGetErrorName(CUresult error, const char** text) {
    return *text = error ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_SUCCESS", CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) {
    return *text = error ? "refused" : "no error", CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* module, const void* image) { return *module = (CUmodule)16, image == 0; }
CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned number, CUjit_option* options, void** values) {
    (void)options, (void)values;
    return *module = (CUmodule)32, image == 0 || number > 8;
}
CUresult cuFuncLoad(CUfunction function) { return function == 0; }
CUresult cuModuleUnload(CUmodule module) { return module == 0; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    return *function = (CUfunction)(size_t)(++functions * 16), module == 0 || name == 0;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    return *value = attribute == 0 ? 1024 : 0, function == 0;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    return function == 0 && (int)attribute == value;
}
CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) { return function == 0 && config == 0; }
CUresult cuFuncGetParamInfo(CUfunction function, size_t number, size_t* offset, size_t* size) {
    if (function == 0 || number >= param_count) return CUDA_ERROR_INVALID_VALUE;
    return *offset = param_offsets[number], *size = param_sizes[number], CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveClusters(int* number, CUfunction function, const CUlaunchConfig* config) {
    return *number = 1, function == 0 || config == 0;
}
// Below 1 << 40 memory is the device's; from there on pinned, which the device knows by another address; from 1 << 41 on
// it is the host's alone.
CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr pointer) {
    if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER || pointer >> 41) return CUDA_ERROR_INVALID_VALUE;
    if (pointer >> 40) pointer -= (1ull << 40) - 64;
    memcpy(value, &pointer, sizeof pointer);
    return CUDA_SUCCESS;
}

// A map holds what it was made of.
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* shape, const cuuint64_t* strides, const cuuint32_t* block,
                                const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    cuuint64_t* out = (cuuint64_t*)map;
    memset(out, 0, sizeof *map);
    if (rank > 3 || address == 0 || steps[0] != 1) return CUDA_ERROR_INVALID_VALUE;
    *out++ = (cuuint64_t)address;
    *out++ = (cuuint64_t)type | rank << 8 | interleave << 16 | (cuuint64_t)swizzle << 24 | (cuuint64_t)promotion << 32 |
             (cuuint64_t)fill << 40;
    for (unsigned i = 0; i < rank; ++i) *out++ = shape[i];
    for (unsigned i = 0; i + 1 < rank; ++i) *out++ = strides[i];
    for (unsigned i = 0; i < rank; ++i) *out++ = block[i];
    __atomic_add_fetch(&maps, 1, __ATOMIC_SEQ_CST);
    return CUDA_SUCCESS;
}

// The rest of what is looked up has to be there.
void stub_missing(void) {
    fputs("stub_launches.c: something else of libcuda was called\n", stderr);
    abort();
}
#define TEXT(name) #name
#define SYMBOL(name) TEXT(name)
#define MISSING(name) __asm__(".globl " SYMBOL(name) "\n.set " SYMBOL(name) ", stub_missing\n");
MISSING(cuDeviceGetName)
MISSING(cuDeviceCanAccessPeer)
MISSING(cuDevicePrimaryCtxRelease)
MISSING(cuCtxGetStreamPriorityRange)
MISSING(cuMemGetInfo)
MISSING(cuMemGetAllocationGranularity)
MISSING(cuMemAddressReserve)
MISSING(cuMemAddressFree)
MISSING(cuMemCreate)
MISSING(cuMemRelease)
MISSING(cuMemMap)
MISSING(cuMemUnmap)
MISSING(cuMemSetAccess)
MISSING(cuMemExportToShareableHandle)
MISSING(cuMemImportFromShareableHandle)
MISSING(cuMemHostRegister)
MISSING(cuMemHostUnregister)
MISSING(cuMemHostGetDevicePointer)
MISSING(cuMemcpyDtoH)
MISSING(cuMemcpyHtoDAsync)
MISSING(cuMemcpyDtoHAsync)
MISSING(cuMemcpyDtoDAsync)
MISSING(cuMemcpyPeerAsync)
MISSING(cuMemsetD8Async)
MISSING(cuMemsetD16Async)
MISSING(cuMemsetD32Async)
MISSING(cuModuleGetFunctionCount)
MISSING(cuModuleEnumerateFunctions)
MISSING(cuModuleGetGlobal)
MISSING(cuFuncGetName)
MISSING(cuStreamCreateWithPriority)
MISSING(cuStreamDestroy)
MISSING(cuStreamQuery)
MISSING(cuStreamSynchronize)
MISSING(cuStreamWaitEvent)
MISSING(cuStreamWriteValue64)
MISSING(cuEventCreate)
MISSING(cuEventDestroy)
MISSING(cuEventRecord)
MISSING(cuLaunchHostFunc)
MISSING(cuLaunchKernel)
MISSING(cuGraphAddMemcpyNode)
MISSING(cuGraphAddMemsetNode)
MISSING(cuGraphKernelNodeSetAttribute)
MISSING(cuDeviceGetPCIBusId)
MISSING(cuDeviceTotalMem)
MISSING(cuOccupancyMaxPotentialClusterSize)
MISSING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
MISSING(cuTensorMapEncodeIm2col)
