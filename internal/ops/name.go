package ops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"passcode-worker/internal/request"
)

// named returns a request's body with the given id in place of an absent one. A
// body that is not a JSON object stays as it is.
func named(body []byte, id string) []byte {
	value, err := json.Marshal(id)
	object := request.SkipMark(body)
	if err != nil || !json.Valid(object) {
		return body
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil || fields == nil {
		return body
	}
	if _, there := fields["id"]; there {
		// The id is null or empty. A body that is invalid in another way, such as one
		// with a field twice, is left alone: it must not become valid.
		if _, err := request.Decode(request.Source{Data: body}); err != nil {
			return body
		}
		fields["id"] = value
		out, err := json.Marshal(fields)
		if err != nil {
			return body
		}
		return out
	}
	rest := bytes.TrimLeft(object, " \t\r\n")[1:]
	out := append([]byte(`{"id":`), value...)
	if len(fields) > 0 {
		out = append(out, ',')
	}
	return append(out, rest...)
}

// Sending is a request that is ready to be sent.
type Sending struct {
	ID   string
	Key  string // the id as in the key of its record
	Data []byte
	// Named reports whether [Prepare] made the id, because there was none.
	Named bool
}

// Prepare checks the body of a request with the worker's own decoder, and gives
// it an id if it has none. The error names the field, and quotes nothing from the
// body.
func Prepare(body []byte) (Sending, error) {
	body = request.SkipMark(body)
	r, err := request.Decode(request.Source{Data: body})
	if err != nil {
		return Sending{}, err
	}
	s := Sending{ID: r.ID, Key: r.Key(), Data: body}
	if r.IDGiven {
		return s, nil
	}
	s.ID, s.Named = uuid.NewString(), true
	s.Data = named(body, s.ID)
	r, err = request.Decode(request.Source{Data: s.Data})
	if err != nil || r.ID != s.ID {
		return Sending{}, errors.Join(fmt.Errorf("there is no room to add an id: give the request an id"), err)
	}
	s.Key = r.Key()
	return s, nil
}
