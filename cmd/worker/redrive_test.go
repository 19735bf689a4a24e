package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
)

// bury puts letters on the dead-letter stream, each for a good device of its own.
func bury(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	for i := range n {
		m := letter(fmt.Sprint("R", i), "attempts_exhausted", 0)
		m.Data = []byte(body(fmt.Sprint("R", i), graphsim.GoodDevice(1000+i)))
		if _, err := js.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(testTime):
		t.Fatal("the letters are not stored")
	}
}

// requests are how often each id is on the request stream.
func (w *world) requests() map[string]int {
	w.t.Helper()
	out := map[string]int{}
	for _, m := range w.messages(names.Stream) {
		var r struct{ ID string }
		if err := json.Unmarshal(m.Data, &r); err != nil {
			w.t.Fatal(err)
		}
		out[r.ID]++
	}
	return out
}

func (w *world) checkOnce(n int) {
	w.t.Helper()
	got := w.requests()
	for id, times := range got {
		if times != 1 {
			w.t.Errorf("%s was redriven %d times", id, times)
		}
	}
	if len(got) != n {
		w.t.Errorf("%d requests are in the queue, want %d", len(got), n)
	}
	if left := w.stream(names.DeadStream).State.Msgs; left != 0 {
		w.t.Errorf("%d letters are left", left)
	}
}

// TestRedriveKilled kills the command at random points until it comes to its end.
func TestRedriveKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	const letters = 500
	bury(t, w.js, letters)
	env, kills := w.env(), 0
	for {
		left := w.stream(names.DeadStream).State.Msgs
		p := launch(t, env, "dead", "redrive", "--all")
		if kills < 25 && left > 0 {
			// A few letters after its beginning, and some time after that.
			lines, extra := rand.IntN(2*letters/25), time.Duration(rand.IntN(3000))*time.Microsecond
			await(t, "some letters to be redriven", func() bool { return strings.Count(p.out.String(), "\n") >= lines || !p.running() })
			<-time.After(extra)
			p.Kill()
			<-p.done
			kills++
			continue
		}
		if code := p.wait(); code != exitDone {
			t.Fatalf("status %d: %s", code, p.err.String())
		}
		break
	}
	t.Logf("killed %d times", kills)
	w.checkOnce(letters)
}

// TestRedriveWhileWorking kills the command while a worker works on what it
// redrives: the queue forgets what is done, the records and the server do not.
func TestRedriveWhileWorking(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	const letters = 200
	bury(t, w.js, letters)
	env := w.env()
	p := launch(t, env, "run")
	p.awaitReady()
	for range 8 {
		r := launch(t, env, "dead", "redrive", "--all")
		await(t, "some letters to be redriven", func() bool { return strings.Count(r.out.String(), "\n") >= 10 || !r.running() })
		r.Kill()
		<-r.done
	}
	expect(t, env, exitDone, ".*", ".*", "dead", "redrive", "--all")
	await(t, "all to be accepted", func() bool { return w.sim.Status().Executed >= letters })
	w.awaitEmpty()
	if n := p.metrics().sum("requests_total", `outcome="duplicate"`); n != 0 {
		t.Errorf("%d requests were redriven more than once", n)
	}
	if got := w.sim.Status(); got.Executed != letters || w.stream(names.DeadStream).State.Msgs != 0 {
		t.Errorf("%d resets, %d letters left", got.Executed, w.stream(names.DeadStream).State.Msgs)
	}
	p.stop()
	w.checkSim()
}

// TestRedriveByTwo lets two operators do the same at once.
func TestRedriveByTwo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	const letters = 300
	bury(t, w.js, letters)
	env := w.env()
	one, two := launch(t, env, "dead", "redrive", "--all", "-o", "json"), launch(t, env, "dead", "redrive", "--all", "-o", "json")
	if a, b := one.wait(), two.wait(); a != exitDone || b != exitDone {
		t.Errorf("status %d and %d", a, b)
	}
	w.checkOnce(letters)
}

