# shellcheck shell=bash
# The lab: real QEMU guests, a real vmlan, and an outside world, in namespaces that vanish with the script.
#
# A script sources this file, calls enter_lab with the Debian packages it needs beyond the usual ones, and from
# there on runs as process 1 of its own network, mount and process namespaces: nothing it does to interfaces or
# addresses can be seen outside, and whatever it started dies with it.
#
# Everything waits for conditions. Time limits exist only so that a broken lab ends ($PATIENCE, in seconds).
#
#   VMLAN=PATH         use this binary instead of building one
#   VMLAN_ACCEL=tcg    do not try KVM (or `kvm`: insist on it)
#   KEEP=1             keep the directory with all logs, also when everything was true
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
script=$(realpath -- "$0")
script_arguments=("$@")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vmlan
PATIENCE=${PATIENCE:-180}

# ---------------------------------------------------------------------------------------------------------
# Saying what happens
# ---------------------------------------------------------------------------------------------------------

steps=0

# step SENTENCE: a numbered headline.
step() {
    steps=$((steps + 1))
    printf '\n%d. %s\n' "$steps" "$*"
}

note() {
    printf '     %s\n' "$*"
}

fail() {
    printf '\nNOT TRUE: %s\n' "$*" >&2
    exit 1
}

# true_that SENTENCE COMMAND…: the sentence is true if the command succeeds; else the script ends here.
true_that() {
    local sentence=$1
    shift
    if "$@" >"$work/evidence" 2>&1; then
        printf '  ok %s\n' "$sentence"
    else
        sed 's/^/     | /' "$work/evidence" >&2
        fail "$sentence"
    fi
}

# comes_true SENTENCE COMMAND…: the sentence becomes true: the command is tried until it succeeds.
comes_true() {
    wait_for "$@"
    printf '  ok %s\n' "$1"
}

not() {
    ! "$@"
}

# wait_for SENTENCE COMMAND…: tries until the command succeeds.
wait_for() {
    local sentence=$1 deadline=$((SECONDS + PATIENCE))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$sentence (waited $PATIENCE s)"
        sleep 0.1
    done
}

# ---------------------------------------------------------------------------------------------------------
# What must be there
# ---------------------------------------------------------------------------------------------------------

as_root() {
    if [ "$EUID" = 0 ]; then "$@"; else sudo "$@"; fi
}

has_package() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# need_packages NAME…: installs what is missing, and says so before.
need_packages() {
    local package missing=()
    for package in "$@"; do
        has_package "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    echo "Installing Debian packages: ${missing[*]}"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}")
    local log
    log=$(mktemp)
    # Without lists, or with lists so old that the files are gone, the first attempt fails.
    as_root "${install[@]}" >"$log" 2>&1 ||
        { as_root apt-get update && as_root "${install[@]}"; } >"$log" 2>&1 ||
        { cat "$log" >&2; fail "apt-get installs ${missing[*]}"; }
    rm -f "$log"
}

