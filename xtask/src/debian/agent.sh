#!/bin/sh
# Root's hands in a virtual machine under test: reads lines "NUMBER SCRIPT" on a virtio
# port, runs the script, which is in base64, and writes "NUMBER CODE -OUT -ERR": what it
# printed, in base64, too. One after the other; who asks sets the limit of time.
exec 3<>/dev/virtio-ports/moderation
folder=$(mktemp -d)
while read -r number script <&3; do
	printf %s "$script" | base64 -d >"$folder/script"
	sh "$folder/script" </dev/null >"$folder/out" 2>"$folder/err"
	code=$?
	echo "$number $code -$(base64 -w0 "$folder/out") -$(base64 -w0 "$folder/err")" >&3
done
