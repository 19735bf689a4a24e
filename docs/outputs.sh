#!/bin/sh
# Regenerates the outputs that the manual shows, from the present program.
#
# Use, from the root of the repository, by hand:
#
#   docs/outputs.sh                     all pages that have marks
#   docs/outputs.sh docs/tools.md ...   these pages only
#
# Then look at the difference (git diff) and commit what is right. It needs Go,
# Python 3 and curl, and takes some seconds for each page; a page that plays
# the sandbox's day takes a minute and a half.
#
# For each page it starts a sandbox of its own on free ports, and does what the
# page's marks say, from the top to the bottom:
#
#   <!-- run: COMMAND -->      runs COMMAND and shows nothing: it prepares what is shown next
#   <!-- output -->            in the fenced block that follows, runs each line that begins with
#                              "$ " and writes its output below it
#   <!-- output: COMMAND -->   replaces the content of the fenced block that follows by the output of
#                              COMMAND; lines at its beginning that begin with "$ " stay
#
# Commands find worker and sandbox in their PATH, and the variables of a worker
# in their environment; $SERVED is the file with what "sandbox --serve" has
# printed. They are written with the addresses that the manual shows
# (127.0.0.1:4222, 127.0.0.1:8443, worker.example:9090 or 127.0.0.1:9090), which are replaced by
# the real ones, and the other way round in what they print. The name of the
# host becomes host-1. Times and ids are those of the run.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/bin/worker" ./cmd/worker
go build -o "$work/bin/sandbox" ./cmd/sandbox

[ $# -gt 0 ] || set -- $(grep -lE '^ *<!-- (output|run)(:.*)? -->$' README.md docs/*.md)
WORK=$work python3 - "$@" <<'EOF'
import os, re, shlex, signal, socket, subprocess, sys, tempfile, time

work = os.environ["WORK"]
BIN = work + "/bin"


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Sandbox:
    """A sandbox on free ports, and commands that are run against it."""

    def __init__(self):
        nats, graph, http = free(), free(), free()
        self.there = [("worker.example:9090", f"127.0.0.1:{http}"), ("127.0.0.1:4222", f"127.0.0.1:{nats}"),
                      ("127.0.0.1:8443", f"127.0.0.1:{graph}"), ("127.0.0.1:9090", f"127.0.0.1:{http}")]
        self.served = work + "/served"
        self.ca = work + "/ca.pem"
        self.dir = tempfile.mkdtemp(dir=work)
        self.log = open(work + "/log", "w")
        self.process = subprocess.Popen(
            [BIN + "/sandbox", "--serve", f"--nats-port={nats}", f"--graph-addr=127.0.0.1:{graph}", f"--http-addr=127.0.0.1:{http}",
             f"--ca-file={self.ca}"], stdout=open(self.served, "w"), stderr=self.log)
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", http)).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            sys.exit("the sandbox did not start: " + open(work + "/log").read())
        self.env = dict(os.environ, PATH=BIN + ":" + os.environ["PATH"], SERVED=self.served, NO_COLOR="1")
        for line in open(self.served):
            if line.strip().startswith("export "):
                for word in shlex.split(line.strip()[len("export "):]):
                    name, _, value = word.partition("=")
                    self.env[name] = value
        time.sleep(1)

    def run(self, command):
        for shown, real in self.there:
            command = command.replace(shown, real)
        command = command.replace("go run ./cmd/sandbox", "sandbox")
        done = subprocess.run(["sh", "-c", command], cwd=self.dir, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        out = done.stdout
        for shown, real in self.there[1:]:
            out = out.replace(real, shown)
        out = out.replace(self.ca, "/tmp/passcode-sandbox-1267902875/ca.pem").replace(socket.gethostname(), "host-1")
        print(f"  {command}: status {done.returncode}, {out.count(chr(10))} lines", file=sys.stderr)
        return [line.rstrip() for line in out.rstrip("\n").split("\n")] if out.strip() else []

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


MARK = re.compile(r"^ *<!-- (run|output)(?:: (.*))? -->$")


def regenerate(page):
    lines = open(page).read().split("\n")
    if not any(MARK.match(line) for line in lines):
        return
    print(page, file=sys.stderr)
    sandbox = Sandbox()
    try:
        out, i = [], 0
        while i < len(lines):
            mark = MARK.match(lines[i])
            out.append(lines[i])
            i += 1
            if not mark:
                continue
            kind, command = mark.groups()
            if kind == "run":
                sandbox.run(command)
                continue
            while not lines[i].lstrip().startswith("```"):
                if lines[i].strip():
                    sys.exit(f"{page}:{i + 1}: no fenced block follows the mark")
                out.append(lines[i])
                i += 1
            out.append(lines[i])
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == "```")
            block = lines[i + 1:end]
            if command:
                for line in block:
                    if not line.startswith("$ "):
                        break
                    out.append(line)
                out += sandbox.run(command)
            else:
                while block:
                    line = block.pop(0)
                    if not line.startswith("$ "):
                        continue
                    typed = [line]
                    while typed[-1].endswith("\\"):
                        typed.append(block.pop(0))
                    out += typed + sandbox.run("\n".join(typed)[2:])
            i = end
        open(page, "w").write("\n".join(out))
    finally:
        sandbox.close()


for page in sys.argv[1:]:
    regenerate(page)
EOF