# build_vmlan: sets VMLAN to the binary, built by the user who owns the sources where sudo tells who that is.
build_vmlan() {
    [ -z "${VMLAN:-}" ] || return 0
    local root=${here%/*} cargo owner=()
    VMLAN=${CARGO_TARGET_DIR:-$root/target}/release/vmlan
    export VMLAN
    if cargo=$(command -v cargo); then
        :
    elif [ -x "$HOME/.cargo/bin/cargo" ]; then
        cargo=$HOME/.cargo/bin/cargo
    elif [ -n "${SUDO_USER:-}" ] && cargo=$(getent passwd "$SUDO_USER" | cut -d: -f6)/.cargo/bin/cargo && [ -x "$cargo" ]; then
        owner=(sudo -u "$SUDO_USER" -H)
    elif [ -x "$VMLAN" ]; then
        return 0
    else
        fail "cargo is there to build vmlan (see https://rustup.rs), or VMLAN names a binary"
    fi
    command -v cc >/dev/null || need_packages gcc libc6-dev
    echo "Building vmlan (cargo build --release)"
    "${owner[@]}" "$cargo" build --release --locked --quiet --manifest-path "$root/Cargo.toml"
}

# guest_image: sets `image` to a directory with `vmlinuz` and `initrd.cpio`, made once from Debian packages.
#
# The kernel is unpacked, not installed. The archive is not compressed: unpacking is what takes longest under TCG.
guest_image() {
    local meta=linux-image-cloud-amd64 package version
    package=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    if [ -z "$package" ]; then
        as_root apt-get update >/dev/null
        package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    fi
    version=${package#linux-image-}

    local key
    key=$({
        echo "$package" "$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')"
        dpkg-query -W busybox-static dash iperf3 ethtool libc6
        declare -f guest_image
        cat "$here"/guest/*
    } | sha256sum | cut -c1-16)
    image=$cache/guest-$key
    export image
    if [ -e "$image/initrd.cpio" ]; then
        touch "$image"
        return 0
    fi

    echo "Making the guest image from Debian's $package (in $cache)"
    mkdir -p "$cache"
    find "$cache" -maxdepth 1 -name 'guest-*' -mtime +30 -exec rm -rf {} +
    local make root tool module file
    make=$(mktemp -d "$cache/making.XXXXXX")
    root=$make/root
    mkdir -p "$root"/{bin,dev,etc,lib,proc,sbin,sys,tmp,www}
    (
        cd "$make"
        apt-get download -q "$package" >log 2>&1 ||
            { as_root apt-get update && apt-get download -q "$package"; } >log 2>&1 ||
            { cat log >&2; fail "apt-get downloads $package"; }
        dpkg-deb -x linux-image-*.deb kernel
    )
    cp "$make/kernel/boot/vmlinuz-$version" "$make/vmlinuz"

    local modules=$make/kernel/lib/modules/$version
    [ -d "$modules" ] || modules=$make/kernel/usr/lib/modules/$version
    mkdir -p "$make/lib/modules"
    mv "$modules" "$make/lib/modules/"
    depmod -b "$make" "$version"
    for module in virtio_pci virtio_net qemu_fw_cfg af_packet 8021q; do
        modprobe -d "$make" -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | sort -u | while read -r file; do
        mkdir -p "$root/lib/modules/$version"
        cp "$file" "$root/lib/modules/$version/"
    done
    # Later Debian releases compress modules, which busybox need not understand.
    find "$root/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    cp "$make/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$version/"
    depmod -b "$root" "$version"

    cp "$(command -v busybox)" "$root/bin/busybox"
    # busybox's own shell would prefer its applets to the real tools.
    for tool in $("$root/bin/busybox" --list); do
        case $tool in busybox | sh | ash) ;; *) ln -s busybox "$root/bin/$tool" ;; esac
    done
    for tool in dash iperf3 ethtool; do
        tool=$(command -v "$tool")
        cp "$tool" "$root/sbin/"
        { ldd "$tool" || true; } | grep -o '/[^ ]*' | while read -r file; do
            mkdir -p "$root/${file%/*}"
            cp -L "$file" "$root/$file"
        done
    done
    ln -s /sbin/dash "$root/bin/dash"
    ln -s /sbin/dash "$root/bin/sh"
    cp "$here/guest/init" "$root/init"
    cp "$here/guest/guest.sh" "$here/guest/udhcpc.script" "$root/lib/"
    chmod +x "$root/init" "$root/lib/udhcpc.script"
    mknod "$root/dev/console" c 5 1
    (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$make/initrd.cpio"

    mkdir -p "$image"
    mv "$make/vmlinuz" "$image/vmlinuz"
    mv "$make/initrd.cpio" "$image/initrd.cpio"
    rm -rf "$make"
}

# choose_accelerator: sets `accelerator` to kvm where a guest really runs to its end under it, else to tcg.
#
# /dev/kvm may be there and yet hang (nested, on some clouds), so that the only proof is a guest. It is asked
# once per boot of the machine.
choose_accelerator() {
    local verdict
    verdict=$cache/accelerator-$(cat /proc/sys/kernel/random/boot_id)
    if [ -n "${VMLAN_ACCEL:-}" ]; then
        accelerator=$VMLAN_ACCEL
    elif [ ! -w /dev/kvm ]; then
        accelerator=tcg
    else
        if [ ! -s "$verdict" ]; then
            rm -f "$cache"/accelerator-*
            echo "Trying KVM with a guest (20 s at most, once per boot of this machine)"
            local job
            job=$(mktemp)
            echo 'say KVM WORKS' >"$job"
            if timeout -s KILL 20 qemu-system-x86_64 "${machine[@]}" -accel kvm -cpu host -m 256 \
                -machine q35 -append "${kernel_arguments[*]}" -kernel "$image/vmlinuz" -initrd "$image/initrd.cpio" \
                -serial null -serial stdio -fw_cfg name=opt/job,file="$job" </dev/null 2>/dev/null |
                grep -q 'KVM WORKS'; then
                echo kvm >"$verdict"
            else
                echo tcg >"$verdict"
            fi
            rm -f "$job"
        fi
        accelerator=$(cat "$verdict")
    fi
    export accelerator
}

# enter_lab [PACKAGE…]: see the head of this file.
enter_lab() {
    if [ -z "${VMLAN_LAB:-}" ]; then
        need_packages busybox-static cpio dash ethtool iperf3 iproute2 jq kmod procps qemu-system-x86 xz-utils "$@"
        build_vmlan
        if [ "$EUID" != 0 ]; then
            exec sudo env VMLAN="$VMLAN" VMLAN_ACCEL="${VMLAN_ACCEL:-}" KEEP="${KEEP:-}" PATIENCE="$PATIENCE" \
                "$script" "${script_arguments[@]}"
        fi
        guest_image
        choose_accelerator
        VMLAN_LAB=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc "$script" "${script_arguments[@]}"
    fi
    unset VMLAN_LAB

    mount -t sysfs sysfs /sys
    mkdir -p /run/netns
    mount -t tmpfs tmpfs /run/netns
    ip link set lo up
    work=$(mktemp -d "${TMPDIR:-/tmp}/vmlan-${script##*/}.XXXXXX")
    run=$work/run
    trap leave_lab EXIT
    trap 'failed_at=$LINENO' ERR
    trap 'exit 130' INT TERM HUP
}

