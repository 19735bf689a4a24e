package deploy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// What NACK is told to make is what `worker setup` makes: both are made on a
// real server, and compared with all that the server fills in.
func TestNACKMakesWhatSetupMakes(t *testing.T) {
	ctx := t.Context()
	n := names("default")
	bySetup, url := jetStream(t)
	for _, args := range [][]string{{"setup"}, {"setup", "--tenants-file", tenantsDir + "tenants.example.yaml"}} {
		cmd := exec.CommandContext(ctx, program(t, "worker"), args...)
		cmd.Env = []string{"NATS_URL=" + url}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("setup: %v\n%s", err, out)
		}
	}
	byNACK, _ := jetStream(t)
	resources := documents(t, read(t, "kubernetes/components/nack/jetstream.yaml"))
	for _, r := range append(resources, documents(t, read(t, tenantsDir+"consumers.yaml"))...) {
		if r.at("spec", "preventDelete") != true {
			t.Errorf("%s: deleting the resource deletes what it holds", r.is())
		}
		if replicas := r.at("spec", "replicas"); r.at("kind") != "Consumer" && replicas != 3 {
			t.Errorf("%s has %v replicas", r.is(), replicas)
		}
		if err := makeIt(t, byNACK, r); err != nil {
			t.Fatalf("%s: %v", r.is(), err)
		}
	}

	for _, name := range []string{n.Stream, n.DeadStream, n.FollowStream, "KV_" + n.Bucket, "KV_" + n.StateBucket(), "KV_" + n.DeviceBucket(), "KV_" + n.OutcomeBucket()} {
		want, err := bySetup.Stream(ctx, name)
		if err != nil {
			t.Fatalf("setup has not made %s: %v", name, err)
		}
		got, err := byNACK.Stream(ctx, name)
		if err != nil {
			t.Fatalf("NACK is not told to make %s: %v", name, err)
		}
		wanted := want.CachedInfo().Config
		if name == n.Stream { // NACK cannot say it
			again := *wanted.RePublish
			again.HeadersOnly = false
			wanted.RePublish = &again
		}
		equal(t, "stream "+name, got.CachedInfo().Config, wanted)
	}
	for _, name := range []string{n.Stream, n.FollowStream} {
		stream, err := bySetup.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		consumers := stream.ListConsumers(ctx)
		for want := range consumers.Info() {
			got, err := byNACK.Consumer(ctx, name, want.Name)
			if err != nil {
				t.Fatalf("NACK is not told to make %s: %v", want.Name, err)
			}
			equal(t, want.Name, got.CachedInfo().Config, want.Config)
		}
		if err := consumers.Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// jetStream is a server of its own.
func jetStream(t *testing.T) (jetstream.JetStream, string) {
	t.Helper()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js, s.URL()
}

// makeIt makes what a NACK resource describes, on one server. A field that is
// not translated here is an error.
func makeIt(t *testing.T, js jetstream.JetStream, r resource) error {
	t.Helper()
	var known []string
	take := func(field string) any {
		known = append(known, field)
		return r.at("spec", field)
	}
	text := func(field string) string { s, _ := take(field).(string); return s }
	number := func(field string) int { i, _ := take(field).(int); return i }
	span := func(field string) time.Duration {
		s := text(field)
		if s == "" {
			return 0
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("%s: %s: %v", r.is(), field, err)
		}
		return d
	}
	list := func(field string) (out []string) {
		l, _ := take(field).([]any)
		for _, v := range l {
			out = append(out, fmt.Sprint(v))
		}
		return out
	}
	take("preventDelete")
	var err error
	switch r.at("kind") {
	case "Stream":
		cfg := jetstream.StreamConfig{
			Name: text("name"), Description: text("description"), Subjects: list("subjects"),
			MaxAge: span("maxAge"), Duplicates: span("duplicateWindow"), MaxBytes: int64(number("maxBytes")),
			MaxConsumers: number("maxConsumers"), AllowDirect: take("allowDirect") == true, RePublish: republished(t, take("republish")),
		}
		err = errors.Join(
			json.Unmarshal(quoted(text("retention")), &cfg.Retention),
			json.Unmarshal(quoted(text("discard")), &cfg.Discard),
			json.Unmarshal(quoted(text("storage")), &cfg.Storage))
		take("replicas")
		cfg.Replicas = 1
		if err == nil {
			_, err = js.CreateStream(t.Context(), cfg)
		}
	case "KeyValue":
		cfg := jetstream.KeyValueConfig{Bucket: text("bucket"), Description: text("description"),
			History: uint8(number("history")), TTL: span("ttl"), Replicas: 1}
		take("replicas")
		err = json.Unmarshal(quoted(text("storage")), &cfg.Storage)
		cfg.RePublish = republished(t, take("republish"))
		if err == nil {
			_, err = js.CreateKeyValue(t.Context(), cfg)
		}
	case "Consumer":
		cfg := jetstream.ConsumerConfig{
			Durable: text("durableName"), Description: text("description"), AckWait: span("ackWait"),
			MaxDeliver: number("maxDeliver"), MaxAckPending: number("maxAckPending"), FilterSubject: text("filterSubject"),
			PinnedTTL: span("pinnedTtl"), PriorityGroups: list("priorityGroups"),
		}
		err = errors.Join(
			json.Unmarshal(quoted(text("ackPolicy")), &cfg.AckPolicy),
			json.Unmarshal(quoted(text("deliverPolicy")), &cfg.DeliverPolicy))
		if policy := text("priorityPolicy"); policy != "" {
			err = errors.Join(err, json.Unmarshal(quoted(policy), &cfg.PriorityPolicy))
		}
		if err == nil {
			_, err = js.CreateConsumer(t.Context(), text("streamName"), cfg)
		}
	default:
		return errors.New("a kind that is not known here")
	}
	spec, _ := r["spec"].(map[string]any)
	if len(spec) > len(known) {
		return fmt.Errorf("it has more fields than the %d that are compared", len(known))
	}
	for field := range spec {
		found := false
		for _, k := range known {
			found = found || k == field
		}
		if !found {
			return fmt.Errorf("the field %s is not compared", field)
		}
	}
	return err
}

// republished has no more fields than the resource definition of NACK 0.22; nil: there is
// nothing to publish again.
func republished(t *testing.T, spec any) *jetstream.RePublish {
	t.Helper()
	m, ok := spec.(map[string]any)
	if !ok {
		return nil
	}
	if len(m) != 2 {
		t.Errorf("NACK does not know all of %v", m)
	}
	return &jetstream.RePublish{Source: fmt.Sprint(m["source"]), Destination: fmt.Sprint(m["destination"])}
}

func quoted(s string) []byte { return []byte(`"` + s + `"`) }

// equal compares two configurations field by field.
func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if name := g.Type().Field(i).Name; name != "Metadata" && !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s: %s is %v, not %v", what, name, g.Field(i).Interface(), w.Field(i).Interface())
		}
	}
}

// The layout that is compared is the one that a cluster gets.
func TestLayoutDefaults(t *testing.T) {
	if r := (topology.Layout{}).Requests(names("default")).Replicas; r != 3 {
		t.Errorf("setup makes %d replicas", r)
	}
}
