#!/bin/sh
# Makes a root file system of Debian by debootstrap, from the mirror that this machine's
# apt uses, if it has one of Debian. Run in a mount namespace of its own, so that
# nothing stays mounted.
set -eu
root=$1 release=$2 packages=$3

mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Identifier: Packages' |
	sed -n "s/^$release //p" | grep '/debian/$' | head -n 1 || true)
# debootstrap has a mirror of its own for who knows none.
# shellcheck disable=SC2086
debootstrap --variant=minbase --include="$packages" "$release" "$root" $mirror

echo machine >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 machine\n' >"$root/etc/hosts"
# A journal that outlives a reboot, and nothing that starts by itself to fetch things.
mkdir -p "$root/var/log/journal"
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
rm -f "$root"/var/cache/apt/archives/*.deb "$root/etc/resolv.conf.bak"