leave_lab() {
    local status=$?
    # Only now may a command fail without ending the script.
    set +e
    if [ "$status" = 0 ]; then
        [ -n "${KEEP:-}" ] || rm -rf "$work"
    else
        printf '%s%s ended with status %d. Logs: %s\n' "${script##*/}" "${failed_at:+, line $failed_at,}" "$status" "$work" >&2
    fi
    # The namespaces go, and with them every process, interface and mount.
    exit "$status"
}

# ---------------------------------------------------------------------------------------------------------
# Guests
# ---------------------------------------------------------------------------------------------------------

machine=(-nodefaults -no-user-config -display none -no-reboot)
kernel_arguments=(console=ttyS0 quiet panic=-1 reboot=t mitigations=off net.ifnames=0 random.trust_cpu=on)
declare -A guest_pid

# mac_of NAME: the hardware address that the lab gives to a virtual machine.
mac_of() {
    md5sum <<<"$1" | sed 's/^\(..\)\(..\)\(..\).*/52:54:00:\1:\2:\3/'
}

qemu_at_least() {
    local version
    version=$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
    [ "$(printf '%s\n' "$1" "$version" | sort -V | head -n 1)" = "$1" ]
}

# start_guest NAME [--job FILE] [--mem MIB] NIC…: boots a guest and returns at once.
#
# A NIC is VM[,mac=MAC][,role=client][,queues=N][,PROPERTY=VALUE…]: the port of vmlan it plugs into (or the path
# of a vhost-user socket), vmlan's role at that socket, and properties of the virtio-net device. Without a job the
# guest does what in_guest asks of it.
start_guest() {
    local name=$1 job='' memory=256 nics=() qemu=() nic field number=0
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --job) job=$2; shift 2 ;;
            --mem) memory=$2; shift 2 ;;
            *) nics+=("$1"); shift ;;
        esac
    done

    local processors=1
    for nic in "${nics[@]}"; do
        local fields socket mac role=server queues=1 device=''
        IFS=, read -r -a fields <<<"$nic"
        mac=$(mac_of "${fields[0]}")
        socket=${fields[0]}
        [[ $socket == */* ]] || socket=$run/$socket.sock
        for field in "${fields[@]:1}"; do
            case $field in
                mac=*) mac=${field#*=} ;;
                role=*) role=${field#*=} ;;
                queues=*) queues=${field#*=} ;;
                *) device+=,$field ;;
            esac
        done
        if [ "$queues" -gt 1 ]; then
            device+=,mq=on,vectors=$((2 * queues + 2))
            processors=$queues
        elif [ "$accelerator" = tcg ] && ! qemu_at_least 10; then
            # QEMU 7.2 crashes under TCG when a vhost-user device starts with MSI-X.
            device+=,vectors=0
        fi
        local character=socket,id=c$number,path=$socket
        if [ "$role" = client ]; then
            character+=,server=on,wait=off
        elif qemu_at_least 10; then
            character+=,reconnect-ms=1000
        else
            character+=,reconnect=1
        fi
        qemu+=(
            -chardev "$character"
            -netdev "vhost-user,id=n$number,chardev=c$number,queues=$queues"
            -device "virtio-net-pci,netdev=n$number,mac=$mac,romfile=$device"
        )
        number=$((number + 1))
    done

    if [ "$accelerator" = kvm ]; then
        qemu+=(-accel kvm -cpu host)
    else
        # TCG's TSC is the host's. A guest on a busy machine would calibrate it wrongly: name its rate.
        local khz
        khz=$(awk '/^bogomips/ { printf "%d", $3 / 2 * 1000; exit }' /proc/cpuinfo)
        qemu+=(-accel "tcg,thread=multi" -cpu max)
        local tsc="tsc=reliable tsc_early_khz=$khz"
    fi
    [ -z "$job" ] || qemu+=(-fw_cfg "name=opt/job,file=$job")

    : >"$work/$name.out"
    [ -p "$work/$name.in" ] || mkfifo "$work/$name.in"
    qemu-system-x86_64 "${machine[@]}" -name "$name" -smp "$processors" -m "$memory" \
        -machine q35,memory-backend=m0 -object "memory-backend-memfd,id=m0,size=${memory}M,share=on" \
        -kernel "$image/vmlinuz" -initrd "$image/initrd.cpio" \
        -append "${kernel_arguments[*]} ${tsc:-} guest=$name" \
        -serial "file:$work/$name.console" -chardev stdio,id=talk,signal=off -serial chardev:talk \
        "${qemu[@]}" <>"$work/$name.in" >>"$work/$name.out" 2>"$work/$name.qemu" &
    guest_pid[$name]=$!
}

guest_runs() {
    kill -0 "${guest_pid[$1]}" 2>/dev/null
}

# wait_for_line NAME PATTERN: until the guest has said a line that matches.
wait_for_line() {
    wait_for "guest $1 says '$2'" said_or_gone "$1" "$2"
    grep -q -- "$2" "$work/$1.out" || fail "guest $1 says '$2' (QEMU is gone: $(tail -n 1 "$work/$1.qemu"))"
}

said_or_gone() {
    grep -q -- "$2" "$work/$1.out" || ! guest_runs "$1"
}

# guests_ready NAME…: until they have booted and listen to in_guest.
guests_ready() {
    local name
    for name in "$@"; do
        wait_for_line "$name" '^READY$'
    done
}

# tell NAME LINE: to a job that does `hear`.
tell() {
    echo "$2" >"$work/$1.in"
}

# in_guest NAME COMMAND…: runs a command line in a guest; its output and its exit status come back.
in_guest() {
    local name=$1 mark=$BASHPID.$RANDOM$RANDOM
    shift
    tell "$name" "$mark ${*//$'\n'/ }"
    # The full stop tells a whole line from one that is still being written.
    wait_for_line "$name" "^>>$mark [0-9]*\.$"
    sed -n "/^<<$mark\$/,/^>>$mark /{//!p}" "$work/$name.out" | sed '$d'
    return "$(sed -n "s/^>>$mark \([0-9]*\)\.$/\1/p" "$work/$name.out")"
}

