// A module that kills whoever loads it while the file that blocks executors says so.
#include <ringlaunch/kernel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" __global__ void never_run_again() {}
RINGLAUNCH_EXPORT(never_run_again)

__attribute__((constructor)) static void on_load() {
    const char* path = getenv("RINGLAUNCH_TEST_BLOCKED_BY");
    FILE* file = path == nullptr ? nullptr : fopen(path, "r");
    if (file == nullptr) return;
    char word[16] = "";
    if (fgets(word, sizeof word, file) != nullptr && strcmp(word, "module") == 0)
        *reinterpret_cast<volatile int*>(8) = 1;
    fclose(file);
}
