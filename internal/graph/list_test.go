package graph

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

// TestList: a list is a list, and all else is told apart as for any call.
func TestList(t *testing.T) {
	t.Parallel()
	var status int
	var body string
	_, c := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1.0/deviceManagement/managedDevices" || r.URL.RawQuery != "$top=1&$select=id" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body)) // the client sees less
	})
	const unlicensed = `{"error":{"code":"BadRequest","message":"Request not applicable\nto target tenant."}}`
	for _, tc := range []struct {
		status int
		body   string
		kind   Kind // 0: it is a list
	}{
		{200, `{"@odata.context":"x","@odata.nextLink":"y","value":[{"id":"a","deviceName":"Marie's phone"}]}`, 0},
		{200, `{"value":[]}`, 0}, // a tenant without a device is served, too
		{200, `{"value":null}`, Unknown},
		{200, `{}`, Unknown},
		{200, `[]`, Unknown},
		{200, ``, Unknown},
		{200, `<html>Sign in to the guest network</html>`, Unknown},
		{200, `{"value":[],"x":"` + strings.Repeat("x", maxErrorBody) + `"}`, Unknown},
		{204, ``, Unknown},
		{400, unlicensed, Refused},
		{404, ``, Refused},
		{401, ``, Unauthorized},
		{403, ``, Forbidden},
		{429, ``, Throttled},
		{503, ``, Unavailable},
		{500, ``, Unknown},
		{408, ``, Unknown},
	} {
		status, body = tc.status, tc.body
		a, err := c.List(t.Context(), within(longEnough))
		if e := (*Error)(nil); tc.kind == 0 && (err != nil || a.Status != 200) || tc.kind != 0 && (!errors.As(err, &e) || e.Kind != tc.kind || e.Status != tc.status) {
			t.Errorf("%d %.60q: %+v, %v", tc.status, tc.body, a, err)
		}
		if tc.body == unlicensed && err.Error() != "refused: HTTP 400: BadRequest: Request not applicable to target tenant." {
			t.Errorf("%v", err)
		}
	}
}
