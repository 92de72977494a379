#!/bin/sh
# Lays out the files of the image: the executable, the libraries that it is linked with,
# certificates, notices, and the folders and the user that it needs.
#
#   docker/rootfs.sh EXECUTABLE NOTICES ROOT
set -eu
executable=$1 notices=$2 root=$3

install -D -m 0755 "$executable" "$root/usr/local/bin/somaagent"
# Each library under the name that the executable asks for, with the loader itself.
ldd "$executable" | awk '/=> \//{print $3} $1 ~ /^\//{print $1}' | while read -r library; do
  install -D -m 0755 "$library" "$root$library"
done
install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
install -D -m 0644 "$notices" "$root/usr/share/doc/somaagent/NOTICES.txt"
install -m 0644 LICENSE-MIT LICENSE-APACHE "$root/usr/share/doc/somaagent/"

echo 'somaagent:x:65532:65532::/var/lib/somaagent:/sbin/nologin' > "$root/etc/passwd"
echo 'somaagent:x:65532:' > "$root/etc/group"
# `localhost`, and names by DNS.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
install -d -m 1777 "$root/tmp"
install -d -m 0750 "$root/var/lib/somaagent" "$root/var/lib/somaagent-files"
# Whoever only looks at the files may not give them away.
[ "$(id -u)" != 0 ] || chown 65532:65532 "$root/var/lib/somaagent" "$root/var/lib/somaagent-files"

find "$root" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