// TestRedriveLostReplies loses, one after the other, the replies that the
// command waits for.
func TestRedriveLostReplies(t *testing.T) {
	t.Parallel()
	for name, match := range map[string]func(natstest.Message) bool{
		"puback":  natstest.PubAck(names.Stream),
		"removal": func(m natstest.Message) bool { return bytes.Contains(m.Data, []byte("stream_msg_delete_response")) },
		"reading": func(m natstest.Message) bool { return bytes.Contains(m.Data, []byte("stream_msg_get_response")) },
		"record":  func(m natstest.Message) bool { return bytes.Contains(m.Header, []byte("KV_passcode-resets")) },
		"list":    func(m natstest.Message) bool { return bytes.Contains(m.Header, []byte("Nats-Num-Pending: 1\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, graphsim.Config{})
			w.setUp()
			bury(t, w.js, 3)
			kv, err := w.js.KeyValue(w.ctx, names.Bucket)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := kv.Put(w.ctx, "default.R0", []byte(`{"id":"R0","tenant":"default","state":"dead"}`)); err != nil {
				t.Fatal(err)
			}
			proxy, err := natstest.StartProxy(w.nats.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			lost := proxy.SwallowNext(1, match)
			expect(t, w.env("NATS_URL", proxy.URL()), exitDone, "(redriven .*\n){3}", "(worker: so far: .*\n)*worker: 3 redriven\n", "dead", "redrive", "--all")
			select {
			case <-lost:
			default:
				t.Error("no reply was lost")
			}
			w.checkOnce(3)
		})
	}
}

// TestRedriveClusterLosesLeader takes the leader of the dead-letter stream, and
// then that of the request stream, away while letters are redriven.
func TestRedriveClusterLosesLeader(t *testing.T) {
	t.Parallel()
	cluster, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop()
	w := &world{t: t, ctx: t.Context(), js: connect(t, cluster.URL())}
	w.setUp()
	const letters = 300
	bury(t, w.js, letters)
	p := launch(t, map[string]string{"NATS_URL": cluster.URL()}, "dead", "redrive", "--all", "--rate", "20/100ms")
	for i, stream := range []string{names.DeadStream, names.Stream} {
		await(t, "some letters to be redriven", func() bool { return strings.Count(p.out.String(), "\n") >= 50*(i+1) || !p.running() })
		leader, err := cluster.StreamLeader(stream)
		if err != nil {
			t.Fatal(err)
		}
		leader.Stop()
		if err := leader.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if code := p.wait(); code != exitDone {
		t.Errorf("status %d", code)
	}
	w.checkOnce(letters)
}

// TestSendLostReply loses the PubAck of a request: it is stored once.
func TestSendLostReply(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	proxy, err := natstest.StartProxy(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	lost := proxy.SwallowNext(1, natstest.PubAck(names.Stream))
	expect(t, w.env("NATS_URL", proxy.URL()), exitDone, "S1\n", "", "send", "--id", "S1", "--device", graphsim.GoodDevice(1))
	select {
	case <-lost:
	default:
		t.Error("no reply was lost")
	}
	if got := w.requests(); got["S1"] != 1 || len(got) != 1 {
		t.Errorf("stored: %v", got)
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	s := startNATS(t, server.Options{})
	js := connect(t, s.URL())
	env := map[string]string{"NATS_URL": s.URL()}
	w := &world{t: t, ctx: t.Context(), nats: s, js: js}
	w.setUp()
	hostile := letter("evil", "rejected", 0)
	hostile.Header[deadletter.HeaderDetail] = []string{"\x1b[2J \u202eoops"}
	hostile.Header[deadletter.HeaderRequestID] = []string{"desk=2F\x1b]0;x"}
	hostile.Data = []byte(`{"managedDeviceId":"` + graphsim.GoodDevice(9) + `","reason":"` + "\xc2\x9b31m" + `"}`)
	desk := letter("desk=2F7", "conflict", 1)
	desk.Data = []byte(body("desk/7", graphsim.GoodDevice(7)))
	for _, m := range []*nats.Msg{
		letter("A", "not_found", 0), letter("B", "outcome_unknown", 0), letter("C", "expired", 3), hostile, {Subject: names.Dead(), Data: []byte("what is this")},
		desk,
	} {
		if _, err := js.PublishMsg(w.ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	r := expect(t, env, exitDone, " LETTER  DIED .*", "", "dead", "list")
	if n := strings.Count(r.out, "\n"); n != 7 || !strings.Contains(r.out, `\u001b[2J \u202eoops`) || !strings.Contains(r.out, "  desk/7 ") {
		t.Errorf("the list:\n%s", r.out)
	}
	for _, args := range [][]string{{"dead", "list"}, {"dead", "list", "-o", "json"}, {"dead", "show", "--since", "1h"}, {"dead", "show", "--since", "1h", "-o", "json"}} {
		if r := runFor(t, env, args...); strings.ContainsAny(r.out, "\x1b\u009b\u202e") || r.code != exitDone {
			t.Errorf("%q: status %d, what a terminal obeys:\n%q", args, r.code, r.out)
		}
	}
	if l := objects(t, runFor(t, env, "dead", "list", "-o", "json").out); len(l) != 6 || l[0]["id"] != "A" || l[5]["id"] != "desk/7" || l[5]["redrives"] != 1.0 ||
		l[0]["managedDeviceId"] != graphsim.GoodDevice(7) {
		t.Errorf("the list as JSON: %v", l)
	}
	for want, args := range map[string][]string{
		"A": {"A"}, "B": {"--reason", "outcome_unknown"}, "A B": {"A", "B"}, "A C": {"--sequence", "1,3"}, "desk/7": {"desk/7"},
		"A B C": {"--limit", "3"}, "": {"--since", "2100-01-01T00:00:00Z"}, "A B C desk/7": {"--device", strings.ToUpper(graphsim.GoodDevice(7))},
	} {
		r := runFor(t, env, append([]string{"dead", "list", "-o", "json"}, args...)...)
		var got []string
		for _, o := range objects(t, r.out) {
			got = append(got, fmt.Sprint(o["id"]))
		}
		if r.code != exitDone || strings.Join(got, " ") != want {
			t.Errorf("%q: status %d, %q instead of %q\n%s", args, r.code, got, want, r.err)
		}
	}
	expect(t, env, exitFailed, "", `worker: no dead letter\nworker: x\\u001b: no such dead letter\nworker: letter 99: no such dead letter\n`, "dead", "list", "x\x1b", "--sequence", "99")
	expect(t, env, exitFailed, "", "worker: x: no such dead letter\n", "dead", "show", "x")
	expect(t, env, exitFailed, "", "worker: 2: no such dead letter; to give the number of a letter, use --sequence\n", "dead", "show", "2")
	expect(t, env, exitDone, "letter      1, of .*\nrequest     A\n.*reason      not_found\n.*body        \\{\"managed.*\n", "", "dead", "show", "A")
	if o := objects(t, runFor(t, env, "dead", "show", "A", "-o", "json").out)[0]; o["body"] != body("A", graphsim.GoodDevice(7)) || o["headers"] == nil {
		t.Errorf("shown: %v", o)
	}

	expect(t, env, exitFailed, "would redrive letter 1, not_found, A\nrefused .*B: the device may have been reset.*\nrefused .*C: it has been redriven 3 times.*"+
		"refused .*letter 4.* does not fit .*refused .*letter 5, , : it is not a dead letter that the worker wrote\nwould redrive letter 6, conflict, desk/7\n",
		"worker: 4 refused, 2 would redrive\n", "dead", "redrive", "--all", "--dry-run")
	if n := w.stream(names.Stream).State.LastSeq; n != 0 || w.stream(names.DeadStream).State.Msgs != 6 {
		t.Errorf("a dry run changed something: %d requests", n)
	}
	expect(t, env, exitFailed, "redriven +letter 1, not_found, A, is message 1 now\nrefused .*", "worker: 1 redriven, 2 refused\n", "dead", "redrive", "A", "B", "C")
	r = expect(t, env, exitDone, ".*", "worker: 2 redriven\n", "dead", "redrive", "B", "C", "--force", "-o", "json")
	if o := objects(t, r.out); o[0]["action"] != "redriven" || o[1]["redrives"] != 4.0 || o[1]["newSequence"] != 3.0 {
		t.Errorf("redriven: %s", r.out)
	}
	m := w.messages(names.Stream)[0]
	for _, ofReading := range []string{jetstream.SequenceHeader, jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.TimeStampHeaer} {
		m.Header.Del(ofReading)
	}
	if h := m.Header; string(m.Data) != body("A", graphsim.GoodDevice(7)) || h.Get(deadletter.HeaderRedrives) != "" || h.Get(deadletter.HeaderReason) != "" ||
		!strings.HasPrefix(h.Get(jetstream.MsgIDHeader), "redrive-PASSCODE_RESETS_DEAD-1-") || len(h) != 2 {
		t.Errorf("redriven: %q %v", m.Data, h)
	}
	expect(t, env, exitDone, "would remove +letter 6, conflict, desk/7\n", "worker: 1 would remove\n", "dead", "remove", "desk/7", "--dry-run")
	expect(t, env, exitDone, "removed +letter 6, conflict, desk/7\n", "worker: 1 removed\n", "dead", "remove", "desk/7")
	expect(t, env, exitFailed, "", "worker: no dead letter\nworker: desk/7: no such dead letter\n", "dead", "remove", "desk/7")
	expect(t, env, exitDone, "(removed .*\n){2}", "worker: 2 removed\n", "dead", "remove", "--all")
	expect(t, env, exitDone, "", "worker: no dead letter\n", "dead", "list")
	expect(t, env, exitDone, "", "", "dead", "list", "-o", "json")
}

// TestRedriveUnknown forces a request whose device was reset, and of which that
// cannot be found out: it is not reset again.
func TestRedriveUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{Roles: []string{graphsim.RoleReset}})
	w.setUp()
	env := w.env()
	p := launch(t, env, "run")
	p.awaitReady()
	device := graphsim.FaultDevice(602, 1, 0, 1)
	expect(t, env, exitFailed, "U\n.*U  dead: outcome_unknown.*", "", "send", "--id", "U", "--device", device, "--wait")
	expect(t, env, exitFailed, "refused .*", "worker: 1 refused\n", "dead", "redrive", "U")
	expect(t, env, exitDone, "redriven .*", "worker: 1 redriven\n", "dead", "redrive", "U", "--force")
	await(t, "it to be dead again", func() bool { r := w.record("U"); return r.State == record.Dead && r.Sequence == 2 })
	if n := w.sim.Status().Executed; n != 1 || w.record("U").Reason != "outcome_unknown" {
		t.Errorf("%d resets, reason %s", n, w.record("U").Reason)
	}
	p.stop()
	w.checkSim()
}
