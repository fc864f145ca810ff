// The executor process: what `ringlaunchd executor --control-fd N` runs.
#pragma once

namespace ringlaunch::executor {

// Serves the supervisor at the other end of `control_fd` (a SOCK_SEQPACKET socket pair, which it takes over)
// until it is told to quit or the supervisor is gone. Returns the exit status: 0 when asked to quit, 1 when
// the supervisor was gone or sent what is no message. Leaves with driver::kExitDeviceLost from within when
// the device is lost.
int run_executor(int control_fd);

}  // namespace ringlaunch::executor
