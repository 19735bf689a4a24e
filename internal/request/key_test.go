package request

import (
	"strings"
	"testing"
)

func TestEscapeID(t *testing.T) {
	t.Parallel()
	for id, key := range map[string]string{
		"":            "",
		"INC0012345":  "INC0012345",
		"aZ09_-":      "aZ09_-",
		"a.b":         "a=2Eb",
		"a=2Eb":       "a=3D2Eb",
		"*.>":         "=2A=2E=3E",
		"é /\x00\xff": "=C3=A9=20=2F=00=FF",
		"REQ-42":      "REQ-42",
		"..=":         "=2E=2E=3D",
		"\r\nX: 1":    "=0D=0AX=3A=201",
	} {
		if got := EscapeID(id); got != key {
			t.Errorf("EscapeID(%q) = %q, want %q", id, got, key)
		}
		if got := (Request{ID: id}).Key(); got != key {
			t.Errorf("Key of %q = %q, want %q", id, got, key)
		}
		if got, err := UnescapeID(key); err != nil || got != id {
			t.Errorf("UnescapeID(%q) = %q, %v, want %q", key, got, err, id)
		}
	}
}

func TestUnescapeIDRefuses(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"=", "=2", "a=", "a=2", "=2e", "=GG", "=2G", "=G2", "==", "=3D=", "=41", "=2D", "=5F", "=30",
		"a.b", "a b", "é", "\x00", "*", ">", "a/b", strings.Repeat("=", 300),
	} {
		if got, err := UnescapeID(key); err == nil || got != "" || err.Error() != "not an escaped id" {
			t.Errorf("UnescapeID(%q) = %q, %v", key, got, err)
		}
	}
}

func FuzzEscapeID(f *testing.F) {
	for _, s := range []string{"", "INC1", "a.b", "=2E", "=", "é\x00\xff", "=41", "=2e", "a="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key := EscapeID(s)
		if strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_=-") != "" {
			t.Errorf("EscapeID(%q) = %q", s, key)
		}
		if back, err := UnescapeID(key); err != nil || back != s {
			t.Errorf("UnescapeID(EscapeID(%q)) = %q, %v", s, back, err)
		}
		// A key that is taken must be the only one of its id.
		if id, err := UnescapeID(s); err == nil && EscapeID(id) != s {
			t.Errorf("UnescapeID(%q) = %q, whose key is %q", s, id, EscapeID(id))
		}
	})
}
