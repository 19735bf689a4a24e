// Package docs_test holds the manual together: what links to what, and whether its tables render.
package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const root = ".."

// pages are all pages that people read, by their path below the root.
func pages(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "docs/*.md", "deploy/README.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			out = append(out, filepath.ToSlash(strings.TrimPrefix(f, root+string(filepath.Separator))))
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %q", out)
	}
	return out
}

// read returns the lines of a page. Those of code are empty.
func read(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(page)))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	fence := ""
	for i, line := range lines {
		mark := strings.TrimLeft(line, " ")
		switch {
		case fence == "" && strings.HasPrefix(mark, "```"):
			fence = mark[:len(mark)-len(strings.TrimLeft(mark, "`"))]
		case fence == "":
			continue
		case strings.TrimRight(mark, " ") == fence:
			fence = ""
		}
		lines[i] = ""
	}
	if fence != "" {
		t.Errorf("%s: code that does not end", page)
	}
	return lines
}

var (
	heading = regexp.MustCompile(`^#{1,6} +(.*?)(?: +#+)? *$`)
	code    = regexp.MustCompile("`+[^`]*`+")
	link    = regexp.MustCompile(`\[([^\[\]]*)\]\(([^()\s]*)\)`)
)

// anchors are the headings of a page as GitHub names them: small letters, digits, hyphens and underscores,
// a hyphen for each space, and a number behind what is there already.
func anchors(lines []string) map[string]bool {
	out := map[string]bool{}
	seen := map[string]int{}
	for _, line := range lines {
		m := heading.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, link.ReplaceAllString(m[1], "$1"))
		n := seen[name]
		seen[name]++
		if n > 0 {
			name = fmt.Sprintf("%s-%d", name, n)
		}
		out[name] = true
	}
	return out
}

// links are the targets of the links of a page.
func links(lines []string) (out []string) {
	// A link may go over the end of a line.
	text := code.ReplaceAllString(strings.Join(lines, "\n"), "code")
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		out = append(out, m[2])
	}
	return out
}

func TestLinks(t *testing.T) {
	t.Parallel()
	n := 0
	for _, page := range pages(t) {
		for _, target := range links(read(t, page)) {
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			n++
			file, anchor, hasAnchor := strings.Cut(target, "#")
			to := page
			if file != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(page), file))
			}
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(to))); err != nil {
				t.Errorf("%s: %s: there is no such file", page, target)
				continue
			}
			if hasAnchor && (!strings.HasSuffix(to, ".md") || !anchors(read(t, to))[anchor]) {
				t.Errorf("%s: %s: there is no such heading", page, target)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d links were found", n)
	}
}

// cells splits a row of a table as GitHub does: at each bar that has no backslash before it, also within code.
func cells(row string) []string {
	row = strings.TrimSpace(row)
	row = strings.TrimPrefix(row, "|")
	if strings.HasSuffix(row, "|") && !strings.HasSuffix(row, `\|`) {
		row = strings.TrimSuffix(row, "|")
	}
	return strings.Split(strings.ReplaceAll(row, `\|`, "/"), "|")
}

var delimiter = regexp.MustCompile(`^ *:?-+:? *$`)

func isDelimiter(row string) bool {
	return strings.Contains(row, "|") && !slices.ContainsFunc(cells(row), func(c string) bool { return !delimiter.MatchString(c) })
}

// faultsOfTables names what would not be rendered as a table, or not as it was meant.
func faultsOfTables(lines []string) (faults []string) {
	fault := func(i int, text string) {
		faults = append(faults, fmt.Sprintf("line %d: %s: %s", i+1, text, lines[i]))
	}
	row := func(i int) bool { return i < len(lines) && strings.HasPrefix(strings.TrimSpace(lines[i]), "|") }
	for i := 0; i < len(lines); i++ {
		if !row(i) {
			continue
		}
		if i > 0 && strings.TrimSpace(lines[i-1]) != "" && !row(i-1) {
			fault(i, "no empty line before the table")
		}
		if !row(i+1) || !isDelimiter(lines[i+1]) {
			fault(i, "a row without a table")
			for row(i + 1) {
				i++
			}
			continue
		}
		n := len(cells(lines[i]))
		for ; row(i); i++ {
			if got := len(cells(lines[i])); got != n {
				fault(i, fmt.Sprintf("%d cells, not %d", got, n))
			}
		}
		if i < len(lines) && strings.TrimSpace(lines[i]) != "" {
			fault(i, "no empty line behind the table")
		}
	}
	return faults
}

func TestTables(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		for _, f := range faultsOfTables(read(t, page)) {
			t.Errorf("%s, %s", page, f)
		}
	}
}

