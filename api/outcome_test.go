package api_test

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"testing"
	"time"

	"passcode-worker/internal/outcome"
)

// TestOutcomeFields checks that the schema names each field of an outcome and each value
// of its closed lists, and no other.
func TestOutcomeFields(t *testing.T) {
	t.Parallel()
	schema := read(t, outcomeSchema)
	checkFields[outcome.Document](t, schema)
	list := func(field string) []string { return texts(t, at(t, schema, "properties", field, "enum")) }
	checkSame(t, "outcomes", list("outcome"), outcome.All())
	checkSame(t, "next steps", list("nextStep"), outcome.NextSteps())
	checkSame(t, "reasons", list("reason"), []outcome.Reason{outcome.WipePending, outcome.RetirePending, outcome.DeletePending,
		outcome.Wiped, outcome.Retired, outcome.Deleted})
	checkSame(t, "platforms", list("platform"), []outcome.Platform{outcome.Android, outcome.IOS, outcome.IPadOS, outcome.VisionOS,
		outcome.Windows, outcome.MacOS, outcome.Linux, outcome.ChromeOS, outcome.TvOS})
}

// TestOutcomesAgree checks documents as the worker writes them: of each outcome with each
// next step, and whole.
func TestOutcomesAgree(t *testing.T) {
	t.Parallel()
	schema := compile(t, outcomeSchema)
	all := []outcome.Document{wholeOutcome(t)}
	for _, o := range outcome.All() {
		d := outcome.Document{ID: "x", Tenant: "t", ManagedDeviceID: wholeOutcome(t).ManagedDeviceID, Outcome: o, Final: o.Final(), AcceptedAt: time.Now()}
		if d.Final {
			d.DecidedAt = time.Now()
		}
		for _, step := range outcome.NextSteps() {
			d.NextStep, d.Text = step, step.Text()
			all = append(all, d)
		}
	}
	for _, d := range all {
		data, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(schema, data); err != nil {
			t.Errorf("%s: %v", data, err)
		}
	}
}

// wholeOutcome returns a document with every field set.
func wholeOutcome(t *testing.T) outcome.Document {
	t.Helper()
	now := time.Now().UTC()
	d := outcome.Document{
		ID: "INC 1/é", Tenant: "default", ManagedDeviceID: "600d0000-0000-4000-8000-000000000001", Outcome: outcome.Failed, Final: true,
		AcceptedAt: now, StartedAt: now, DecidedAt: now.Add(time.Minute), DurationSeconds: 60, ErrorCode: -2147023728, ErrorCodeHex: "0x80070490",
		Reason: outcome.WipePending, Platform: outcome.Android, OwnerType: "company", LastSyncAt: now, ClientRequestID: "c", RequestedBy: "jo",
		NextStep: outcome.CheckPolicy, Text: outcome.CheckPolicy.Text(), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	for f := range fields[outcome.Document]() {
		if reflect.ValueOf(d).FieldByIndex(f.Index).IsZero() {
			t.Errorf("field %s is not set", f.Name)
		}
	}
	return d
}

// TestOutcomeSchemaRefuses checks that the schema says something: each of these is no
// outcome.
func TestOutcomeSchemaRefuses(t *testing.T) {
	t.Parallel()
	schema := compile(t, outcomeSchema)
	for _, change := range []string{
		`"outcome":"lost"`, `"outcome":"pending"`, `"final":false`, `"nextStep":"hope"`, `"text":""`, `"errorCode":4294967296`, `"errorCodeHex":"0x1"`,
		`"platform":"Symbian"`, `"reason":""`, `"ownerType":"unknown"`, `"acceptedAt":"today"`, `"durationSeconds":-1`, `"managedDeviceId":""`,
		`"id":""`, `"outcome":"active","final":false`, `"traceparent":"x"`,
	} {
		checkRefused(t, schema, wholeOutcome(t), change)
	}
}

// TestOutcomeExamplesSayWhatTheWorkerSays checks the words of each example.
func TestOutcomeExamplesSayWhatTheWorkerSays(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, file := range []string{outcomeSchema, "asyncapi.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`nextStep"?: "?(\w+)"?,?\s+"?text"?: "?(.*?)"?,?\n`).FindAllStringSubmatch(string(data), -1) {
			words := regexp.QuoteMeta(outcome.NextStep(m[1]).Text())
			words = regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(words, ".*")
			if m[1] == "" || !regexp.MustCompile("^"+words+"$").MatchString(m[2]) {
				t.Errorf("%s: at %s it says %q", file, m[1], m[2])
			}
			checked++
		}
	}
	if checked < 4 {
		t.Errorf("%d examples", checked)
	}
}
