#!/usr/bin/env bash
# The servers that `prod` needs, for tests and for trying: PostgreSQL, Kafka, Redis and OPA, each a
# real one, on loopback, with its data in a temporary folder. What is missing is installed: by apt
# (as root, or by sudo without a password), the broker's jars by Maven, OPA by Go.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: scripts/servers.sh VERB [ARGUMENT...]
  up [SERVER...]         installs what is missing, starts, waits until each is ready
  down                   stops all of them and removes their data; logs stay
  status                 says what runs where; fails unless all run
  start|stop|kill SERVER starts again on the old data | stops in order | SIGKILL
  wipe kafka             ends the broker, removes all its data, starts it as an empty one
  env                    prints the addresses as shell exports
  during COMMAND...      runs a command with the servers up; stops those that it had to start
A SERVER is postgres, kafka, redis or opa. Settings, from the environment:
  SOMA_SERVERS_DIR                                             data, logs and process ids
  SOMA_TEST_{DB,KAFKA,KAFKA_CONTROLLER,REDIS,OPA}_PORT         55432 59092 59093 56379 58181
  SOMA_SERVERS_READY                                           seconds to wait for each, 120
USAGE
}

readonly KAFKA_VERSION=4.3.1 OPA_VERSION=1.22.2
readonly GO_TOOLCHAIN=v0.0.1-go1.26.0.linux
readonly SERVERS=(postgres kafka redis opa)

here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$here")
state=${SOMA_SERVERS_DIR:-${TMPDIR:-/tmp}/somaagent-servers-$(id -u)}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/somaagent-servers
ready_within=${SOMA_SERVERS_READY:-120}
postgres_port=${SOMA_TEST_DB_PORT:-55432}
kafka_port=${SOMA_TEST_KAFKA_PORT:-59092}
kafka_controller_port=${SOMA_TEST_KAFKA_CONTROLLER_PORT:-59093}
redis_port=${SOMA_TEST_REDIS_PORT:-56379}
opa_port=${SOMA_TEST_OPA_PORT:-58181}

say() { printf 'servers: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# --- installing ------------------------------------------------------------------------------

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo "$@"
  else
    die "this needs root once: $*"
  fi
}

# Installs Debian packages without starting the services that come with them.
apt_install() {
  command -v apt-get >/dev/null || die "please install by hand: $*"
  say "installing $* (apt)"
  local guard=/usr/sbin/policy-rc.d guarded=no failed=no
  if [ ! -e "$guard" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
    as_root chmod +x "$guard"
    guarded=yes
  fi
  as_root apt-get update -q >>"$state/install.log" 2>&1 || true
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" \
    >>"$state/install.log" 2>&1 || failed=yes
  [ "$guarded" = no ] || as_root rm -f "$guard"
  [ "$failed" = no ] || die "apt could not install $*; see $state/install.log"
}

postgres_bin() {
  local newest
  newest=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
  if [ -n "$newest" ] && [ -x "$newest/postgres" ]; then
    echo "$newest"
  elif command -v postgres >/dev/null && command -v initdb >/dev/null; then
    dirname "$(command -v postgres)"
  fi
}

install_postgres() { [ -n "$(postgres_bin)" ] || apt_install postgresql; }

install_redis() { command -v redis-server >/dev/null || apt_install redis-server; }

java_is_new_enough() {
  local major
  major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
  [ "${major:-0}" -ge 17 ]
}

install_kafka() {
  local jars=$cache/kafka-$KAFKA_VERSION
  command -v java >/dev/null && java_is_new_enough || apt_install default-jre-headless
  [ -d "$jars" ] && return
  command -v mvn >/dev/null || apt_install maven
  say "fetching the Kafka $KAFKA_VERSION broker (Maven)"
  local fresh
  mkdir -p "$cache" && fresh=$(mktemp -d "$cache/fetch.XXXXXX")
  mvn -q -B -f "$here/servers/kafka-pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$fresh" >>"$state/install.log" 2>&1 \
    || die "Maven could not fetch the broker; see $state/install.log"
  mv -T "$fresh" "$jars" 2>/dev/null || rm -rf "$fresh"
}

# Prints a Go command that can fetch the toolchain that a module asks for: the one that is there,
# or, as Debian's may be too old for that, Go's own toolchain module from the module proxy.
go_command() {
  if command -v go >/dev/null && go version | grep -Eq 'go1\.(2[1-9]|[3-9][0-9])'; then
    command -v go
    return
  fi
  local arch name proxy fresh
  case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) die "please install Go" ;; esac
  name=golang.org/toolchain@$GO_TOOLCHAIN-$arch
  if [ ! -x "$cache/$name/bin/go" ]; then
    command -v curl >/dev/null && command -v unzip >/dev/null \
      || apt_install curl unzip ca-certificates
    say "fetching Go (module proxy)"
    proxy=${GOPROXY:-https://proxy.golang.org}
    fresh=$(mktemp -d "$cache/fetch.XXXXXX")
    curl -fsSL -o "$fresh/go.zip" \
      "${proxy%%[,|]*}/golang.org/toolchain/@v/$GO_TOOLCHAIN-$arch.zip" \
      || die "could not fetch Go; please install it"
    unzip -q "$fresh/go.zip" -d "$fresh"
    chmod -R +x "$fresh/$name/bin" "$fresh/$name/pkg/tool"
    mkdir -p "$cache/golang.org" && mv -T "$fresh/$name" "$cache/$name"
    rm -rf "$fresh"
  fi
  echo "$cache/$name/bin/go"
}

install_opa() {
  local opa=$cache/opa-$OPA_VERSION go fresh
  [ -x "$opa" ] && return
  mkdir -p "$cache"
  go=$(go_command)
  say "building OPA $OPA_VERSION (Go; some minutes, once)"
  fresh=$(mktemp -d "$cache/fetch.XXXXXX")
  GOBIN=$fresh GOFLAGS=-trimpath CGO_ENABLED=0 "$go" install -ldflags='-s -w' \
    "github.com/open-policy-agent/opa@v$OPA_VERSION" >>"$state/install.log" 2>&1 \
    || die "Go could not build OPA; see $state/install.log"
  mv "$fresh/opa" "$opa"
  rm -rf "$fresh"
}

# --- processes -------------------------------------------------------------------------------

pid_of() {
  local file=$state/$1.pid
  [ "$1" != postgres ] || file=$state/postgres/postmaster.pid
  if [ -r "$file" ]; then head -1 "$file"; fi
}

# A process id may have been given to another process since; the command line tells.
runs() {
  local pid
  pid=$(pid_of "$1")
  [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] \
    && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$(mark_of "$1")"
}

mark_of() {
  case $1 in
    postgres) echo "$state/postgres" ;;
    kafka) echo "$state/kafka.properties" ;;
    redis) echo "redis-server.*:$redis_port" ;;
    opa) echo "opa-$OPA_VERSION.*:$opa_port" ;;
  esac
}

