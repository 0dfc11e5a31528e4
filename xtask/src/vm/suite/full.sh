# A full host, whichever way a disk is attached.

# T17: requests are held on a full host, of a process that was killed; however the device ends, it
# ends within ten seconds, and the disk opens again. `detach` and `--force` end with 7.
# The process is killed when it has handed all its requests over. On Linux 6.12, when it was killed
# in the middle of a send, the kernel's NBD client had lost a request behind new sockets in about
# half of the runs: it was neither sent again nor did it time out again.
full_host() {
    mkdir -p /host
    for way in detach force TERM KILL; do
        mount -t tmpfs -o size=24m host /host
        mkdir /host/d
        ploop init -s 96M -t none /host/d/root.hds
        dev=$(ploop attach --via $1 /host/d)
        server=$(server_of)
        dd if=/dev/urandom of=$dev bs=1M count=40 conv=fsync 2>/dev/null &
        writer=$!
        for n in $(seq 150); do
            ploop stat --prometheus /host/d | grep -q '^ploop_requests_held_total.* [1-9]' && break
            sleep 0.2
        done
        [ $n -lt 150 ] || { echo "$1, $way: nothing is held"; return 1; }
        before=
        while now=$(handed_over); [ "$now" != "$before" ]; do before=$now; sleep 1; done
        kill -KILL $writer
        begin=$(uptime_now)
        code=0
        case $way in
            detach) timeout 30 ploop detach $dev || code=$? ;;
            force) timeout 30 ploop detach --force $dev || code=$? ;;
            *) kill -$way $server; code=7 ;;
        esac
        [ $code -eq 7 ] || { echo "$1, $way: exit code $code"; return 1; }
        for n in $(seq 100); do kill -0 $server 2>/dev/null || break; sleep 0.1; done
        if kill -0 $server 2>/dev/null; then echo "$1, $way: the server does not end"; return 1; fi
        echo "note: $1 $way $(echo "$begin $(uptime_now)" | awk '{printf "%.1f s", $2 - $1}')"
        mount -o remount,size=200m /host
        # A device that outlives its server is taken over, and its requests go on.
        dev=$(ploop attach --via $1 /host/d)
        wait $writer 2>/dev/null || true
        dd if=/dev/zero of=$dev bs=1M count=9 conv=fsync 2>/dev/null
        ploop detach /host/d
        ploop check -f /host/d
        umount /host
    done
}

# Requests that the server has taken in, and those it holds for space.
handed_over() { ploop stat --prometheus /host/d | grep -E '^ploop_requests_(held_total|in_flight)'; }

t_full_loop() { full_host loop; }

t_full_nbd() { full_host nbd; }

t_full_ublk() { full_host ublk; }
