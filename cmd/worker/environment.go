package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"passcode-worker/internal/setting"
)

// variables lists the environment variables of a command.
func variables(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type.Kind() == reflect.Struct {
			out = append(out, variables(f.Type)...)
		}
		if env := f.Tag.Get("env"); env != "" {
			out = append(out, env)
		}
	}
	return out
}

// forgetEmpty makes an empty variable, or one of white space only, count as not
// set, which is what a compose file means by it.
func forgetEmpty(names []string) {
	for _, name := range names {
		if value, err := setting.Text(os.Getenv(name)); value == "" && err == nil {
			_ = os.Unsetenv(name) // fails for impossible names only
		}
	}
}

// unknownVariables finds environment variables that look like ours and are
// not: a mistyped name would else be passed over in silence.
func unknownVariables(known, environ []string) []string {
	var out []string
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "WORKER_") && value != "" && !slices.Contains(known, name) && !ofService(name, value) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func unknownVariable(name string) string {
	return "the environment variable " + name + " is unknown and has no effect; see worker run --help"
}

// serviceVariable is what Kubernetes sets for the ports of each Service. One
// called worker, or worker-metrics, makes names that look like ours.
// Source: Kubernetes, "Service", environment variables.
var serviceVariable = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

func ofService(name, value string) bool {
	return serviceVariable.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}
