package metrics

// Label values come from closed lists: those below, and those of packages hold,
// outcome and verdict. So the number of series is bounded, whatever a request or
// Graph says. Each list function returns a new slice, in the order in which people
// read it.

// Outcome is how a message ended.
type Outcome string

// The outcomes. Every message ends in OutcomeAccepted or OutcomeDead or, if its
// request had ended already, in OutcomeDuplicate.
const (
	OutcomeAccepted  Outcome = "accepted"
	OutcomeDuplicate Outcome = "duplicate"
	OutcomeDead      Outcome = "dead"
)

// Outcomes lists every Outcome.
func Outcomes() []Outcome {
	return []Outcome{OutcomeAccepted, OutcomeDuplicate, OutcomeDead}
}

// TokenResult is how one request to the token endpoint ended.
type TokenResult string

// The results of a token request.
const (
	TokenOK          TokenResult = "ok"
	TokenRefused     TokenResult = "refused"
	TokenUnavailable TokenResult = "unavailable"
)

// TokenResults lists every TokenResult.
func TokenResults() []TokenResult {
	return []TokenResult{TokenOK, TokenRefused, TokenUnavailable}
}

// noCode is the code label of a call that brought no usable status.
const noCode = "none"

// methods lists the HTTP methods that the worker uses towards Graph.
func methods() []string { return []string{"POST", "GET"} }

// codes lists the statuses whose series exist from the start. Others appear when
// Graph first sends them.
func codes() []int {
	return []int{200, 204, 400, 401, 403, 404, 405, 408, 409, 410, 422, 429, 500, 502, 503, 504}
}
