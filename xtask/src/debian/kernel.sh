#!/bin/sh
# Makes what a virtual machine boots of a copy of the root file system: installs a
# kernel in it and takes that, its initramfs and a disk out. Run in a mount namespace of
# its own, so that nothing stays mounted.
set -eu
root=$1 tree=$2 output=$3 suite=$4

cp -a --reflink=auto "$root" "$tree"
mount -t proc proc "$tree/proc"
export DEBIAN_FRONTEND=noninteractive

options="--yes --no-install-recommends"
if [ "$suite" != bookworm ]; then
	sed "s/ bookworm / $suite /" "$tree/etc/apt/sources.list" >"$tree/etc/apt/sources.list.d/$suite.list"
	options="$options --target-release $suite"
fi
chroot "$tree" apt-get update --quiet
# shellcheck disable=SC2086
chroot "$tree" apt-get install --quiet $options linux-image-cloud-amd64
# Without this it holds drivers for every machine there is, which take seconds to unpack.
echo MODULES=list >"$tree/etc/initramfs-tools/conf.d/machine"
printf '%s\n' virtio_pci virtio_blk ext4 crc32c_generic >>"$tree/etc/initramfs-tools/modules"
chroot "$tree" update-initramfs -u
cp "$tree"/boot/vmlinuz-* "$output/vmlinuz"
cp "$tree"/boot/initrd.img-* "$output/initrd"
rm "$tree"/boot/vmlinuz-* "$tree"/boot/initrd.img-*
chroot "$tree" apt-get clean

install -m 755 "$output/agent.sh" "$tree/usr/local/sbin/machine-agent"
install -m 644 "$output/agent.service" "$tree/etc/systemd/system/machine-agent.service"
chroot "$tree" systemctl --quiet enable machine-agent.service
cat >"$tree/etc/fstab" <<END
/dev/vda / ext4 defaults 0 0
LABEL=luggage /mnt ext4 ro 0 0
END
umount "$tree/proc"
mke2fs -q -t ext4 -d "$tree" -E lazy_itable_init=1 "$output/disk" 2G
rm -rf "$tree"
