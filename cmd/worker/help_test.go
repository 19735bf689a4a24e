package main

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// shown is a help text with each option on one line.
func shown(text string) map[string]string {
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		line = strings.TrimPrefix(line, "-o, ")
		if f, _, _ := strings.Cut(line, "="); strings.HasPrefix(f, "--") || strings.HasPrefix(line, "-h") {
			name, _, _ = strings.Cut(f, " ")
		}
		if line == "" {
			name = ""
		}
		if name != "" {
			out[name] = strings.TrimSpace(out[name] + " " + line)
		}
	}
	return out
}

// options lists the flags of a command: its variable and default by its flag.
func options(t reflect.Type) map[string][2]string {
	out := map[string][2]string{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			for name, o := range options(f.Type) {
				out[name] = o
			}
			continue
		}
		if _, arg := f.Tag.Lookup("arg"); arg {
			continue
		}
		env := f.Tag.Get("env")
		name := flagOf(env)
		if env == "" {
			// A flag without a variable: MaxBytes is --max-bytes.
			name = "--" + strings.ToLower(innerCapital.ReplaceAllString(f.Name, "$1-$2"))
		}
		out[name] = [2]string{env, os.Expand(f.Tag.Get("default"), func(name string) string { return defaults()[name] })}
	}
	return out
}

var innerCapital = regexp.MustCompile(`([a-z])([A-Z])`)

var defaultOf = regexp.MustCompile(`Default: (\S+?)\.?( \(\$\w+\))?\.?$`)

func TestHelpOfCommands(t *testing.T) {
	for name, typ := range map[string]reflect.Type{
		"run": reflect.TypeFor[runCmd](), "setup": reflect.TypeFor[setupCmd](), "check": reflect.TypeFor[checkCmd](),
		"send": reflect.TypeFor[sendCmd](), "status": reflect.TypeFor[statusCmd](), "pause": reflect.TypeFor[pauseCmd](),
		"resume": reflect.TypeFor[resumeCmd](), "dead list": reflect.TypeFor[deadListCmd](), "dead show": reflect.TypeFor[deadShowCmd](),
		"dead redrive": reflect.TypeFor[deadRedriveCmd](), "dead remove": reflect.TypeFor[deadRemoveCmd](),
		"outcome list": reflect.TypeFor[outcomeListCmd](), "outcome show": reflect.TypeFor[outcomeShowCmd](), "outcome follow": reflect.TypeFor[outcomeFollowCmd](),
	} {
		t.Run(name, func(t *testing.T) {
			r := call(t, nil, append(strings.Fields(name), "--help")...)
			usage := regexp.MustCompile("^Usage: worker " + name + `( \[<id>( \.\.\.)?\]| <id> \.\.\.)? \[flags\]\n`)
			if r.code != exitDone || r.err != "" || !usage.MatchString(r.out) {
				t.Errorf("status %d, standard error %q, standard output:\n%s", r.code, r.err, r.out)
			}
			lines := shown(r.out)
			for f, o := range options(typ) {
				line, ok := lines[f]
				if !ok || o[0] != "" && strings.Count(r.out, "$"+o[0]+")") != 1 {
					t.Errorf("%s, %s: not in the help exactly once: %q", f, o[0], line)
				}
				got := ""
				if m := defaultOf.FindStringSubmatch(line); m != nil {
					got = m[1]
				}
				if got != o[1] || strings.Count(line, "Default:") > 1 {
					t.Errorf("%s: the help gives the default %q, it is %q: %s", f, got, o[1], line)
				}
			}
			if len(lines) != len(options(typ))+1 {
				t.Errorf("%d options in the help, %d in the command", len(lines)-1, len(options(typ)))
			}
		})
	}
}

