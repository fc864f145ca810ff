"""The command line itself: help, versions, wrong arguments, exit codes."""

import json
import re
import subprocess

import pytest

COMMANDS = ["serve", "status", "stats", "sessions", "kernels", "stop", "doctor", "version"]


def documented_exit_codes(text: str) -> dict[int, str]:
    table = text.split("Exit codes:\n")[1]
    return {int(code): meaning for code, meaning in re.findall(r"^ +(\d+)  (.+)$", table, re.MULTILINE)}


def test_help_names_every_command_and_every_exit_code(cli):
    result = cli.run("--help")
    assert result.returncode == 0
    listed = re.findall(r"^  ([a-z]+) ", result.stdout.split("Subcommands:")[1].split("Examples:")[0], re.MULTILINE)
    assert listed == COMMANDS
    assert list(documented_exit_codes(result.stdout)) == list(range(11))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_examples_and_its_exit_codes(cli, command):
    result = cli.run(command, "--help")
    assert result.returncode == 0
    assert f"\n  ringlaunchd {command}" in result.stdout.split("Examples:")[1]
    all_codes = documented_exit_codes(cli.run("--help").stdout)
    own_codes = documented_exit_codes(result.stdout)
    assert {0, 2} <= own_codes.keys()
    assert own_codes.items() <= all_codes.items()


def test_version_says_program_and_protocol_in_text_and_json(cli):
    said = json.loads(cli.run("version", "--json").stdout)
    text = cli.run("version").stdout
    assert text == f"ringlaunchd {said['version']} (protocol {said['protocol']})\n"
    assert cli.run("--version").stdout == text
    assert re.fullmatch(r"\d+\.\d+\.\d+", said["version"])
    assert said["protocol"] >= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "subcommand is required"),
        (["fly"], 'no command "fly"'),
        (["status", "--nonsense"], "--nonsense"),
        (["serve", "--driver", "opengl"], "opengl"),
        (["serve", "--driver", "1"], "--driver"),
        (["serve", "--isolate", "everyone"], "everyone"),
        (["serve", "--devices", "-1"], "--devices"),
        (["serve", "--devices", "0,,1"], "--devices"),
        (["serve", "--devices", "0,1x"], "--devices"),
        (["serve", "--devices", "1,1"], "named twice"),
        (["serve", "--max-memory", "lots"], "--max-memory"),
        (["serve", "--in-flight", "0"], "--in-flight"),
        (["serve", "--log-level", "loud"], "loud"),
        (["serve", "--ready-fd", "937"], "937"),
        (["serve", "--max-streams", "0"], "--max-streams"),
        (["serve", "--max-sessions", "0"], "0 is too few: 1 or more"),
        (["serve", "--max-messages", "1"], "1 is too few: 16 or more"),
        (["serve", "--max-memory", "-1"], "-1 is too small: 2 MiB or more, or 0"),
        (["serve", "--max-memory", "1"], "--max-memory"),
        (["serve", "--max-staging", "-1"], "-1 is too small: 4 KiB or more"),
        (["serve", "--max-staging", "1"], "--max-staging"),
        (["serve", "--max-image", "-1"], "-1 is too small: 4 KiB or more"),
        (["serve", "--max-image", "0"], "0 is too small"),
        (["serve", "--max-stack", "0"], "0 is too small: 1 KiB or more"),
        (["serve", "--max-stack", "-1"], "--max-stack"),
        (["serve", "--max-graphs", "0"], "0 is too few: 1 or more"),
        (["serve", "--max-graph-bytes", "0"], "0 is too small"),
        (["serve", "--max-ring-slots", "100"], "100 is no power of two"),
        (["serve", "--batch", "1025"], "--batch"),
        (["serve", "--spin-us", "nan"], "nan is no number in [0 - 1000000000]"),
        (["serve", "--spin-us", "0x7fffffffffffffff"], "is no number in [0 - 1000000000]"),
        (["serve", "--exit-when-idle", "-1"], "--exit-when-idle"),
        (["serve", "--socket", ""], "the path is empty"),
        (["status", "--socket", ""], "the path is empty"),
        (["status", "--timeout", "nan"], "nan is no number in"),
        (["serve", "--allow-uid", "no-such-user-here"], "no-such-user-here"),
        (["serve", "--allow-gid", "no-such-group-here"], "no-such-group-here"),
        (["stats", "--count", "3"], "--watch"),
        (["stop", "--drain", "soon"], "soon"),
        (["executor"], "--control-fd"),
        (["status", "--timeout", "0"], "--timeout"),
        (["status", "--socket", "/" + "x" * 200], "at most 107"),
    ],
)
def test_a_wrong_command_line_is_refused_and_says_which_part(cli, arguments, said):
    result = cli.run(*arguments)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr) < 400
    assert result.stdout == ""
    assert not cli.socket.exists()


def test_the_smallest_limits_leave_a_daemon_that_can_be_stopped(cli):
    cli.serve("--driver", "null", "--max-messages", "16", "--max-memory", "2MiB", "--max-staging", "4096")
    for command in ("status", "sessions", "stats", "stop"):
        result = cli.run(command)
        assert result.returncode == 0, result.stderr


def test_a_log_file_in_no_folder_is_refused_and_makes_none(cli):
    folder = cli.folder / "not" / "there"
    result = cli.run("serve", "--driver", "null", "--log-file", str(folder / "log"))
    assert result.returncode == 5
    assert f"there is no folder {folder}" in result.stderr
    assert not folder.parent.exists()


def test_a_wrong_watch_period_is_a_usage_error_before_any_daemon_is_asked(cli):
    result = cli.run("stats", "--watch", "often")
    assert result.returncode == 2
    assert '"often"' in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["version"],
        ["doctor"],
        ["status"],
        ["sessions", "--json"],
        ["kernels"],
        ["stats"],
        ["stats", "--watch", "0.01"],
    ],
)
def test_output_that_cannot_be_written_is_a_failure_that_is_said(cli, arguments):
    cli.serve("--driver", "null")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [cli.binary, *arguments], env=cli.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert result.returncode == 1
    assert "cannot write to standard output: No space left on device" in result.stderr


def test_the_advice_names_what_chose_the_socket(cli):
    cli.folder.chmod(0o755)
    long = "/" + "x" * 200
    by_option = cli.run("status", "--socket", long).stderr
    by_environment = cli.run("status", env={"RINGLAUNCH_SOCKET": long}).stderr
    assert "RINGLAUNCH_SOCKET" not in by_option
    assert "give a shorter one" in by_option
    assert "set RINGLAUNCH_SOCKET to a shorter one" in by_environment
