#include "daemon/supervisor/death.hpp"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <iterator>

namespace ringlaunch::supervisor {

namespace {

std::string hex(std::uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

// No fault raises these: somebody sent them, from outside or in a kernel.
bool was_sent(int signal) {
    return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGHUP ||
           signal == SIGQUIT;
}

}  // namespace

std::string signal_name(int signal) {
    const char* name = ::sigabbrev_np(signal);
    return name == nullptr ? "signal " + std::to_string(signal) : std::string("SIG") + name;
}

FaultReport read_fault_page(const driver::FaultPage& page) {
    FaultReport report;
    // sync: FAULT (pairs with the store in the executor's signal handler): the rest is there before the kind.
    const std::uint32_t kind = page.kind.load(std::memory_order_acquire);
    if (kind != static_cast<std::uint32_t>(driver::FaultKind::signal) &&
        kind != static_cast<std::uint32_t>(driver::FaultKind::device))
        return report;
    report.kind = static_cast<driver::FaultKind>(kind);
    report.signal = static_cast<int>(page.signal);
    report.stream = page.stream;
    report.position = page.position;
    report.kernel = page.kernel;
    report.address = page.address;
    report.text.assign(page.text, ::strnlen(page.text, sizeof page.text));
    for (char& c : report.text)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    if (page.also_count <= std::size(page.also))
        report.also.assign(page.also, page.also + page.also_count);
    else
        report.stream = 0;  // more than it can name: then nobody is
    return report;
}

Death explain_death(const ExitInfo& exit, const FaultReport& fault, const OwnKill& own_kill) {
    Death death;
    if (fault.kind != driver::FaultKind::none) {
        death.stream = fault.stream;
        death.position = fault.position;
        death.kernel = fault.kernel;
        death.also = fault.also;
        const bool caught = fault.kind == driver::FaultKind::signal;
        death.device_lost = !caught;
        death.outside_streams = caught && fault.stream == 0 && fault.also.empty();
        if (caught && fault.text.starts_with(signal_name(fault.signal))) {
            death.text = "caught " + fault.text;  // it says signal and address itself
        } else {
            death.text = caught ? "caught " + signal_name(fault.signal) +
                                      (fault.address == 0 ? "" : " at address " + hex(fault.address))
                                : "lost its device";
            if (!fault.text.empty()) death.text += " (" + fault.text + ")";
        }
        death.cause = fault.stream != 0 ? DeathCause::culprit_known : DeathCause::unknown;
        return death;
    }
    if (own_kill.done) {
        death.by_daemon = true;
        death.stream = own_kill.stream;
        if (own_kill.records) death.put_down_to(own_kill.stream, *own_kill.records);
        death.cause = own_kill.abandoned     ? DeathCause::abandoned_work
                      : own_kill.stream != 0 ? DeathCause::culprit_known
                                             : DeathCause::unknown;
        death.text = "was ended by the daemon: " + own_kill.why;
        return death;
    }
    if (exit.by_signal) {
        death.cause = was_sent(exit.code) ? DeathCause::killed : DeathCause::unknown;
        death.text =
            (death.cause == DeathCause::killed ? "was killed by " : "died of ") + signal_name(exit.code);
        return death;
    }
    death.device_lost = exit.code == driver::kExitDeviceLost;
    death.text = death.device_lost ? "lost its device"
                                   : "left by itself with exit status " + std::to_string(exit.code);
    return death;
}

}  // namespace ringlaunch::supervisor