port_of() {
  local variable=$1_port
  echo "${!variable}"
}

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Runs a server apart from this script and its terminal, its output in `SERVER.log`.
launch() {
  local name=$1
  shift
  setsid "$@" >>"$state/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$state/$name.pid"
}

as_postgres() {
  if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

launch_postgres() {
  local bin data=$state/postgres log=$state/postgres.log
  bin=$(postgres_bin)
  if [ ! -e "$data/PG_VERSION" ]; then
    mkdir -p "$data"
    [ "$(id -u)" != 0 ] || chown postgres "$data"
    (cd "$data" && as_postgres "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 \
      --locale=C.UTF-8 --no-sync >>"$log" 2>&1)
  fi
  touch "$log"
  [ "$(id -u)" != 0 ] || chown postgres "$log"
  # fsync stays on: what the tests promise about a kill has to be true of a real disk.
  (cd "$data" && as_postgres "$bin/pg_ctl" start -W -s -D "$data" -l "$log" \
    -o "-p $postgres_port -h 127.0.0.1 -c unix_socket_directories= -c max_connections=400" \
    9>&-)
}

ready_postgres() {
  local bin
  bin=$(postgres_bin)
  "$bin/pg_isready" -q -h 127.0.0.1 -p "$postgres_port" -U postgres
}

write_kafka_settings() {
  cat >"$state/kafka.properties" <<SETTINGS
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$kafka_controller_port
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$kafka_controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$state/kafka
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=16777216
SETTINGS
}

# What stands before the main class and its arguments.
kafka_java() {
  echo java -Xms128m -Xmx768m -XX:+UseSerialGC -Xshare:auto -Djava.awt.headless=true \
    -Dlog4j2.configurationFile="$here/servers/log4j2.properties" \
    -cp "$cache/kafka-$KAFKA_VERSION/*"
}

launch_kafka() {
  local java
  read -ra java <<<"$(kafka_java)"
  write_kafka_settings
  if [ ! -e "$state/kafka/meta.properties" ]; then
    local cluster
    cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | tr -d '=')
    "${java[@]}" kafka.tools.StorageTool format -t "$cluster" -c "$state/kafka.properties" \
      >>"$state/kafka.log" 2>&1
  fi
  launch kafka "${java[@]}" kafka.Kafka "$state/kafka.properties"
}

# The port is open before the broker answers; its log says when it does.
ready_kafka() { port_is_open "$kafka_port" && since_launch kafka | grep -q 'Kafka Server started'; }

launch_redis() {
  mkdir -p "$state/redis"
  launch redis redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$state/redis" \
    --save '' --appendonly no
}

ready_redis() { port_is_open "$redis_port" && since_launch redis | grep -q 'Ready to accept'; }

launch_opa() {
  launch opa "$cache/opa-$OPA_VERSION" run --server --addr "127.0.0.1:$opa_port" --watch \
    --disable-telemetry --ignore '*_test.rego' "$project/config/policy"
}

ready_opa() { port_is_open "$opa_port"; }

since_launch() { tail -c "+$(($(cat "$state/$1.from") + 1))" "$state/$1.log"; }

# --- verbs -----------------------------------------------------------------------------------

start() {
  local name=$1 port waited=0
  port=$(port_of "$name")
  if runs "$name"; then
    say "$name already runs on port $port"
    return
  fi
  ! port_is_open "$port" || die "port $port, meant for $name, belongs to another process"
  touch "$state/$name.log"
  stat -c %s "$state/$name.log" >"$state/$name.from"
  say "$name starts on port $port"
  "launch_$name" || fail_with_log "$name" "could not be prepared"
  until "ready_$name" 2>/dev/null; do
    sleep 0.25
    waited=$((waited + 1))
    [ $((waited % 40)) != 0 ] || say "$name is not ready after $((waited / 4)) s"
    # A server has a moment to write its process id before its absence means anything.
    [ $waited -lt 20 ] || runs "$name" || fail_with_log "$name" "ended before it was ready"
    [ $waited -lt $((ready_within * 4)) ] || fail_with_log "$name" "was not ready in time"
  done
  say "$name is ready"
}

fail_with_log() {
  say "$1 $2; the end of $state/$1.log:"
  tail -n 30 "$state/$1.log" >&2 || true
  exit 1
}

# Ends a server by a signal and waits until its process is gone.
end() {
  local name=$1 signal=$2 pid children waited=0
  if ! runs "$name"; then
    say "$name does not run"
    return
  fi
  pid=$(pid_of "$name")
  # PostgreSQL's backends outlive a killed parent for a moment and keep its memory.
  children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
  # shellcheck disable=SC2086
  if [ "$signal" = KILL ]; then kill -KILL "$pid" $children 2>/dev/null || true
  else kill "-$signal" "$pid"; fi
  # Without a command line it is a zombie, or its last threads hold port and files still.
  while [ -e "/proc/$pid" ]; do
    sleep 0.1
    waited=$((waited + 1))
    [ $waited -lt 350 ] || die "$name cannot be ended"
    if [ $waited = 300 ]; then
      say "$name did not stop within 30 s and is killed"
      # shellcheck disable=SC2086
      kill -KILL "$pid" $children 2>/dev/null || true
    fi
  done
  say "$name has ended"
}

stop() { if [ "$1" = postgres ]; then end postgres INT; else end "$1" TERM; fi; }

wipe() {
  [ "$1" = kafka ] || die "only kafka can be wiped"
  end kafka KILL
  rm -rf "$state/kafka"
  start kafka
}

up() {
  [ $# -gt 0 ] || set -- "${SERVERS[@]}"
  local name
  for name in "$@"; do "install_$name"; done
  for name in "$@"; do start "$name"; done
}

down() {
  local name
  for name in opa redis kafka postgres; do ! runs "$name" || stop "$name"; done
  for name in "${SERVERS[@]}"; do rm -rf "${state:?}/$name" "$state/$name.pid"; done
}

status() {
  local name all=0
  for name in "${SERVERS[@]}"; do
    if runs "$name"; then
      printf '%-9s port %-6s pid %s\n' "$name" "$(port_of "$name")" "$(pid_of "$name")"
    else
      printf '%-9s port %-6s down\n' "$name" "$(port_of "$name")"
      all=1
    fi
  done
  printf 'logs and data: %s\n' "$state"
  return $all
}

addresses() {
  cat <<ADDRESSES
export SOMA_TEST_DB_DSN=postgres://postgres@127.0.0.1:$postgres_port/postgres
export SOMA_TEST_KAFKA=127.0.0.1:$kafka_port
export SOMA_TEST_REDIS_URL=redis://127.0.0.1:$redis_port
export SOMA_TEST_OPA_URL=http://127.0.0.1:$opa_port
ADDRESSES
}

during() {
  local name started=() outcome=0
  for name in "${SERVERS[@]}"; do runs "$name" || started+=("$name"); done
  eval "$(addresses)"
  if [ ${#started[@]} = ${#SERVERS[@]} ]; then trap 'locked down' EXIT; fi
  trap 'exit 130' INT
  trap 'exit 143' TERM
  locked up
  "$@" || outcome=$?
  exit $outcome
}

# One verb at a time: two `up` at once would both start everything.
locked() {
  mkdir -p "$state"
  chmod 755 "$state"
  exec 9>"$state/lock"
  flock 9
  "$@"
  exec 9>&-
}

known() {
  local name
  for name in "$@"; do
    [[ " ${SERVERS[*]} " == *" $name "* ]] || die "no server is called \`$name\`"
  done
}

verb=${1:-help}
[ $# = 0 ] || shift
case $verb in
  up) known "$@" && locked up "$@" ;;
  down) locked down ;;
  status) status ;;
  start | stop) known "${1:?which server?}" && locked "$verb" "$1" ;;
  kill) known "${1:?which server?}" && locked end "$1" KILL ;;
  wipe) locked wipe "${1:?which server?}" ;;
  env) addresses ;;
  during) during "$@" ;;
  *)
    usage
    [ "$verb" = help ]
    ;;
esac
