// The executor as a process of its own, for tests: argument 1 is the control descriptor.
#include <cstdlib>

#include "daemon/executor/executor.hpp"

int main(int argc, char** argv) {
    return argc == 2 ? ringlaunch::executor::run_executor(std::atoi(argv[1])) : 2;
}
