# shellcheck shell=dash
# What a job in a guest can call.

# say WORDS: a milestone, which the host waits for with wait_for_line.
say() {
    echo "$*"
}

# hear WORD: waits until the host has said the word (with `tell`).
hear() {
    while read -r heard; do
        [ "$heard" != "$1" ] || return 0
    done
    return 1
}

# wait_for COMMAND…: tries until the command succeeds; gives up after a time that only a broken lab needs.
wait_for() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || return 1
        sleep 0.2
    done
}

# net_up_dhcp DEVICE: an address from whatever DHCP server answers.
net_up_dhcp() {
    ip link set "$1" up
    udhcpc -i "$1" -n -q -t 20 -T 2 -x "hostname:$(hostname)" -s /lib/udhcpc.script
}

# net_up DEVICE ADDRESS/PREFIX…: addresses given by hand.
net_up() {
    device=$1
    shift
    for address in "$@"; do
        ip address add "$address" dev "$device"
    done
    ip link set "$device" up
}

# address_of DEVICE: its first IPv4 address, without the prefix.
address_of() {
    ip -4 -o address show dev "$1" | sed -n '1s|.* inet \([0-9.]*\)/.*|\1|p'
}

# serve: carries out the host's commands, one a line, each after a word that marks where its output begins and ends.
serve() {
    say READY
    while read -r mark command; do
        [ "$mark" != BYE ] || return 0
        echo "<<$mark"
        (eval "$command") </dev/null 2>&1
        printf '\n>>%s %s.\n' "$mark" "$?"
    done
}

# netstat_errors: how many packets with a bad checksum this guest has received, by protocol.
netstat_errors() {
    awk '{ protocol = $1 }
         !(protocol in column) { for (i = 2; i <= NF; i++) if ($i ~ /^(InCsumErrors|InHdrErrors)$/) column[protocol] = i; next }
         { print protocol, $column[protocol] }' /proc/net/snmp | grep -E '^(Ip|Tcp|Udp): '
}
