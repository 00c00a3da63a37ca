#!/bin/sh
# Makes a chat host of a machine: an interface to a small network with visitors, and a
# service that they visit. Comes with the files beside it.
set -eu
cp /mnt/lab-*.service /mnt/nginx.service /etc/systemd/system/
install -m 755 /mnt/lab-visit /mnt/lab-serve /usr/local/sbin/
systemctl daemon-reload
systemctl --quiet enable --now lab-interface lab-address nginx
for visitor in 66 77; do
	systemctl --quiet enable --now "lab-visitor@$visitor" "lab-pinger@$visitor"
done
