package setting

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// wide is a text as UTF-16 in little or big endian.
func wide(s string, big bool) string {
	var b bytes.Buffer
	for _, u := range utf16.Encode([]rune(s)) {
		if big {
			b.Write([]byte{byte(u >> 8), byte(u)})
		} else {
			b.Write([]byte{byte(u), byte(u >> 8)})
		}
	}
	return b.String()
}

const value = "s3c~ret.VALUE"

func TestText(t *testing.T) {
	t.Parallel()
	for _, given := range []string{
		value, value + "\n", " " + value, "\t" + value + "\r\n", "\uFEFF" + value + "\r\n", "\uFEFF\n " + value, value + "\uFEFF",
		"\u00A0" + value + "\u2028", "\u200B" + value + "\u200E", "\v\f" + value + "\u0085",
	} {
		if got, err := Text(given); got != value || err != nil {
			t.Errorf("%q: %q, %v", given, got, err)
		}
	}
	for _, given := range []string{"", " ", "\r\n", "\uFEFF", "\u200B\t"} {
		if got, err := Text(given); got != "" || err != nil {
			t.Errorf("%q: %q, %v", given, got, err)
		}
	}
	for _, given := range []string{"a b", "pass wörd", "a\u200Db", "--x"} {
		if got, err := Text(given); got != given || err != nil {
			t.Errorf("%q: %q, %v", given, got, err)
		}
	}
}

func TestTextThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		wide("\uFEFF"+value+"\r\n", false):   "UTF-16",
		wide("\uFEFF"+value, true):           "UTF-16",
		wide(value, false):                   "UTF-16",
		wide(value, true):                    "UTF-16",
		value + "\x00":                       "a control character, at byte 14",
		"s3c\x1b[Aret":                       "a control character, at byte 4",
		"s3c\tret":                           "a control character, at byte 4",
		value + "\x1a":                       "a control character",
		value + "\x7f":                       "a control character",
		"s3c\u0085ret":                       "a control character",
		value + "\n" + value:                 "more than one line",
		value + "\r" + value:                 "more than one line",
		"s3c\xE4ret":                         "not UTF-8",
		"s3c\uFFFDret":                       "lost",
		value + "\uFEFF" + value:             "byte order mark in the middle",
		"\xEF\xBB" + value:                   "not UTF-8",
		"\xFF\xFE\x00\x00s\x00\x00\x00":      "UTF-16", // and UTF-32
		" " + wide("\uFEFF"+value, false):    "not UTF-8",
		"\uFEFF" + value + "\x00\x00":        "a control character",
		"\uFEFF" + wide(value, false)[:2*10]: "control character",
	} {
		got, err := Text(given)
		if got != "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %q", given, got, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "s3c") || strings.Contains(err.Error(), "VALUE")) {
			t.Errorf("%q is quoted: %v", given, err)
		}
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	for content, want := range map[string]string{
		"\uFEFF" + value + "\r\n":          "",
		wide("\uFEFF"+value+"\r\n", false): "it is UTF-16 text",
		" \n":                              "is empty",
		"":                                 "is empty",
		"\uFEFF":                           "is empty",
		value + "\n#" + value:              "more than one line",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := File(path)
		if want == "" {
			if got != value || err != nil {
				t.Errorf("%q: %q, %v", content, got, err)
			}
			continue
		}
		if got != "" || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %q, %v; want %q and the path", content, got, err, want)
		}
	}
	for _, missing := range []string{path + "x", t.TempDir()} {
		if _, err := File(missing); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("%s: %v", missing, err)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	if got, err := Lines([]byte("\uFEFFa\r\n\uFEFFb\n")); string(got) != "a\r\nb\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Lines([]byte(wide("\uFEFFa\r\nb\n", false))); got != nil || err == nil {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzText(f *testing.F) {
	f.Add("\uFEFF" + value + "\r\n")
	f.Add(wide(value, true))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Text(s)
		if err != nil {
			return
		}
		if again, err := Text(got); again != got || err != nil {
			t.Errorf("%q: again it is %q, %v", got, again, err)
		}
		if !strings.Contains(s, got) || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) || strings.TrimSpace(got) != got {
			t.Errorf("%q: %q", s, got)
		}
	})
}
