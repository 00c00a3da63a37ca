#!/bin/sh
# For a container of nginx's official image: put it into /docker-entrypoint.d/. The image
# starts nginx as root, whose workers then take the groups that their user has in the
# container's own /etc/group; so `group_add` does not reach them, and this does.
set -eu

: "${MODERATION_NGINX_GID:?the number of the group moderation-nginx on the host}"
user=${MODERATION_NGINX_USER:-nginx}

case $MODERATION_NGINX_GID in
    *[!0-9]*)
        echo "nginx-group.sh: MODERATION_NGINX_GID is no number: $MODERATION_NGINX_GID" >&2
        exit 1
        ;;
esac

# A container that is started again has it already.
line="moderation-nginx:x:$MODERATION_NGINX_GID:$user"
grep -qx "$line" /etc/group || echo "$line" >>/etc/group
