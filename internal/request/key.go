package request

import (
	"errors"
	"strings"
)

const hexDigits = "0123456789ABCDEF"

var errKey = errors.New("not an escaped id")

// EscapeID writes an id as one token of a NATS subject or key: each byte outside [A-Za-z0-9_-]
// becomes =XX in upper-case hex. Different ids have different keys, and "" stays "".
func EscapeID(id string) string {
	special := 0
	for i := range len(id) {
		if !isPlain(id[i]) {
			special++
		}
	}
	if special == 0 {
		return id
	}
	var b strings.Builder
	b.Grow(len(id) + 2*special)
	for i := range len(id) {
		if c := id[i]; isPlain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('=')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

// UnescapeID undoes EscapeID. It refuses whatever EscapeID does not write, such as =2d or =41, so
// that an id has only one key; the error holds nothing of the key.
func UnescapeID(key string) (string, error) {
	var b strings.Builder
	b.Grow(len(key))
	for i := 0; i < len(key); i++ {
		c := key[i]
		if isPlain(c) {
			b.WriteByte(c)
			continue
		}
		if c != '=' || i+2 >= len(key) {
			return "", errKey
		}
		hi := strings.IndexByte(hexDigits, key[i+1])
		lo := strings.IndexByte(hexDigits, key[i+2])
		if hi < 0 || lo < 0 {
			return "", errKey
		}
		c = byte(hi<<4 | lo)
		if isPlain(c) {
			return "", errKey
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String(), nil
}
