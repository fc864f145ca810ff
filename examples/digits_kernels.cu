// The layers of digits.py as plain CUDA C++ kernels: the same source compiles with g++ for the host driver
// and with nvcc for a GPU.
//
// All work on one row of each array: row `digit` belongs to that digit. Each kernel reads one buffer and
// writes another, so that a launch that is run again leaves the same bytes.

#include <ringlaunch/kernel.h>

// out[digit][row] = sum over c of matrix[row][c] * in[digit][c]; one thread a row.
extern "C" __global__ void matrix_vector(const float* matrix, const float* in, float* out, int digit,
                                         int rows, int columns) {
    const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (row >= rows) return;
    float sum = 0;
    for (int c = 0; c < columns; ++c) sum += matrix[row * columns + c] * in[digit * columns + c];
    out[digit * rows + row] = sum;
}
RINGLAUNCH_EXPORT(matrix_vector)

// out[digit][i] = in[digit][i] + offset[i]; one thread an element.
extern "C" __global__ void bias(const float* in, const float* offset, float* out, int digit, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[digit * n + i] = in[digit * n + i] + offset[i];
}
RINGLAUNCH_EXPORT(bias)

// out[digit][i] = max(in[digit][i], 0); one thread an element.
extern "C" __global__ void relu(const float* in, float* out, int digit, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[digit * n + i] = in[digit * n + i] > 0 ? in[digit * n + i] : 0;
}
RINGLAUNCH_EXPORT(relu)

// out[digit][i] = exp(in[digit][i]) / sum over j of exp(in[digit][j]), from the largest value down so that no
// exp overflows; one thread an element, each of which forms the sum for itself: there are ten.
extern "C" __global__ void softmax(const float* in, float* out, int digit, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const float* row = in + digit * n;
    float largest = row[0];
    for (int j = 1; j < n; ++j) largest = row[j] > largest ? row[j] : largest;
    float sum = 0;
    for (int j = 0; j < n; ++j) sum += expf(row[j] - largest);
    out[digit * n + i] = expf(row[i] - largest) / sum;
}
RINGLAUNCH_EXPORT(softmax)

// label[digit] = the index of the largest of in[digit]; one thread in all.
extern "C" __global__ void argmax(const float* in, int* label, int digit, int n) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    int best = 0;
    for (int i = 1; i < n; ++i) best = in[digit * n + i] > in[digit * n + best] ? i : best;
    label[digit] = best;
}
RINGLAUNCH_EXPORT(argmax)
