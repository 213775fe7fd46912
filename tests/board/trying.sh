# For what runs in the emulated Debian, which has it before it: what is tried is a line of the job's log.
# shellcheck shell=sh
set -x
exec 3>/job/log
try() {
    name=$1
    shift
    if "$@" >&2; then echo "  $name: good" >&3; else echo "  $name: FAILED" >&3; fi
}
eventually() {
    n=0
    until "$@" >&2; do
        n=$((n + 1))
        [ $n -lt 120 ] || return 1
        sleep 1
    done
}
no() { ! "$@"; }
is_active() { [ "$(systemctl is-active candor)" = active ]; }
# Of this start of the machine alone: the journal may hold others.
says() { journalctl -b -u candor -o cat | grep -q "$1"; }
main_pid() { systemctl show -p MainPID --value candor; }
is_another() { [ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ]; }
# Whether a slot holds the model of slots.py in one of these states: "staged|trial".
in_a_slot() {
    candor slot status --json --config /etc/candor/candor.toml | tr -d ' \n' | sed 's/.*"slots"://' |
        grep -qE "\"($1)\":\\{[^}]*\"version\":\"9\.0\.0\""
}
