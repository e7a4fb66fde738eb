#!/usr/bin/env bash
# Installs what the tests need beyond the build: ZooKeeper, etcd, Java, Maven and Node.js from Debian, and
# the third-party frameworks from npm and Maven Central, the latter into target/peers. Looks
# first, so that a second run takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

missing=()
need() { # COMMAND-OR-FILE PACKAGE...
    local what=$1
    shift
    command -v "$what" >/dev/null 2>&1 || [ -e "$what" ] || missing+=("$@")
}
need /usr/share/java/zookeeper.jar libzookeeper-java
need javac default-jdk-headless
need mvn maven
need node nodejs
need npm npm
need ip iproute2
need etcd etcd-server
need etcdctl etcd-client
need openssl openssl
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing ${missing[*]}"
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# Dubbo's Java consumer never connects to a loopback address: a machine that has no other gets one.
if ! ip -4 -o address show scope global | grep -q inet; then
    $sudo ip link add finback0 type veth peer name finback1
    $sudo ip address add 198.18.0.1/24 dev finback0
    $sudo ip link set finback0 up
    $sudo ip link set finback1 up
fi

out=$PWD/target/peers
mkdir -p "$out"

fresh() { # STAMP FOLDER: whether what was built from FOLDER is still good
    find "tests/peers/$2" -type f | LC_ALL=C sort | xargs sha256sum >"$out/$1.now"
    cmp -s "$out/$1.now" "$out/$1.stamp"
}
if ! fresh node node; then
    echo "installing npm peers"
    mkdir -p "$out/node"
    cp tests/peers/node/* "$out/node/"
    (cd "$out/node" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error)
    mv "$out/node.now" "$out/node.stamp"
fi
if ! fresh java java; then
    echo "building Java peers"
    mvn -q -B -ntp -Dstyle.color=never -f tests/peers/java/pom.xml package "-Dout=$out/java"
    mv "$out/java.now" "$out/java.stamp"
fi
rm -f "$out"/*.now
