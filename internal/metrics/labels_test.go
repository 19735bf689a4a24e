package metrics

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"passcode-worker/internal/hold"
	"passcode-worker/internal/verdict"
)

// A constant that is not in its list would panic the worker when it is used
// the first time, which may be weeks after its release.
func TestListsHoldEveryConstant(t *testing.T) {
	lists := map[string][]string{
		"Outcome":      values(Outcomes()),
		"Reason":       values(verdict.Reasons()),
		"Result":       values(verdict.Results()),
		"Verification": values(verdict.Verifications()),
		"TokenResult":  values(TokenResults()),
		"Cause":        values(hold.Causes()),
	}
	declared := make(map[string][]string)
	for _, name := range []string{"labels.go", "../verdict/labels.go", "../hold/hold.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		constants(t, file, lists, declared)
	}
	if len(declared) != len(lists) {
		t.Errorf("%d types have constants, %d have a list", len(declared), len(lists))
	}
	for kind, want := range declared {
		if !slices.Equal(lists[kind], want) {
			t.Errorf("%s: list %q, constants %q", kind, lists[kind], want)
		}
	}
}

// constants notes the values of a file's constants by their type.
func constants(t *testing.T, file *ast.File, lists, declared map[string][]string) {
	t.Helper()
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || lists[fmt.Sprint(spec.Type)] == nil {
			return true
		}
		for _, v := range spec.Values {
			value, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kind := spec.Type.(*ast.Ident).Name
			declared[kind] = append(declared[kind], value)
		}
		return true
	})
}

func values[K ~string](list []K) []string {
	var s []string
	for _, v := range list {
		s = append(s, string(v))
	}
	return s
}
