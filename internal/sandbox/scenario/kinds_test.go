package scenario

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/verdict"
)

// TestKindsAgreeWithTheManual: what a fault comes to is the same here as in
// docs/verdicts.md, which the worker is held to.
func TestKindsAgreeWithTheManual(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/verdicts.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "## Seen from outside")
	if !ok {
		t.Fatal("docs/verdicts.md has no such part")
	}
	want := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) > 5 && strings.Count(cells[2], ",") == 2 {
			want[strings.TrimSpace(cells[2])] = strings.TrimSpace(cells[3]) + " " + strings.TrimSpace(cells[4])
		}
	}
	if len(want) < 20 {
		t.Fatalf("only %d rows", len(want))
	}
	agreed := 0
	for _, k := range Kinds() {
		fault := fmt.Sprintf("%d, %d, %d", k.Code, k.Times, k.Variant)
		if w, ok := want[fault]; ok && k.Code > 0 {
			agreed++
			if got := fmt.Sprintf("%s %d", k.Want, k.Resets); got != w {
				t.Errorf("%s: %s, in the manual %s", k.Name, got, w)
			}
		}
	}
	if agreed < 20 {
		t.Errorf("only %d kinds are in the manual", agreed)
	}
}

// TestScenarios: ids and devices are unique, the seed repeats a day, and chance
// alone decides how many of a kind the chaos has.
func TestScenarios(t *testing.T) {
	t.Parallel()
	countable, err := Countable(1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Countable(100); err == nil {
		t.Error("a mix without a plain request")
	}
	chaos := Chaos(200_000, rand.New(rand.NewPCG(1, 1)))
	for name, requests := range map[string][]*Request{"day": Day(1), "countable": countable, "chaos": chaos} {
		ids, devices := map[string]bool{}, map[string]bool{}
		for _, r := range requests {
			if r.ID != "" && ids[r.ID] || r.Device != "" && devices[r.Device] {
				t.Errorf("%s: %s (%s) is there twice", name, r.ID, r.Kind)
			}
			ids[r.ID], devices[r.Device] = true, true
			if r.Copies < 1 || r.Want == (End{}) || r.Resets > 1 || r.Want == Accepted() != (r.Resets == 1) {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	messages := 0
	for _, r := range countable {
		messages += r.Copies
		if r.Doubtful || r.Reply != "" || r.Unknowable {
			t.Errorf("%s cannot be counted", r.Kind)
		}
	}
	if messages != 1000 {
		t.Errorf("%d messages", messages)
	}
	for _, r := range chaos {
		if r.Want == Accepted() && !r.Told.Final() {
			t.Fatalf("%s: the device is told %q", r.Kind, r.Told)
		}
	}
	one, same, other := Day(1), Day(1), Day(2)
	for i, r := range one[1:] {
		if r.turn() < one[i].turn() {
			t.Errorf("%s comes after %s", r.Kind, one[i].Kind)
		}
	}
	differs := false
	for i := range one {
		if one[i].ID != same[i].ID {
			t.Fatal("the same seed makes another day")
		}
		differs = differs || one[i].ID != other[i].ID
	}
	if !differs {
		t.Error("another seed makes the same day")
	}
	count := map[string]int{}
	for _, r := range chaos {
		count[r.Kind]++
	}
	named := map[string]bool{}
	for _, k := range Kinds() {
		if named[k.Name] {
			t.Errorf("two kinds are called %s", k.Name)
		}
		named[k.Name] = true
		if want := 200 * k.Chaos; k.Name != plain && (count[k.Name] < want/2 || count[k.Name] > 2*want) {
			t.Errorf("%s: %d of 200000 instead of %d", k.Name, count[k.Name], want)
		}
	}
	if count[plain] < len(chaos)/2 {
		t.Errorf("only %d of %d are good", count[plain], len(chaos))
	}
}

// TestEndText: an end reads as a person would say it.
func TestEndText(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]End{"no record": {}, "accepted": Accepted(), "dead: expired": Dead(verdict.ReasonExpired)} {
		if e.String() != want {
			t.Errorf("%q instead of %q", e, want)
		}
	}
	if soon := in(time.Hour); !strings.HasPrefix(soon, `"notAfter":"`) {
		t.Error(soon)
	}
}
