#!/bin/busybox sh
# Process 1 of the guest, from the ram disk: the host's root below a writable layer in memory, then systemd from there.
bb=/bin/busybox
fail() { echo "guest: $1"; $bb poweroff -f; }
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in $($bb cat /modules/order); do $bb insmod /modules/$module || fail "module $module does not load"; done
options=trans=virtio,version=9p2000.L,msize=1048576,cache=loose
$bb mount -t 9p -o ro,$options root /host || fail "the host's root cannot be mounted"
$bb mount -t tmpfs -o size=70% tmpfs /layer
$bb mkdir -p /layer/upper /layer/work
$bb mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new || fail "no overlay"
$bb mount -t tmpfs -o mode=755 tmpfs /new/run
$bb mkdir -p /new/run/guest /new/run/systemd/system
$bb mount -t 9p -o $options guest /new/run/guest || fail "the directory of results cannot be mounted"
$bb cp /new/run/guest/*.service /new/run/guest/*.target /new/run/systemd/system/
modules=$($bb cat /modules/path)
$bb mkdir -p /new/lib/modules/${modules##*/}
$bb mount --bind /host$modules /new/lib/modules/${modules##*/}
$bb rm -f /new/.dockerenv # systemd believes in a container where it sees this, and then reads no kernel command line
$bb umount /proc
$bb mount --move /dev /new/dev
exec $bb switch_root /new /lib/systemd/systemd
