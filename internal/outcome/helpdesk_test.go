package outcome

import (
	"os"
	"slices"
	"strings"
	"testing"

	"passcode-worker/internal/verdict"
)

// The page for help desks has each next step with exactly the text that the code
// writes, and no other; and each outcome.
func TestHelpDeskPage(t *testing.T) {
	data, err := os.ReadFile("../../docs/helpdesk.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	steps := map[NextStep]string{}
	outcomes := map[string]bool{}
	for _, cells := range table(t, page, "What did the device do?", 4) {
		step := NextStep(strings.Trim(cells[1], "`"))
		if steps[step] != "" {
			t.Errorf("%s is there twice", step)
		}
		steps[step] = cells[2]
		for i, word := range strings.Split(cells[0], "`") {
			if i%2 == 1 {
				outcomes[word] = true
			}
		}
	}
	for _, step := range NextSteps() {
		if steps[step] != step.Text() {
			t.Errorf("%s: the page says\n%s\nand the code\n%s", step, steps[step], step.Text())
		}
		delete(steps, step)
	}
	for step := range steps {
		t.Errorf("%q is no next step", step)
	}
	for _, o := range All() {
		if !outcomes[string(o)] {
			t.Errorf("the page does not have the outcome %s", o)
		}
		delete(outcomes, string(o))
	}
	for o := range outcomes {
		t.Errorf("%q is no outcome", o)
	}

	var reasons []string
	for _, cells := range table(t, page, "Why was nothing reset?", 3) {
		for _, reason := range strings.Split(cells[0], ", ") {
			reasons = append(reasons, strings.Trim(reason, "`"))
		}
	}
	for _, r := range verdict.Reasons() {
		if !slices.Contains(reasons, string(r)) {
			t.Errorf("the page does not have the reason %s", r)
		}
	}
	if len(reasons) != len(verdict.Reasons()) {
		t.Errorf("the page has the reasons %q", reasons)
	}
	for _, word := range []string{"NATS", "JetStream", "stream", "bucket", "Kubernetes"} {
		if strings.Contains(page, word) {
			t.Errorf("the page speaks of %s", word)
		}
	}
}

// Each next step that a document can have is told in words without a brace.
func TestTextsAreWhole(t *testing.T) {
	for _, o := range All() {
		for _, platform := range []Platform{"", Android, IOS, VisionOS, Windows} {
			for _, reason := range []Reason{"", WipePending, Retired, Deleted} {
				for _, hex := range []string{"", "0x80070490"} {
					d := Document{Outcome: o, Platform: platform, Reason: reason, ErrorCodeHex: hex}
					if step, text := (Policy{}).tell(d, d.AcceptedAt, d.DecidedAt); text == "" || strings.ContainsAny(text, "{}") {
						t.Errorf("%+v: %s: %s", d, step, text)
					}
				}
			}
		}
	}
}

// A text that asks for a new request says that it needs a new ticket number: under the id
// of an accepted one it would do nothing.
func TestTextsAskForANewTicketNumber(t *testing.T) {
	n := 0
	for _, step := range NextSteps() {
		if text := step.Text(); strings.Contains(text, "new request") {
			n++
			if !strings.Contains(text, "under a new ticket number") {
				t.Errorf("%s: %s", step, text)
			}
		}
	}
	if n < 4 {
		t.Errorf("only %d texts ask for a new request", n)
	}
}

// table is the first table below a heading, without its head, as cells.
func table(t *testing.T, page, heading string, columns int) (rows [][]string) {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("there is no section %q", heading)
	}
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != columns {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("the table of %q has %d rows", heading, len(rows))
	}
	return rows[2:]
}
