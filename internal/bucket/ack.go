package bucket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// readAck reads the answer to a write.
func readAck(data []byte) (revision uint64, err error) {
	if n := plainAck(data); n > 0 {
		return n, nil
	}
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Stream   string              `json:"stream"`
		Sequence uint64              `json:"seq"`
	}
	switch err := json.Unmarshal(data, &ack); {
	case err != nil:
		return 0, jetstream.ErrInvalidJSAck
	case ack.Error != nil:
		return 0, fmt.Errorf("nats: %w", ack.Error)
	case ack.Stream == "" || ack.Sequence == 0:
		return 0, jetstream.ErrInvalidJSAck
	}
	return ack.Sequence, nil
}

// plainAck reads an answer of the form that a server gives to a write that it has
// stored, and else is 0. JSON would take as long as all else that is done here.
// Source: nats-server, server/stream.go, where it is written by hand.
func plainAck(data []byte) uint64 {
	const begin, sequence = `{"stream":"`, `","seq":`
	i := bytes.Index(data, []byte(sequence))
	if i <= len(begin) || !bytes.HasPrefix(data, []byte(begin)) || data[len(data)-1] != '}' ||
		bytes.ContainsFunc(data[len(begin):i], func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) {
		return 0
	}
	digits := string(data[i+len(sequence) : len(data)-1])
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || digits[0] == '0' {
		return 0
	}
	return n
}