# wait_guest NAME: until the guest has ended; returns the exit status of its job.
wait_guest() {
    local status
    wait_for "guest $1 ends" not guest_runs "$1"
    status=$(sed -n 's/^exit \([0-9]*\)$/\1/p' "$work/$1.out" | tail -n 1)
    [ -n "$status" ] || fail "guest $1 ends by itself (see $work/$1.console)"
    return "$status"
}

# stop_guest NAME: lets it end in good order.
stop_guest() {
    tell "$1" BYE
    wait_guest "$1"
}

# kill_guest NAME: as the kernel's OOM killer would.
kill_guest() {
    kill -9 "${guest_pid[$1]}"
    wait "${guest_pid[$1]}" 2>/dev/null || true
}

# reaches NAME ADDRESS: three answers to three echo requests.
reaches() {
    in_guest "$1" ping -c 3 -W 5 -q "$2"
}

# hears_nothing NAME ADDRESS: no answer to three echo requests.
hears_nothing() {
    local answers
    answers=$(in_guest "$1" ping -c 3 -W 1 -q "$2") || true
    grep ' 0 packets received' <<<"$answers"
}

# ---------------------------------------------------------------------------------------------------------
# vmlan
# ---------------------------------------------------------------------------------------------------------

config() {
    echo "$work/vmlan.toml"
}

