#!/bin/sh
# Becomes the init of a Debian system: started in namespaces of its own (mount, pid,
# network, uts, ipc, cgroup), with the folder of the system to lie upon, a folder for
# what it writes, and one that it may read at /mnt.
set -eu
lower=$1 state=$2 luggage=$3
root=$state/root

mount --make-rprivate /
mkdir -p "$state/upper" "$state/work" "$root"
mount -t overlay -o "lowerdir=$lower,upperdir=$state/upper,workdir=$state/work" overlay "$root"
mount --bind "$luggage" "$root/mnt"
mount -o remount,bind,ro "$root/mnt"

# What belongs to the machine around it cannot be written: its parameters but those of
# the network, which are the namespace's own, its devices, its modules.
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
if [ -e "$root/proc/sysrq-trigger" ]; then
	mount --bind "$root/proc/sysrq-trigger" "$root/proc/sysrq-trigger"
	mount -o remount,bind,ro "$root/proc/sysrq-trigger"
fi
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"

mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
	cp -a "/dev/$device" "$root/dev/"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"

cd "$root"
hostname machine
mkdir -p run/around
pivot_root . run/around
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog -- \
	env -i container=moderation PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	sh -c 'umount -l /run/around; rmdir /run/around; exec /lib/systemd/systemd' 2>&1
