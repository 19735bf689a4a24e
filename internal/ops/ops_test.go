package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var names = topology.Names{
	Tenant: "default", Stream: "REQ", Subject: "req", DeadStream: "DEAD", DeadSubject: "dead", Bucket: "records",
	FollowStream: "FOLLOW", FollowSubject: "follow",
}

const device = "600d0000-0000-4000-8000-000000000001"

// rig is a server with everything set up.
func rig(t *testing.T) (*Tools, jetstream.JetStream) {
	t.Helper()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	var rights Rights
	nc, err := nats.Connect(s.URL(), rights.Option())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	tools := New(js, names, &rights)
	if _, err := topology.Setup(t.Context(), tools.js, names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	return tools, tools.js
}

// bury publishes a letter as the worker would write it of this message.
func bury(t *testing.T, js jetstream.JetStream, m deadletter.Original, key string) {
	t.Helper()
	if err := deadletter.New(js, names).Publish(t.Context(), m, deadletter.Letter{Reason: "not_found", RequestID: key}); err != nil {
		t.Fatal(err)
	}
}

// TestRedriveKeepsTheID redrives requests that had their id in each of the ways
// that there are.
func TestRedriveKeepsTheID(t *testing.T) {
	tools, js := rig(t)
	long := `{"managedDeviceId":"` + device + `","x":"` + `"}`
	long = strings.Replace(long, `""`, `"`+strings.Repeat("x", request.MaxBytes-len(long))+`"`, 1)
	for i, c := range []struct {
		name, data string
		header     nats.Header
		want       string // body; empty: refused
		otherID    bool
	}{
		{name: "in the body", data: `{"id":"a/b","managedDeviceId":"` + device + `"}`, want: `{"id":"a/b","managedDeviceId":"` + device + `"}`},
		{name: "from the message id", data: ` {"managedDeviceId":"` + device + `" }`, header: nats.Header{"Nats-Msg-Id": {"m 1"}},
			want: `{"id":"m 1","managedDeviceId":"` + device + `" }`},
		{name: "from a header of another case", data: `{"managedDeviceId":"` + device + `"}`, header: nats.Header{"nats-msg-id": {"m2"}},
			want: `{"id":"m2","managedDeviceId":"` + device + `"}`},
		{name: "from the sequence", data: `{"managedDeviceId":"` + device + `"}`, want: `{"id":"REQ-103","managedDeviceId":"` + device + `"}`},
		{name: "null in the body", data: `{"id":null,"managedDeviceId":"` + device + `","note":{"b":1,"a":2}}`,
			want: `{"id":"REQ-104","managedDeviceId":"` + device + `","note":{"b":1,"a":2}}`},
		{name: "empty in the body", data: `{"i\u0064":"","managedDeviceId":"` + device + `"}`, want: `{"id":"REQ-105","managedDeviceId":"` + device + `"}`},
		{name: "no valid device", data: `{"managedDeviceId":"x"}`, want: `{"id":"REQ-106","managedDeviceId":"x"}`},
		{name: "no object", data: `what`, want: `what`, otherID: true},
		{name: "empty object", data: `{}`, want: `{"id":"REQ-108"}`},
		{name: "a field twice", data: `{"id":"","managedDeviceId":"x","managedDeviceId":"` + device + `"}`,
			want: `{"id":"","managedDeviceId":"x","managedDeviceId":"` + device + `"}`, otherID: true},
		{name: "byte order mark", data: "\ufeff" + `{"managedDeviceId":"` + device + `"}`, header: nats.Header{"Nats-Msg-Id": {"marked"}},
			want: `{"id":"marked","managedDeviceId":"` + device + `"}`},
		{name: "broken, with an id", data: `{"id":"torn","managedDeviceId":"` + device + `","reason":"` + "\n" + `"}`,
			want: `{"id":"torn","managedDeviceId":"` + device + `","reason":"` + "\n" + `"}`},
		{name: "no room", data: long},
	} {
		m := deadletter.Original{Subject: names.Filter(), Header: c.header, Data: []byte(c.data), Stream: names.Stream,
			Sequence: uint64(100 + i), Published: time.Now()}
		r, invalid := request.Decode(request.Source{Data: m.Data, Header: m.Header, Stream: m.Stream, Sequence: m.Sequence})
		bury(t, js, m, r.Key())
		var out Result
		var taken DeadLetter
		if err := tools.Letters(t.Context(), Selection{}, func(l DeadLetter) (err error) {
			taken = l
			out, err = tools.Redrive(t.Context(), l, false, false)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if c.want == "" {
			if out.Action != Refused || out.Detail == "" {
				t.Errorf("%s: %+v", c.name, out)
			}
			if _, err := tools.Remove(t.Context(), taken); err != nil {
				t.Fatal(err)
			}
			continue
		}
		s, err := js.Stream(t.Context(), names.Stream)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.GetMsg(t.Context(), out.NewSequence)
		if err != nil {
			t.Fatalf("%s: %+v: %v", c.name, out, err)
		}
		again, againErr := request.Decode(request.Source{Data: got.Data, Header: got.Header, Stream: names.Stream, Sequence: got.Sequence})
		if out.Action != Redriven || string(got.Data) != c.want || (again.ID == r.ID) == c.otherID || (againErr == nil) != (invalid == nil) ||
			again.DeviceID != r.DeviceID {
			t.Errorf("%s: %+v\n%s\n%+v, %v", c.name, out, got.Data, again, againErr)
		}
	}
}

// TestRedriveAgain redrives a letter whose earlier redrive was interrupted
// before the letter was removed: soon after it, and when the server has
// forgotten it but the record tells of it.
func TestRedriveAgain(t *testing.T) {
	tools, js := rig(t)
	bury(t, js, deadletter.Original{Data: []byte(`{"id":"A","managedDeviceId":"` + device + `"}`), Stream: names.Stream, Sequence: 7, Published: time.Now()}, "A")
	var l DeadLetter
	if err := tools.Letters(t.Context(), Selection{}, func(found DeadLetter) error { l = found; return nil }); err != nil {
		t.Fatal(err)
	}
	msg, problem := tools.redriven(l)
	if problem != "" {
		t.Fatal(problem)
	}
	first, err := tools.publish(t.Context(), msg)
	if err != nil {
		t.Fatal(err)
	}
	dry, err := tools.Redrive(t.Context(), l, false, true)
	if err != nil || dry.Action != WouldRedrive {
		t.Errorf("dry: %+v, %v", dry, err)
	}
	out, err := tools.Redrive(t.Context(), l, false, false)
	if err != nil || out.Action != Redriven || out.NewSequence != first.Sequence {
		t.Errorf("at once: %+v, %v", out, err)
	}
	out, err = tools.Redrive(t.Context(), l, false, false)
	if err != nil || out.Action != Gone {
		t.Errorf("a letter that is gone: %+v, %v", out, err)
	}
	if there, err := tools.Remove(t.Context(), l); there || err != nil {
		t.Errorf("removed %t, %v", there, err)
	}
	s, err := js.Stream(t.Context(), names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.LastSeq; n != 1 {
		t.Errorf("%d requests in the queue", n)
	}

	kv, err := js.KeyValue(t.Context(), names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		sequence  int
		state     record.State
		force     bool
		dry, want Action
	}{
		{3, record.Retrying, false, WouldRedrive, Redriven},
		{7, record.Dead, false, WouldRedrive, Redriven},
		{8, record.Retrying, false, WouldRemove, Superseded},
		{8, record.Accepted, true, WouldRemove, Superseded},
		{8, record.Dead, false, Refused, Refused},
		{8, record.Dead, true, WouldRedrive, Redriven},
	} {
		id := fmt.Sprint("B", i)
		if _, err := kv.Put(t.Context(), "default."+id, fmt.Appendf(nil, `{"id":%q,"tenant":"default","state":%q,"stream":"REQ","sequence":%d}`, id, c.state, c.sequence)); err != nil {
			t.Fatal(err)
		}
		bury(t, js, deadletter.Original{Data: []byte(`{"id":"` + id + `","managedDeviceId":"` + device + `"}`), Stream: names.Stream,
			Sequence: 7, Published: time.Now()}, id)
		err := tools.Letters(t.Context(), Selection{IDs: []string{id}}, func(l DeadLetter) (err error) {
			if dry, err := tools.Redrive(t.Context(), l, c.force, true); err != nil || dry.Action != c.dry {
				t.Errorf("%+v, dry: %+v, %v", c, dry, err)
			}
			out, err = tools.Redrive(t.Context(), l, c.force, false)
			return err
		})
		if err != nil || out.Action != c.want || out.ID != id {
			t.Errorf("%+v: %+v, %v", c, out, err)
		}
	}
	if n, err := tools.last(t.Context(), names.Stream); n != 4 || err != nil {
		t.Errorf("%d requests in the queue, %v", n, err)
	}
}

// TestScanIsWhole reads more letters than fit into a batch, of several tenants,
// some of them removed.
func TestScanIsWhole(t *testing.T) {
	tools, js := rig(t)
	const n = 2*batchMessages + 100
	big := strings.Repeat("x", 60<<10)
	for i := range n {
		for _, subject := range []string{names.Dead(), "dead.other"} {
			data := "small"
			if i%10 == 0 && i < 1000 {
				data = big // so that the bytes of a batch are used up first
			}
			if _, err := js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: []byte(data), Header: nats.Header{"Nats-Sequence": {"7"}, "Status": {"204"}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	<-js.PublishAsyncComplete()
	var all []uint64
	read := func(sel Selection) (got []uint64) {
		t.Helper()
		if err := tools.Letters(t.Context(), sel, func(l DeadLetter) error { got = append(got, l.Sequence); return nil }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if all = read(Selection{}); len(all) != n {
		t.Fatalf("read %d of %d", len(all), n)
	}
	for i, seq := range all {
		if seq != uint64(2*i+1) {
			t.Fatalf("letter %d has the sequence %d", i, seq)
		}
		if i%3 == 0 {
			if _, err := tools.remove(t.Context(), seq); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := read(Selection{}); len(got) != n-(n+2)/3 {
		t.Errorf("read %d", len(got))
	}
	if got := read(Selection{Limit: 7}); len(got) != 7 {
		t.Errorf("read %d with a limit of 7", len(got))
	}
	stop := errors.New("stop")
	if err := tools.Letters(t.Context(), Selection{}, func(DeadLetter) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("ended with %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tools.Letters(ctx, Selection{}, func(DeadLetter) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// FuzzPrepare: what is prepared is a request, and the same one but for its id.
func FuzzPrepare(f *testing.F) {
	for _, s := range []string{`{"managedDeviceId":"` + device + `"}`, `{"id":null,"managedDeviceId":"` + device + `"}`,
		"\t{ \"managedDeviceId\":\"" + device + "\",\"reason\":\"<\\u2028\"}", `[]`, `{}`, `{"id":"a"`,
		"\ufeff{\"managedDeviceId\":\"" + device + "\"}", `{"specversion":"1.0","id":"a","source":"b","type":"c","data":{"managedDeviceId":"` + device + `"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Prepare(data)
		before, beforeErr := request.Decode(request.Source{Data: data})
		if err != nil {
			if beforeErr == nil && len(data) < request.MaxBytes/8 {
				t.Errorf("%q was refused: %v", data, err)
			}
			return
		}
		after, err := request.Decode(request.Source{Data: s.Data})
		if err != nil || beforeErr != nil || after.ID != s.ID || !after.IDGiven || s.Named == before.IDGiven || !json.Valid(s.Data) {
			t.Fatalf("%q became %q: %v", data, s.Data, err)
		}
		after.ID, after.IDGiven = before.ID, before.IDGiven
		if after != before {
			t.Errorf("%q became another request, %q", data, s.Data)
		}
	})
}
