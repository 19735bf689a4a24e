package bucket

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestReadAck(t *testing.T) {
	for _, c := range []struct {
		data     string
		revision uint64
		plain    bool
	}{
		{`{"stream":"KV_records","seq":42}`, 42, true},
		{`{"stream":"KV_records","domain":"hub","seq":42}`, 42, false},
		{`{"stream":"KV_records", "seq": 42}`, 42, false},
		{`{"stream":"KV_records","seq":42,"duplicate":true}`, 42, false},
		{`{"stream":"KV_records","seq":0}`, 0, false},
		{`{"stream":"","seq":42}`, 0, false},
		{`{"stream":"KV_records","seq":42`, 0, false},
		{`{"stream":"KV_records","seq":99999999999999999999}`, 0, false},
		{`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"stream":"KV_records","seq":0}`, 0, false},
		{``, 0, false},
	} {
		got, err := readAck([]byte(c.data))
		if got != c.revision || (err == nil) != (c.revision > 0) || (plainAck([]byte(c.data)) > 0) != c.plain {
			t.Errorf("%s: %d, %v", c.data, got, err)
		}
	}
}

// FuzzPlainAck compares what is read by hand with what JSON says.
func FuzzPlainAck(f *testing.F) {
	f.Add([]byte(`{"stream":"KV_records","seq":42}`))
	f.Add([]byte(`{"stream":"a\\","seq":42}`))
	f.Add([]byte(`{"stream":"a","seq":+42}`))
	f.Add([]byte(`{"stream":"a","seq":042}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := plainAck(data)
		if n == 0 {
			return
		}
		var ack jetstream.PubAck
		if err := json.Unmarshal(data, &ack); err != nil || ack.Sequence != n || ack.Stream == "" {
			t.Errorf("%q: %d instead of %+v, %v", data, n, ack, err)
		}
	})
}
