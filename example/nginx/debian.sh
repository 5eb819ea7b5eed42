#!/bin/sh
# Makes the files of a Linux image of nginx from Debian's packages, for Jailfile.debian: on Debian or Ubuntu, with
# mmdebstrap, which verifies Debian's signatures. Nothing of a package is executed: no user, key or service is made.
#
#   debian.sh FILE.tar [SUITE [MIRROR...]]
#
# With SOURCE_DATE_EPOCH and a mirror that is a snapshot the same files come each time.
set -eu
out=${1:?usage: debian.sh FILE.tar [SUITE [MIRROR...]]}
suite=${2:-bookworm}
shift $(($# > 1 ? 2 : 1))

mmdebstrap --quiet --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --include=nginx-light,dash,coreutils,gzip,libc-bin,tar \
    --extract-hook='cd "$1" && rm -rf usr/bin/*perl* usr/share/doc usr/share/info usr/share/locale usr/share/man \
        usr/share/perl* var/cache/apt var/lib/apt &&
        find . -perm /6000 -type f -exec chmod ug-s {} +' \
    "$suite" "$out" "$@"
