# Words that the scenarios of tests/board/run are written in; runs inside the board, under busybox. The folder $here
# gets what a scenario leaves: events (what candor said), marks (when what was done), errors.
# shellcheck shell=sh disable=SC2154

now_ms() {
    adjtimex | awk '/time.tv_sec/ { s = $2 } /time.tv_usec/ { us = $2 } END { printf "%s%03d", s, us / 1000 }'
}

# Writes down that $1 is done now; what is awaited from here on has to come after it.
mark() {
    printf '{"mark":"%s","unix_ms":%s}\n' "$1" "$(now_ms)" >>"$here/marks"
    seen=$(wc -l <"$here/events")
}

# Waits for a line of candor's that matches $1, or $3 of them, $2 seconds at most, 20 without.
await() {
    tries=$((${2:-20} * 20))
    until [ "$(tail -n "+$((seen + 1))" "$here/events" | grep -c "$1")" -ge "${3:-1}" ]; do
        tries=$((tries - 1))
        if [ "$tries" -le 0 ] || ! kill -0 "$watcher" 2>/dev/null; then
            echo "no line with $1" >>"$here/errors"
            return 1
        fi
        usleep 50000
    done
}
await_state() { await "\"state\":\"$1\"" "$2"; }

control() { v4l2-ctl -d "$camera" -c "$1" >/dev/null 2>>"$here/errors"; }

# Loads the driver anew, with a signal of 640x480 from its output to its input. Options: more of the driver's parameters.
driver() {
    if grep -q '^vivid ' /proc/modules; then rmmod vivid; fi
    # One HDMI input, one HDMI output, every size.
    insmod /modules/vivid.ko n_devs=1 node_types=0x101 num_inputs=1 input_types=3 num_outputs=1 output_types=1 \
        ccs_cap_mode=7 ccs_out_mode=7 "$@" || echo "vivid doesn't load" >>"$here/errors"
    camera=/dev/video0
    player=/dev/video1
    wire 0
}

# Sends from the output to the input what is signalled by number $1 of the driver's list of timings: 0 for 640x480 at
# 60 Hz, 2 for 720x480 at 60 Hz.
wire() {
    v4l2-ctl -d "$player" --set-dv-bt-timings "index=$1" >/dev/null 2>>"$here/errors"
    v4l2-ctl -d "$camera" --set-dv-bt-timings "index=$1" >/dev/null 2>>"$here/errors"
    # Nothing written into the picture.
    control loop_video=1,osd_text_mode=2
}

# Plays the frames of file $1 into the output, round and round. Its name says how they are encoded: NAME.WxH.FOURCC.
feed() {
    # Read once through the shared folder, which is slow.
    [ -f "/tmp/$1" ] || cp "/job/$1" /tmp/
    fourcc=${1##*.}
    size=${1%.*}
    size=${size##*.}
    v4l2-ctl -d "$player" \
        --set-fmt-video-out "width=${size%x*},height=${size#*x},pixelformat=$fourcc" \
        --stream-out-mmap=4 --stream-from="/tmp/$1" --stream-loop >/dev/null 2>&1 &
    feeder=$!
}
feed_ends() {
    kill "$feeder" 2>/dev/null
    wait "$feeder" 2>/dev/null
}

# candor watch, of the first camera, with pictures encoded as $1, and with the setting $2 too where there is one.
watch() {
    { cat /job/config.toml; echo "encoding = \"$1\""; echo "${2:-}"; } >/tmp/config.toml
    /tmp/candor watch --config /tmp/config.toml >"$here/events" 2>"$here/stderr" &
    watcher=$!
    seen=0
}
watch_ends() {
    kill -TERM "$watcher" 2>/dev/null
    wait "$watcher"
    echo "$?" >"$here/exit"
}
