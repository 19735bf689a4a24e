package verdict

// Reason is why a request became a dead letter.
type Reason string

// The reasons, a closed list, as they stand in the header Dead-Letter-Reason.
const (
	ReasonInvalidRequest    Reason = "invalid_request"
	ReasonExpired           Reason = "expired"
	ReasonNotFound          Reason = "not_found"
	ReasonForbidden         Reason = "forbidden"
	ReasonUnauthorized      Reason = "unauthorized"
	ReasonConflict          Reason = "conflict"
	ReasonRejected          Reason = "rejected"
	ReasonAttemptsExhausted Reason = "attempts_exhausted"
	ReasonOutcomeUnknown    Reason = "outcome_unknown"
	ReasonUndeliverable     Reason = "undeliverable"
	ReasonCooldown          Reason = "cooldown"
)

// Reasons lists every Reason, in the order in which people read them.
func Reasons() []Reason {
	return []Reason{
		ReasonInvalidRequest, ReasonExpired, ReasonNotFound, ReasonForbidden, ReasonUnauthorized, ReasonConflict,
		ReasonRejected, ReasonAttemptsExhausted, ReasonOutcomeUnknown, ReasonUndeliverable, ReasonCooldown,
	}
}

// Result is how one reset call to Graph ended.
type Result string

// The results of an attempt.
const (
	ResultAccepted     Result = "accepted"     // 204
	ResultThrottled    Result = "throttled"    // 429
	ResultUnavailable  Result = "unavailable"  // 503, or never sent
	ResultUnknown      Result = "unknown"      // sent, and nobody knows what it did
	ResultRefused      Result = "refused"      // 403 or another 4xx, but not 408
	ResultUnauthorized Result = "unauthorized" // 401
)

// Results lists every Result.
func Results() []Result {
	return []Result{
		ResultAccepted, ResultThrottled, ResultUnavailable, ResultUnknown, ResultRefused, ResultUnauthorized,
	}
}

// Verification is what a look at the device told about an unknown outcome.
type Verification string

// The results of a verification.
const (
	VerificationExecuted     Verification = "executed"
	VerificationNotExecuted  Verification = "not_executed"
	VerificationNotPermitted Verification = "not_permitted"
	VerificationFailed       Verification = "failed"
)

// Verifications lists every Verification.
func Verifications() []Verification {
	return []Verification{
		VerificationExecuted, VerificationNotExecuted, VerificationNotPermitted, VerificationFailed,
	}
}
