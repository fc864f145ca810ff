// A module that does harm to whoever loads it while the file that blocks executors says so: "module HOW [N]",
// the next N times.
#include <ringlaunch/kernel.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern "C" __global__ void never_run_again() {}
RINGLAUNCH_EXPORT(never_run_again)

__attribute__((constructor)) static void on_load() {
    const char* path = getenv("RINGLAUNCH_TEST_BLOCKED_BY");
    FILE* file = path == nullptr ? nullptr : fopen(path, "r");
    if (file == nullptr) return;
    char word[16] = "", how[16] = "";
    int times = -1;
    const int read = fscanf(file, "%15s %15s %d", word, how, &times);
    fclose(file);
    if (read < 2 || strcmp(word, "module") != 0 || times == 0) return;
    if (times > 0 && (file = fopen(path, "w")) != nullptr) {
        fprintf(file, "module %s %d", how, times - 1);
        fclose(file);
    }
    if (strcmp(how, "segv") == 0) *reinterpret_cast<volatile int*>(8) = 1;
    if (strcmp(how, "exit") == 0) _exit(0);
    if (strcmp(how, "leave") == 0) exit(0);
    if (strcmp(how, "send") == 0) kill(getpid(), SIGABRT);
    if (strcmp(how, "kill") == 0) kill(getpid(), SIGKILL);
    if (strcmp(how, "slow") == 0) usleep(800 * 1000);
    while (strcmp(how, "hang") == 0) pause();
}
