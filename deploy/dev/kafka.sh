#!/usr/bin/env bash
# One real Apache Kafka broker (KRaft, a single node) for tests, demos and benchmarks, from its official jars.
#
#   kafka.sh start  [DIR] [PORT]   start in the background, wait until it answers, print its bootstrap address
#   kafka.sh stop   [DIR]          end exactly that broker
#   kafka.sh prepare [DIR]         fetch the jars, start a broker once and end it; the next starts take half the processor time
#   kafka.sh status [DIR]          print the bootstrap address, or say that none runs (exit code 1)
#   kafka.sh run    [DIR] [PORT]   become the broker: stays in the foreground and keeps this process's id, so that a
#                                  caller can tie the broker's life to its own (PR_SET_PDEATHSIG survives the exec)
#
# DIR (default ${XDG_STATE_HOME:-~/.local/state}/tributary/kafka) holds everything of one broker: data/, kafka.log, pid,
# address. A second start in the same DIR uses the same data and port. Copies in different DIRs do not meet: without PORT
# each takes a free one. KAFKA_PROPERTIES names a file of broker properties added to the generated ones; PORT_ in it stands
# for the port (a listener of its own for TLS or SASL). KAFKA_HEAP_MB (default 512) is the Java heap. KAFKA_JIT_LEVEL (default 4)
# bounds Java's compiler: 1 costs a short-lived broker less.
#
# The jars are fetched once, by Maven coordinates (kafka/pom.xml), into ${XDG_CACHE_HOME:-~/.cache}/tributary/kafka-VERSION. Beside them are
# kafka-VERSION.jsa, the classes that a start loads as Java shares them (made by prepare, ignored by another Java than that which made it), and
# kafka-VERSION-formatted, the first files of every data directory.
set -euo pipefail

export HOME=${HOME:-${TMPDIR:-/tmp}}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/kafka/pom.xml")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tributary
libs=$cache/kafka-$version
archive=$libs.jsa
formatted=$libs-formatted
start_seconds=60

die() { echo "kafka.sh: $*" >&2; exit 1; }

usage() { sed -n '4,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# need_tool COMMAND PACKAGE: COMMAND is there, or is installed by root on Debian, or is asked for in one sentence.
need_tool() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    die "the command '$1' is missing: install it (Debian: apt-get install $2)"
  fi
  echo "kafka.sh: installing $2" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "$2" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; } >/dev/null 2>&1 ||
    die "apt-get could not install $2: install it by hand"
}

# fetch_jars fills the cache. The directory appears by one rename, so that it is whole or not there; the lock makes a
# second copy wait for the first one's download instead of repeating it.
fetch_jars() {
  need_tool java default-jre-headless
  [ -d "$libs" ] && return
  need_tool mvn maven
  mkdir -p "$cache"
  exec 8>"$cache/kafka.lock"
  flock 8
  if [ ! -d "$libs" ]; then
    local part
    part=$(mktemp -d "$cache/kafka-part.XXXXXX")
    # -C: an artifact whose checksum does not match is an error.
    if ! mvn -B -q -C -f "$here/kafka/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$part" >"$cache/kafka-mvn.log" 2>&1; then
      rm -rf "$part"
      die "maven could not fetch Kafka $version, see $cache/kafka-mvn.log"
    fi
    chmod 755 "$part"
    mv "$part" "$libs"
  fi
  exec 8>&-
}

# broker_pid prints the id of the broker that runs in DIR. The command line is compared, because a process id is reused.
broker_pid() {
  local pid
  [ -s "$dir/pid" ] || return 1
  pid=$(<"$dir/pid")
  [ -r "/proc/$pid/cmdline" ] || return 1
  tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$dir/server.properties" || return 1
  echo "$pid"
}

listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: below the range that Linux gives to clients, so that no connection of ours sits on it.
free_port() {
  local port
  for _ in {1..50}; do
    port=$((20000 + SRANDOM % 12000))
    listens "$port" || { echo "$port"; return; }
  done
  die "no free port found between 20000 and 32000"
}

# The short session lets a killed broker come back in 3 s: the controller refuses its next run until the old session is over.
write_properties() {
  local port=$1 controller=$2
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
PROPERTIES
  if [ -n "${KAFKA_PROPERTIES:-}" ]; then
    sed "s/PORT_/$port/g" "$KAFKA_PROPERTIES" >>"$dir/server.properties"
  fi
  echo "127.0.0.1:$port" >"$dir/address"
}