// Each fault that a table can have is seen.
func TestFaultsOfTables(t *testing.T) {
	t.Parallel()
	for text, faults := range map[string]int{
		"| a | b |\n|---|---|\n| 1 | 2 |\n":                0,
		"| a | b |\n|---|:-:|\n| `x \\| y` | |\n":          0,
		"- list\n\n  | a |\n  |---|\n  | 1 |\n":            0,
		"| a | b |\n| 1 | 2 |\n":                           1,
		"| a | b |\n|---|\n| 1 | 2 |\n":                    1,
		"| a | b |\n|---|---|\n| 1 |\n":                    1,
		"| a | b |\n|---|---|\n| `x | y` | 2 |\n":          1,
		"| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\n":   1,
		"words\n| a | b |\n|---|---|\n| 1 | 2 |\n":         1,
		"| a | b |\n|---|---|\n| 1 | 2 |\nand on\n":        1,
		"| a | b |\n|---|---|\n| 1 | 2 |\n\n\n|---|---|\n": 1,
	} {
		if got := faultsOfTables(strings.Split(text, "\n")); len(got) != faults {
			t.Errorf("%q: %q, want %d", text, got, faults)
		}
	}
}

// The README is short, and leads to every page.
func TestReadme(t *testing.T) {
	t.Parallel()
	lines := read(t, "README.md")
	if n := len(lines) - 1; n > 250 {
		t.Errorf("%d lines, at most 250", n)
	}
	_, manual, ok := strings.Cut(strings.Join(lines, "\n"), "\n## The manual\n")
	if !ok {
		t.Fatal("there is no map of the manual")
	}
	manual, _, _ = strings.Cut(manual, "\n## ")
	to := links(strings.Split(manual, "\n"))
	for _, page := range pages(t) {
		if page != "README.md" && page != "CONTRIBUTING.md" && !slices.Contains(to, page) {
			t.Errorf("the map does not lead to %s", page)
		}
	}
}

// Each page begins with what its reader can do afterwards.
func TestPurpose(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		if !strings.HasPrefix(page, "docs/") {
			continue
		}
		lines := read(t, page)
		if len(lines) < 3 || !strings.HasPrefix(lines[0], "# ") || lines[1] != "" || !strings.HasPrefix(lines[2], "After reading this page you can ") {
			t.Errorf("%s begins with %q", page, lines[:min(3, len(lines))])
		}
	}
}

var (
	mark       = regexp.MustCompile("^ *<!-- *(?:run|output)")
	markOfRun  = regexp.MustCompile("^ *<!-- run: .+ -->$")
	markOfShow = regexp.MustCompile("^ *<!-- output(?:: .+)? -->$")
)

// Each mark of docs/outputs.sh is one that the script knows, and a block follows where it shows something.
func TestMarks(t *testing.T) {
	t.Parallel()
	n := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(page)))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			switch {
			case !mark.MatchString(line), markOfRun.MatchString(line):
				continue
			case !markOfShow.MatchString(line):
				t.Errorf("%s: docs/outputs.sh does not know %q", page, line)
				continue
			}
			n++
			for i++; i < len(lines) && lines[i] == ""; i++ {
			}
			if i == len(lines) || !strings.HasPrefix(strings.TrimSpace(lines[i]), "```") {
				t.Errorf("%s: no fenced block follows %q", page, line)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d outputs are marked", n)
	}
}

var day = regexp.MustCompile(`\b20\d\d-\d\d-\d\d\b`)

// Each part of docs/performance.md that has figures says when they were measured, and by which command.
func TestFigures(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	figure := regexp.MustCompile(`\d ?(?:s|ms|MiB|KB|%)\b|\d ?%`)
	for _, part := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		if title == "Measure it yourself" || !figure.MatchString(body) {
			continue
		}
		n++
		if !day.MatchString(body) || !strings.Contains(body, "`go run ./cmd/sandbox bench") {
			t.Errorf("the figures under %q are without the date or the command that made them", title)
		}
	}
	if n == 0 {
		t.Error("no figures were found")
	}
}

var mention = regexp.MustCompile(`\bdocs/([a-z-]+\.md)(#[A-Za-z0-9_-]+)?`)

// What help texts, comments, alerts and dashboards say of a page is there, and nothing sends its reader into a section of the README.
func TestMentions(t *testing.T) {
	t.Parallel()
	n := 0
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") && name != ".github" || name == "bin" || name == "dist" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".go", ".yaml", ".json", ".conf", ".example", ".service", ".sh"}, filepath.Ext(path)) || filepath.Base(path) == "docs_test.go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range mention.FindAllStringSubmatch(string(text), -1) {
			n++
			page, anchor := "docs/"+m[1], strings.TrimPrefix(m[2], "#")
			if _, err := os.Stat(filepath.Join(root, page)); err != nil {
				t.Errorf("%s: there is no %s", path, page)
			} else if anchor != "" && !anchors(read(t, page))[anchor] {
				t.Errorf("%s: %s has no heading %q", path, page, anchor)
			}
		}
		if strings.Contains(string(text), "README.md#") {
			t.Errorf("%s: leads into a section of the README", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 40 {
		t.Errorf("only %d mentions were found", n)
	}
}
