package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"Grüße 日本 👍 a\u0301":     "Grüße 日本 👍 a\u0301",
		"\x1b[31mred\x1b[0m":     `\u001b[31mred\u001b[0m`,
		"\u009b31m":              `\u009b31m`,
		"a\nb\tc\rd\x00\x7f":     `a\u000ab\u0009c\u000dd\u0000\u007f`,
		"abc\u202edef":           `abc\u202edef`,
		"\xff\xfe":               `\xff\xfe`,
		"\ufffd \u2028\ufeff":    `\ufffd \u2028\ufeff`,
		"tag \U000e0041":         `tag \U000e0041`,
		"no-break\u00a0space":    `no-break\u00a0space`,
		"zero\u200bwidth\u200dx": `zero\u200bwidth\u200dx`,
	} {
		if got := plain(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCells(t *testing.T) {
	columns := []column{{"A", 6, false}, {"N", 3, true}, {"LAST", 5, false}}
	for _, c := range []struct{ a, n, last, want string }{
		{"ab", "1", "x", "ab        1  x    "},
		{"abcdefgh", "12345", "日本語です", "abcde…  12345  日本…"},
		{"\x1b[2J", "", "\n", `\u001…       \u00…`},
	} {
		got := cells(columns, c.a, c.n, c.last)
		if got != c.want || runewidth.StringWidth(got) > 6+2+5+2+5 {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if got := cells(columns, titles(columns)...); got != "A         N  LAST " {
		t.Errorf("titles %q", got)
	}
	for width, want := range map[int]string{0: "日本      1  x\n", 80: "日本      1  x\n", 5: "日本…\n", 4: "日…\n"} {
		var b bytes.Buffer
		(&printer{out: &b, width: width}).row(columns, "日本", "1", "x")
		if b.String() != want {
			t.Errorf("in a width of %d: %q, want %q", width, b.String(), want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -999: "-999"} {
		if got := count(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

// TestColour: only on a terminal, and only where nobody minds.
func TestColour(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0) // the other end of a terminal is one, too
	if err != nil {
		t.Skip("no terminal can be made here: ", err)
	}
	defer terminal.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, but no terminal
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if !newPrinter(terminal, false).colour || newPrinter(null, false).colour || newPrinter(file, false).colour || newPrinter(&bytes.Buffer{}, false).colour || newPrinter(terminal, true).colour {
		t.Error("colour goes where it should not, or not where it should")
	}
	t.Setenv("NO_COLOR", "1")
	if newPrinter(terminal, false).colour {
		t.Error("NO_COLOR has no effect")
	}
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "dumb")
	if newPrinter(terminal, false).colour {
		t.Error("TERM=dumb has no effect")
	}
}

// FuzzPrinted: whatever a stranger wrote, nothing that a terminal obeys comes
// out, and JSON says the same as before.
func FuzzPrinted(f *testing.F) {
	for _, s := range []string{"", "\x1b]0;x\a", "\u009b", "\xff\u202e\U000e0041", "日本", "\\u001b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var out bytes.Buffer
		p := newPrinter(&out, true)
		p.object(map[string]string{"s": s})
		p.line("%s", cells([]column{{"", 10, false}}, s))
		p.line("%s", plain(s))
		if !utf8.Valid(out.Bytes()) || strings.ContainsFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%q came out as %q", s, out.String())
		}
		first, _, _ := strings.Cut(out.String(), "\n")
		var back map[string]string
		if err := json.Unmarshal([]byte(first), &back); err != nil || back["s"] != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) {
			t.Errorf("%q came back as %q: %v", s, back["s"], err)
		}
	})
}

// TestSome names a few of thousands.
func TestSome(t *testing.T) {
	t.Parallel()
	names := strings.Split(strings.Repeat("t,", 2020), ",")[:2020]
	if got := some(names); len(got) != 21 || got[20] != "and 2,000 more" || len(names) != 2020 || names[20] != "t" {
		t.Errorf("%q", got)
	}
	if got := some(names[:20]); len(got) != 20 {
		t.Errorf("%q", got)
	}
}
