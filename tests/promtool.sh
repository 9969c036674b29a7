#!/bin/sh
# Prints where promtool is, Prometheus' own checker. Where this machine has none, it is taken out of the distribution's
# package into .promtool: nothing of the system is touched, and no rights are needed.
set -eu
cd "$(dirname "$0")/.."
command -v promtool && exit
[ ! -x .promtool/promtool ] || { echo "$PWD/.promtool/promtool"; exit; }
fail() { echo "promtool, which checks the alert rules, $1: install Prometheus yourself, whose package has it." >&2; exit 1; }
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "is fetched on Debian and Ubuntu alone"
rm -rf .promtool
mkdir -p .promtool/lists/partial .promtool/archives/partial
cd .promtool
apt() {
  apt-get -qq -o APT::Sandbox::User=root -o Dir::State="$PWD" -o Dir::State::Lists="$PWD/lists" \
    -o Dir::State::Status=/var/lib/dpkg/status -o Dir::Cache="$PWD" "$@" >&2
}
apt update || fail "cannot be fetched, as the package lists cannot"
apt download prometheus || fail "cannot be fetched"
dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract --to-stdout ./usr/bin/promtool > unpacked
chmod 755 unpacked
mv unpacked promtool
rm -rf lists archives ./*.deb ./*.bin
echo "$PWD/promtool"