func TestUsage(t *testing.T) {
	const noValue = "its value is missing; if the value begins with a hyphen, write --flag=value\nTry: worker run --help\n"
	for _, c := range []struct {
		args []string
		code int
		out  string // beginning of standard output
		err  string // standard error
	}{
		{[]string{"--help"}, exitDone, "Usage: worker <command>\n", ""},
		{[]string{"-h"}, exitDone, "Usage: worker <command>\n", ""},
		{[]string{"version", "--help"}, exitDone, "Usage: worker version\n", ""},
		{nil, exitUsage, "", "worker: expected one of \"run\", \"setup\", \"check\", \"send\", \"status\", ...\nTry: worker --help\n"},
		{[]string{"bogus"}, exitUsage, "", "worker: unexpected argument bogus\nTry: worker --help\n"},
		{[]string{"--bogus"}, exitUsage, "", "worker: unknown flag --bogus\nTry: worker --help\n"},
		{[]string{"run", "--bogus"}, exitUsage, "", "worker: unknown flag --bogus\nTry: worker run --help\n"},
		{[]string{"run", "now"}, exitUsage, "", "worker: unexpected argument now\nTry: worker run --help\n"},
		{[]string{"setup", "--rate=1/1s"}, exitUsage, "", "worker: unknown flag --rate\nTry: worker setup --help\n"},
		{[]string{"dead", "redrive", "--bogus"}, exitUsage, "", "worker: unknown flag --bogus\nTry: worker dead redrive --help\n"},
		{[]string{"status", "a", "b"}, exitUsage, "", "worker: unexpected argument b\nTry: worker status --help\n"},
		{[]string{"run", "--rate"}, exitUsage, "", "worker: --rate: " + noValue},
		{[]string{"run", "--nats-token", "--rate=1/1s"}, exitUsage, "", "worker: --nats-token: " + noValue},
		{[]string{"run", "--nats-token", "-s3cret"}, exitUsage, "", "worker: --nats-token: " + noValue},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			r := call(t, nil, c.args...)
			if r.code != c.code || !strings.HasPrefix(r.out, c.out) || (c.out == "") != (r.out == "") || r.err != c.err {
				t.Errorf("status %d, standard output:\n%s\nstandard error:\n%s", r.code, r.out, r.err)
			}
		})
	}
	r := call(t, nil, "--help")
	for _, name := range []string{"run", "setup", "check", "send", "status", "outcome list", "outcome show", "outcome follow",
		"dead list", "dead show", "dead redrive", "dead remove", "pause", "resume", "version"} {
		if !strings.Contains(r.out, "\n  "+name+" ") {
			t.Errorf("the command %s is missing:\n%s", name, r.out)
		}
	}
}

func TestVersion(t *testing.T) {
	r := call(t, nil, "version")
	want := regexp.MustCompile(`^worker dev, revision \S+, ` + regexp.QuoteMeta(runtime.Version()) + "\n$")
	if r.code != exitDone || r.err != "" || !want.MatchString(r.out) {
		t.Errorf("status %d, standard output %q, standard error %q", r.code, r.out, r.err)
	}
}

// TestManualNamesEveryOption compares the tables of the manual with the command
// line, defaults included, and the README's list of variables with both.
func TestManualNamesEveryOption(t *testing.T) {
	page := func(name string) string {
		t.Helper()
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	configuration := page("docs/configuration.md")
	_, list, ok := strings.Cut(page("README.md"), "\n## Variables\n")
	if !ok {
		t.Fatal("the README has no list of variables")
	}
	list, _, _ = strings.Cut(list, "\n## ")
	all := variables(reflect.TypeFor[cli]())
	for _, name := range all {
		if strings.Count(configuration, "\n| `"+name+"` | `--") != 1 {
			t.Errorf("%s has not one row", name)
		}
		if strings.Count(list, "`"+name+"`") != 1 {
			t.Errorf("the README does not name %s once", name)
		}
	}
	for _, m := range regexp.MustCompile("`((?:WORKER|NATS|AZURE|GRAPH)_[A-Z0-9_]+)`").FindAllStringSubmatch(list, -1) {
		if !slices.Contains(all, m[1]) {
			t.Errorf("the README names %s, which is no variable", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z0-9_]+)` \\| `--").FindAllStringSubmatch(configuration, -1) {
		if !slices.Contains(all, m[1]) {
			t.Errorf("there is a row for %s, which is no variable", m[1])
		}
	}
	for flag, o := range options(reflect.TypeFor[runCmd]()) {
		if row := fmt.Sprintf("\n| `%s` | `%s` | `%s` | ", o[0], flag, o[1]); o[1] != "" && !strings.Contains(configuration, row) {
			t.Errorf("there is no row that begins with %q", row)
		}
	}
}

func texts[T ~string](list []T) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}
