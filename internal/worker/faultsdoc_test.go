package worker

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFaultDocument: each test that docs/faults.md names exists, each fault that is
// made at a step is in it, and each row on what can be forged names a test.
func TestFaultDocument(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	doc, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := testSources(t, root)
	made := map[string]bool{}
	for _, p := range points {
		for f := range p.ends {
			name := "TestFaultPoints/" + p.step + " " + string(f)
			made[name] = true
			if !strings.Contains(string(doc), "`"+name+"`") {
				t.Errorf("%s is not in the document", name)
			}
		}
	}
	pkg, named := "", 0
	place := regexp.MustCompile("`((?:Test|Fuzz)[^`]*)`|(?:cmd|internal)/[a-z]+|\\bdeploy: |[;|]")
	for _, m := range place.FindAllStringSubmatch(string(doc), -1) {
		if m[1] == "" { // where the tests are that are named next
			pkg = strings.TrimSuffix(m[0], ": ")
			continue
		}
		named++
		where := pkg
		if where == ";" || where == "|" || where == "" {
			where = "internal/worker"
		}
		test, sub, _ := strings.Cut(m[1], "/")
		source := tests[where]
		if !strings.Contains(source, "func "+test+"(t *testing.T)") && !strings.Contains(source, "func "+test+"(f *testing.F)") {
			t.Errorf("there is no %s in %s", test, where)
		}
		if test == "TestFaultPoints" && !made[m[1]] || sub != "" && test != "TestFaultPoints" && !strings.Contains(source, `"`+sub+`"`) {
			t.Errorf("%s has no case %q", test, sub)
		}
	}
	_, chapter, _ := strings.Cut(string(doc), "\n## What a publisher can forge\n")
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	rows := 0
	for line := range strings.Lines(chapter) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 || strings.Contains(line, "---") || strings.HasPrefix(line, "| what |") {
			continue
		}
		if rows++; !strings.Contains(cells[4], "`Test") && !strings.Contains(cells[4], "`Fuzz") {
			t.Errorf("no test shows this: %s", line)
		}
	}
	if rows < 30 {
		t.Errorf("only %d rows were found on what can be forged", rows)
	}
	if named < 110 {
		t.Errorf("only %d tests were found in the document", named)
	}
}

// testSources are the tests of each package.
func testSources(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range []string{"cmd", "deploy", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, filepath.Dir(path))
			out[filepath.ToSlash(rel)] += string(source)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}
