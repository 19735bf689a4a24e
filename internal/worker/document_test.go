package worker

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFaultDocument: each test that docs/faults.md names exists, and each fault
// that is made at a step is in it.
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
	place := regexp.MustCompile("`(Test[^`]*)`|(?:cmd|internal)/[a-z]+|[;|]")
	for _, m := range place.FindAllStringSubmatch(string(doc), -1) {
		if m[1] == "" { // where the tests are that are named next
			pkg = m[0]
			continue
		}
		named++
		where := pkg
		if !strings.Contains(where, "/") {
			where = "internal/worker"
		}
		test, sub, _ := strings.Cut(m[1], "/")
		source := tests[where]
		if !strings.Contains(source, "func "+test+"(t *testing.T)") {
			t.Errorf("there is no %s in %s", test, where)
		}
		if test == "TestFaultPoints" && !made[m[1]] || sub != "" && test != "TestFaultPoints" && !strings.Contains(source, `"`+sub+`"`) {
			t.Errorf("%s has no case %q", test, sub)
		}
	}
	if named < 70 {
		t.Errorf("only %d tests were found in the document", named)
	}
}

// testSources are the tests of each package.
func testSources(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range []string{"cmd", "internal"} {
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