# run_broker PORT: everything a broker needs, then exec. Does not return.
run_broker() {
  local port=$1
  if [ -z "$port" ] && [ -s "$dir/address" ]; then
    port=$(sed 's/.*://' "$dir/address")
  fi
  if [ -n "$port" ] && listens "$port"; then
    die "port $port of 127.0.0.1 is in use: give another one, or none"
  fi
  fetch_jars
  mkdir -p "$dir/data" "$dir/tmp"
  write_properties "${port:-$(free_port)}" "$(free_port)"
  local java=(java -XX:+UseSerialGC -XX:TieredStopAtLevel="${KAFKA_JIT_LEVEL:-4}" -Djava.io.tmpdir="$dir/tmp"
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true
    -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info -cp "$libs/*")
  format_data "${java[@]}"
  if [ -n "${KAFKA_RECORD:-}" ]; then
    java+=(-XX:+IgnoreUnrecognizedVMOptions -XX:ArchiveClassesAtExit="$KAFKA_RECORD")
  elif [ -s "$archive" ]; then
    java+=(-XX:+IgnoreUnrecognizedVMOptions -XX:SharedArchiveFile="$archive" -Xshare:auto -Xlog:disable -Xlog:all=error:stderr)
  fi
  echo $$ >"$dir/pid"
  exec "${java[@]}" -Xmx"${KAFKA_HEAP_MB:-512}"m kafka.Kafka "$dir/server.properties" >"$dir/kafka.log" 2>&1 </dev/null
}

# format_data JAVA…: the data directory of a new broker. Its files are the same for all, and made by Kafka's tool once.
format_data() {
  [ -e "$dir/data/meta.properties" ] && return
  if [ -d "$formatted" ]; then
    cp "$formatted"/* "$dir/data/"
    return
  fi
  "$@" -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format -t tributarytributaryAAA -c "$dir/server.properties" >"$dir/format.log" 2>&1 ||
    die "the data directory could not be prepared: $(tail -n 1 "$dir/format.log")"
  local part
  part=$(mktemp -d "$cache/kafka-part.XXXXXX" 2>/dev/null) || return 0 # a cache that is not ours
  cp "$dir/data/"* "$part/" && chmod 755 "$part" && mv -T "$part" "$formatted" 2>/dev/null || rm -rf "$part" # another one was quicker
}

# start_broker PORT: run in the background. A port that was taken between the choice and the bind is chosen again.
start_broker() {
  local port=$1 pid
  exec 9>"$dir/lock"
  flock 9
  if pid=$(broker_pid); then
    cat "$dir/address"
    return
  fi
  [ -z "$port" ] && [ -s "$dir/address" ] && port=$(sed 's/.*://' "$dir/address")
  for _ in 1 2 3; do
    : >"$dir/kafka.log"
    setsid "${BASH_SOURCE[0]}" run "$dir" $port 9>&- 2>"$dir/start.log" &
    pid=$!
    if wait_started "$pid"; then
      cat "$dir/address"
      return
    fi
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    rm -f "$dir/pid"
    [ -z "$port" ] && rm -f "$dir/address"
    grep -q "Address already in use" "$dir/kafka.log" || break
  done
  die "the broker did not start: $(tail -qn 1 "$dir/start.log" "$dir/kafka.log" | tail -n 1) (log: $dir/kafka.log)"
}

# wait_started PID: its log says that it serves. The fetch of the jars has no limit of ours, the start itself has one.
wait_started() {
  local tenths=0
  while kill -0 "$1" 2>/dev/null; do
    grep -q "Kafka Server started" "$dir/kafka.log" && return 0
    [ -d "$libs" ] && tenths=$((tenths + 1))
    [ "$tenths" -gt $((start_seconds * 10)) ] && return 1
    sleep 0.1
  done
  return 1
}

stop_broker() {
  local pid
  pid=$(broker_pid) || { rm -f "$dir/pid"; return 0; }
  kill "$pid" 2>/dev/null || true
  for _ in {1..100}; do
    broker_pid >/dev/null || { rm -f "$dir/pid"; return 0; }
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$dir/pid"
}

# prepare_broker: a start and an end. Java writes the archive when it ends by itself; it appears by one rename.
prepare_broker() {
  local part="" pid
  if [ ! -s "$archive" ]; then
    mkdir -p "$cache"
    part=$(mktemp -u "$cache/kafka-part.XXXXXX.jsa")
    export KAFKA_RECORD=$part
  fi
  start_broker "" >/dev/null
  pid=$(broker_pid) || die "the broker ended (log: $dir/kafka.log)"
  kill "$pid"
  for _ in {1..600}; do
    if ! broker_pid >/dev/null; then
      rm -f "$dir/pid"
      [ ! -s "$part" ] || mv "$part" "$archive"
      return
    fi
    sleep 0.1
  done
  stop_broker
  rm -f "$part"
  die "the broker did not end within a minute (log: $dir/kafka.log)"
}

verb=${1:-}
dir=${2:-${XDG_STATE_HOME:-$HOME/.local/state}/tributary/kafka}
port=${3:-}
[[ $port =~ ^[0-9]*$ ]] || usage
case $verb in
  start|run|prepare) mkdir -p "$dir"; dir=$(cd "$dir" && pwd); "${verb}_broker" "$port" ;;
  stop) if [ -d "$dir" ]; then dir=$(cd "$dir" && pwd); stop_broker; fi ;;
  status)
    if [ -d "$dir" ] && dir=$(cd "$dir" && pwd) && broker_pid >/dev/null; then cat "$dir/address"; else echo "no broker runs in $dir"; exit 1; fi ;;
  *) usage ;;
esac
