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

// forgetEmpty unsets variables that are empty or hold only white space: a compose
// file sets a variable that it has no value for to an empty one.
func forgetEmpty(names []string) {
	for _, name := range names {
		if value, err := setting.Text(os.Getenv(name)); value == "" && err == nil {
			_ = os.Unsetenv(name) // fails only for impossible names
		}
	}
}

// unknownVariables finds environment variables that look like the worker's but are
// not, so that a mistyped name does not go unnoticed.
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

// serviceVariable matches what Kubernetes sets for the ports of each Service. For a
// Service called worker, or worker-metrics, the names look like the worker's.
// Source: Kubernetes, "Service", environment variables.
var serviceVariable = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

func ofService(name, value string) bool {
	return serviceVariable.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}