# configure <<TOML: the networks and virtual machines of the daemon that start_vmlan starts.
configure() {
    {
        printf '[daemon]\nruntime_dir = "%s"\nstate_dir = "%s"\n\n' "$run" "$work/state"
        cat
    } >"$work/vmlan.toml"
}

# start_vmlan: starts the daemon and waits until it is ready.
start_vmlan() {
    # What a former one said must not be taken for this one's.
    : >"$work/vmlan.out"
    "$VMLAN" run --config "$work/vmlan.toml" >"$work/vmlan.out" 2>>"$work/vmlan.log" &
    vmlan_pid=$!
    wait_for "vmlan says ready" vmlan_ready_or_gone
    kill -0 "$vmlan_pid" 2>/dev/null || { tail -n 20 "$work/vmlan.log" >&2; fail "vmlan starts"; }
}

vmlan_ready_or_gone() {
    grep -qx ready "$work/vmlan.out" || ! kill -0 "$vmlan_pid" 2>/dev/null
}

# stop_vmlan [SIGNAL]
stop_vmlan() {
    kill "-${1:-TERM}" "$vmlan_pid"
    wait "$vmlan_pid" 2>/dev/null || [ "${1:-TERM}" != TERM ] || fail "vmlan ends with status 0 when asked to"
}

# vmlan COMMAND…: the command line, talking to the lab's daemon.
vmlan() {
    "$VMLAN" "$@" --config "$work/vmlan.toml"
}

# status FILTER [jq options]: a question to `vmlan status --json`.
status() {
    vmlan status --json | jq -r "${@:2}" "$1"
}

# ---------------------------------------------------------------------------------------------------------
# The outside world
# ---------------------------------------------------------------------------------------------------------

# make_outside UPLINK ADDRESS/PREFIX: UPLINK becomes a physical adapter without an address; its cable ends in a
# machine of its own (the namespace `outside`), which has the address on its adapter `cable` and serves the
# directory $work/outside over HTTP.
make_outside() {
    ip netns add outside
    ip link add "$1" type veth peer name cable netns outside
    ip link set "$1" up
    outside ip link set lo up
    outside ip link set cable up
    outside ip address add "$2" dev cable
    mkdir -p "$work/outside"
    outside busybox httpd -f -p 80 -h "$work/outside" &
}

# outside COMMAND…: runs a command on that machine.
outside() {
    ip netns exec outside "$@"
}

# ---------------------------------------------------------------------------------------------------------
# Raw frames
# ---------------------------------------------------------------------------------------------------------

declare -A begun

# begin NAME COMMAND…: starts a command that says `ready` on standard error, and waits until it does. Its output goes
# to $work/NAME.
begin() {
    local name=$1
    shift
    "$@" >"$work/$name" 2>"$work/$name.log" &
    begun[$name]=$!
    wait_for "$name begins" grep -qx ready "$work/$name.log"
}

# end NAME [SIGNAL]: ends what was begun under that name.
end() {
    kill "-${2:-TERM}" "${begun[$1]}"
    wait "${begun[$1]}" 2>/dev/null || true
}
