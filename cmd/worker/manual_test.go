package main

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"passcode-worker/internal/hold"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/verdict"
)

// manual is each page of the manual by its path below the root.
func manual(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"README.md", "docs/*.md", "deploy/README.md"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[strings.TrimPrefix(filepath.ToSlash(f), "../../")] = string(text)
		}
	}
	return out
}

// fenced returns the fenced blocks of a page that a shell may be given, each as its lines.
func fenced(page string) (out [][]string) {
	var block []string
	in, language := false, ""
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		mark, isMark := strings.CutPrefix(line, "```")
		switch {
		case isMark && in:
			if slices.Contains([]string{"", "sh", "bash", "console"}, language) {
				out = append(out, block)
			}
			in = false
		case isMark:
			in, language, block = true, mark, nil
		case in:
			block = append(block, line)
		}
	}
	return out
}

// commandLines returns what a reader would type of a fenced block. Where lines
// begin with a prompt, the others are output. A line that ends with a backslash goes on.
func commandLines(block []string) (out []string) {
	prompted := slices.ContainsFunc(block, func(l string) bool { return strings.HasPrefix(l, "$ ") })
	for i := 0; i < len(block); i++ {
		line, ok := strings.CutPrefix(block[i], "$ ")
		if prompted && !ok {
			continue
		}
		for strings.HasSuffix(line, `\`) && i+1 < len(block) {
			i++
			line = strings.TrimSuffix(line, `\`) + " " + block[i]
		}
		out = append(out, line)
	}
	return out
}

// shellWords splits a line into the commands of a shell, and each into its words.
func shellWords(line string) (out [][]string) {
	var command []string
	var word strings.Builder
	started := false
	endWord := func() {
		if started {
			command = append(command, word.String())
		}
		word.Reset()
		started = false
	}
	endCommand := func() {
		endWord()
		if command != nil {
			out = append(out, command)
		}
		command = nil
	}
	quote := rune(0)
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, started = c, true
		case c == '#' && !started:
			endCommand()
			return out
		case c == ';' || c == '|' || c == '&':
			endCommand()
		case c == ' ' || c == '\t':
			endWord()
		default:
			started = true
			word.WriteRune(c)
		}
	}
	endCommand()
	return out
}

var assignment = regexp.MustCompile(`^[A-Z_]+=`)

// calls returns the arguments of each call of the worker that a page shows in fenced blocks.
func calls(page string) (out [][]string) {
	for _, block := range fenced(page) {
		for _, line := range commandLines(block) {
			for _, command := range shellWords(line) {
				for len(command) > 0 && (assignment.MatchString(command[0]) || command[0] == "exec" || command[0] == "sudo") {
					command = command[1:]
				}
				if len(command) < 2 || filepath.Base(command[0]) != "worker" {
					continue
				}
				args := command[1:]
				if i := slices.IndexFunc(args, func(w string) bool { return strings.HasPrefix(w, ">") || strings.HasPrefix(w, "<") }); i >= 0 {
					args = args[:i]
				}
				out = append(out, args)
			}
		}
	}
	return out
}

func parser(t *testing.T) *kong.Kong {
	t.Helper()
	p, err := newParser(&cli{}, streams{io.Discard, io.Discard}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// leaves are the commands that can be run, by their full names.
func leaves(n *kong.Node) (out []string) {
	for _, l := range n.Leaves(true) {
		path := l.Name
		for p := l.Parent; p != nil && p.Parent != nil; p = p.Parent {
			path = p.Name + " " + path
		}
		out = append(out, path)
	}
	return out
}

// Each call of the worker that the manual shows is one that the program takes.
func TestManualCommandsParse(t *testing.T) {
	n := 0
	shown := map[string]bool{}
	for page, text := range manual(t) {
		for _, args := range calls(text) {
			n++
			command, err := parser(t).Parse(args)
			if err != nil {
				t.Errorf("%s: worker %q: %v", page, args, err)
				continue
			}
			shown[name(command)] = true
		}
	}
	if n < 25 {
		t.Errorf("only %d commands were found", n)
	}
	for _, leaf := range []string{"run", "setup", "check", "send", "status", "outcome list", "outcome show", "outcome follow", "pause", "resume"} {
		if !shown[leaf] {
			t.Errorf("no page shows worker %s: the commands are not found any more, or it is not explained", leaf)
		}
	}
}

var inline = regexp.MustCompile("`worker ([^`]+)`")

// What the manual calls a command in its sentences is one, and its flags are that command's.
// Values, names in capitals and a part of a command are taken as they are.
func TestManualMentionsParse(t *testing.T) {
	n := 0
	model := parser(t).Model.Node
	for page, text := range manual(t) {
		for i, part := range strings.Split(text, "```") {
			if i%2 == 1 {
				continue // a fenced block
			}
			for _, m := range inline.FindAllStringSubmatch(part, -1) {
				n++
				at, flags := model, model.AllFlags(false)
				for _, w := range strings.Fields(m[1]) {
					flag, isFlag := strings.CutPrefix(w, "--")
					flag, _, _ = strings.Cut(flag, "=")
					child := slices.IndexFunc(at.Children, func(c *kong.Node) bool { return c.Name == w })
					switch {
					case isFlag:
						if !slices.ContainsFunc(flags, func(group []*kong.Flag) bool {
							return slices.ContainsFunc(group, func(f *kong.Flag) bool { return f.Name == flag })
						}) {
							t.Errorf("%s: `worker %s`: there is no --%s", page, m[1], flag)
						}
					case child >= 0:
						at = at.Children[child]
						flags = at.AllFlags(false)
					case len(at.Children) > 0 && w != strings.ToUpper(w):
						t.Errorf("%s: `worker %s`: %s is no command", page, m[1], w)
					}
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d were found", n)
	}
}

// The shapes of a command that a page may have are all found.
func TestCalls(t *testing.T) {
	page := "text\n```\n$ A=b bin/worker send --id 'a b' \\\n    --wait; echo \"exit $?\"\nworker: no\nworker output\n```\n" +
		"```\nworker setup && worker check   # worker run\necho x | worker send --file - > out\n```\nworker bogus\n```mermaid\nworker --> NATS\n```\n"
	want := [][]string{{"send", "--id", "a b", "--wait"}, {"setup"}, {"check"}, {"send", "--file", "-"}}
	if got := calls(page); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%q", got)
	}
}

// tables are the tables of a page: their rows, the head first, each as its cells.
func tables(page string) (out [][][]string) {
	var table [][]string
	for line := range strings.Lines(page + "\n\n") {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "|") {
			cells := strings.Split(strings.Trim(strings.ReplaceAll(line, `\|`, "/"), "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			if !strings.HasPrefix(cells[0], "--") {
				table = append(table, cells)
			}
		} else if table != nil {
			out, table = append(out, table), nil
		}
	}
	return out
}

var word = regexp.MustCompile("`([^`]+)`")

// quoted are the words in code of a text.
func quoted(text string) (out []string) {
	for _, m := range word.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

// The manual has a row for each word of a closed list, and the tables with these rows have no other.
func TestManualListsAreClosed(t *testing.T) {
	pages := manual(t)
	for page, want := range map[string][]string{
		"docs/dead-letters.md": texts(verdict.Reasons()),
		"docs/rate.md":         texts(hold.Causes()),
		"docs/outcomes.md":     texts(outcome.All()),
		"docs/tools.md":        prefixed("worker ", leaves(parser(t).Model.Node)),
		"docs/operation.md":    {strconv.Itoa(exitDone), strconv.Itoa(exitFailed), strconv.Itoa(exitUsage), strconv.Itoa(exitKilled)},
	} {
		var got []string
		for _, table := range tables(pages[page]) {
			var first []string
			for _, cells := range table[1:] {
				first = append(first, strings.Trim(cells[0], "`"))
			}
			if slices.ContainsFunc(first, func(w string) bool { return slices.Contains(want, w) }) {
				got = append(got, first...)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s has rows for %q, the program has %q", page, got, want)
		}
	}
}

func prefixed(prefix string, list []string) (out []string) {
	for _, s := range list {
		out = append(out, prefix+s)
	}
	return out
}

// goldenSeries are the metrics of the golden exposition: the values that each label has there, by metric and label.
func goldenSeries(t *testing.T) map[string]map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../internal/metrics/testdata/metrics.golden")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE passcode_reset_(\w+) `).FindAllStringSubmatch(string(text), -1) {
		out[m[1]] = map[string][]string{}
	}
	for _, m := range regexp.MustCompile(`(?m)^passcode_reset_(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? `).FindAllStringSubmatch(string(text), -1) {
		for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			if labels := out[m[1]]; l[1] != "le" && !slices.Contains(labels[l[1]], l[2]) {
				labels[l[1]] = append(labels[l[1]], l[2])
			}
		}
	}
	return out
}

var metricName = regexp.MustCompile(`\bpasscode_reset_(\w+)`)

// The table of metrics has each of them with its labels, and those values that it names; and no page names another.
func TestManualNamesEveryMetric(t *testing.T) {
	all := goldenSeries(t)
	pages := manual(t)
	seen := map[string]bool{}
	var table [][]string
	for _, t := range tables(pages["docs/operation.md"]) {
		if len(t[0]) == 3 && t[0][0] == "name" && t[0][1] == "labels" {
			table = t[1:]
		}
	}
	for _, cells := range table {
		names, _, ofTenant := strings.Cut(cells[0], "*t*")
		for _, metric := range quoted(names) {
			labels, ok := all[metric]
			if !ok || seen[metric] {
				t.Errorf("the table has %s, which is no metric or is there twice", metric)
				continue
			}
			seen[metric] = true
			want := slices.DeleteFunc(slices.Sorted(maps.Keys(labels)), func(l string) bool { return l == "tenant" })
			if _, has := labels["tenant"]; has != ofTenant {
				t.Errorf("%s has the label tenant: %t; the table says %t", metric, has, ofTenant)
			}
			named, values, hasValues := strings.Cut(cells[1], ":")
			got := quoted(named)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s has the labels %q, the table says %q", metric, want, got)
			}
			if !hasValues || len(got) != 1 {
				continue
			}
			is, says := slices.Sorted(slices.Values(labels[got[0]])), slices.Sorted(slices.Values(quoted(values)))
			if !slices.Equal(is, says) {
				t.Errorf("%s: %s is one of %q, the table says %q", metric, got[0], is, says)
			}
		}
	}
	for metric := range all {
		if !seen[metric] {
			t.Errorf("%s has no row", metric)
		}
	}
	for page, text := range pages {
		for _, m := range metricName.FindAllStringSubmatch(text, -1) {
			metric := m[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if _, ok := all[strings.TrimSuffix(metric, suffix)]; ok {
					metric = strings.TrimSuffix(metric, suffix)
				}
			}
			// grep is given the beginning of a name.
			if _, ok := all[metric]; !ok && !strings.Contains(text, "'^"+m[0]+"'") {
				t.Errorf("%s names %s, which is no metric", page, m[0])
			}
		}
	}
}
