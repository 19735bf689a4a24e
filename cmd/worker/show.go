package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// printer writes the results of a command: lines for people, or JSON.
type printer struct {
	out    io.Writer
	json   bool
	colour bool
	width  int   // of the terminal; 0: it is not known or there is none, so no row is cut
	failed error // the first failure to write
}

// newPrinter makes a printer. It colours text only on a terminal, and not if NO_COLOR is
// set or TERM is dumb.
func newPrinter(out io.Writer, asJSON bool) *printer {
	p := &printer{out: out, json: asJSON}
	if f, ok := out.(*os.File); ok && !asJSON && term.IsTerminal(int(f.Fd())) {
		p.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		p.width, _, _ = term.GetSize(int(f.Fd())) // 0 if it is not known
	}
	return p
}

func (p *printer) write(b []byte) {
	if _, err := p.out.Write(b); err != nil && p.failed == nil {
		p.failed = fmt.Errorf("write the result: %w", err)
	}
}

// line writes one line for people. Text from outside must have gone through plain.
func (p *printer) line(format string, args ...any) {
	p.write([]byte(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n"))
}

// object writes one line of JSON. It writes what a terminal could take for a command as
// \uXXXX, which JSON does not require.
func (p *printer) object(v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		p.failed = fmt.Errorf("write the result: %w", err)
		return
	}
	p.write(append(jsonPlain(bytes.TrimRight(b.Bytes(), "\n")), '\n'))
}

// jsonPlain writes hidden characters as \uXXXX. In valid JSON they occur only within
// strings.
func jsonPlain(in []byte) []byte {
	if !bytes.ContainsFunc(in, hidden) {
		return in
	}
	out := make([]byte, 0, len(in)+16)
	for len(in) > 0 {
		r, size := utf8.DecodeRune(in)
		if hidden(r) {
			out = append(out, escape(r, true)...)
		} else {
			out = append(out, in[:size]...)
		}
		in = in[size:]
	}
	return out
}

// hidden reports whether a character does not simply show: a command to the terminal, one
// that changes the direction of the text, or one without width.
func hidden(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }

func escape(r rune, asJSON bool) string {
	switch {
	case r < 0x10000:
		return fmt.Sprintf(`\u%04x`, r)
	case asJSON:
		const base, high, low = 0x10000, 0xd800, 0xdc00
		return fmt.Sprintf(`\u%04x\u%04x`, high+(r-base)>>10, low+(r-base)&0x3ff)
	}
	return fmt.Sprintf(`\U%08x`, r)
}

// plain makes text from outside safe for a terminal: it escapes hidden characters.
func plain(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case hidden(r):
			b.WriteString(escape(r, false))
		default:
			b.WriteRune(r)
		}
		s = s[size:]
	}
	return b.String()
}

// column is one column of a table. A table is written line by line, however
// long it is, so its widths are fixed.
type column struct {
	title string
	width int
	right bool
}

// row writes one line of a table, cut to the width of the terminal. The columns that
// matter most come first.
func (p *printer) row(columns []column, values ...string) {
	s := strings.TrimRight(cells(columns, values...), " ")
	if p.width > 0 {
		s = runewidth.Truncate(s, p.width, "…")
	}
	p.line("%s", s)
}

// cells lays out one line of a table. It never cuts a number: that would change it.
func cells(columns []column, values ...string) string {
	var b strings.Builder
	for i, c := range columns {
		s := plain(values[i])
		if i > 0 {
			b.WriteString("  ")
		}
		if c.right {
			b.WriteString(runewidth.FillLeft(s, c.width))
		} else {
			b.WriteString(runewidth.FillRight(runewidth.Truncate(s, c.width, "…"), c.width))
		}
	}
	return b.String()
}

func titles(columns []column) (out []string) {
	for _, c := range columns {
		out = append(out, c.title)
	}
	return out
}

// Colours of a terminal.
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	normal = "\x1b[0m"
)

func (p *printer) coloured(colour, s string) string {
	if !p.colour {
		return s
	}
	return colour + s + normal
}

// count writes a number with its thousands separated by commas.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// span writes a duration without false precision.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// instant writes a time for people, in UTC.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
