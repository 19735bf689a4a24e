package topology

import "testing"

func TestDefaultNames(t *testing.T) {
	t.Parallel()
	if got := DefaultNames(); got != spec {
		t.Errorf("%+v, want %+v", got, spec)
	}
}
