package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/sandbox"
)

// floorBuffer is how many messages a floor has on their way to it. The worker
// has none beyond those that it works on; a floor need not care how old a
// message gets.
const floorBuffer = 4 * slots

// fill makes the streams anew and puts n requests on them.
func (w *world) fill(ctx context.Context, n int) error {
	for _, name := range []string{w.Names.Stream, w.Names.DeadStream, "KV_" + w.Names.Bucket, "KV_" + w.Names.StateBucket(),
		w.Names.FollowStream, "KV_" + w.Names.OutcomeBucket()} {
		if err := w.JS.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	for {
		err := w.SetUp(ctx)
		if err == nil {
			break
		}
		// The server may yet be busy removing the files of what was deleted.
		if api := (*jetstream.APIError)(nil); !errors.As(err, &api) || api.ErrorCode != errNoStore {
			return err
		}
		if err := sandbox.Pause(ctx, settled); err != nil {
			return err
		}
	}
	if err := w.load(ctx, w.Names.Filter(), 0, n); err != nil {
		return err
	}
	w.Sim.Forget()
	runtime.GC() // what was before is not for the next run to clear away
	return nil
}

// errNoStore is the error code for a stream whose files cannot be made. Source:
// nats-server, server/errors.json.
const errNoStore jetstream.ErrorCode = 10049

// load puts n requests on the stream, for devices from a number on, and waits
// until they are stored.
func (w *world) load(ctx context.Context, subject string, from, n int) error {
	if err := w.send(subject, from, n); err != nil {
		return err
	}
	select {
	case <-w.JS.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send is load without the wait.
func (w *world) send(subject string, from, n int) error {
	for i := range n {
		data := fmt.Sprintf(`{"id":"B%d","managedDeviceId":%q,"requestedBy":"jo"}`, from+i, graphsim.GoodDevice(from+i))
		if _, err := w.JS.PublishAsync(subject, []byte(data), jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	return nil
}

// floorLoop is the least that anything like the worker has to do. It decides
// nothing, and survives nothing.
type floorLoop struct {
	client     *http.Client
	url, token string
	js         jetstream.JetStream
	alarms     string // subject of the first step
	kv         jetstream.KeyValue
	// records tells that a record is written before and after each call, that an
	// alarm is published then, and that the ack is confirmed.
	records bool

	once  sync.Once
	began clocked // at the first call
}

func (w *world) floorLoop(ctx context.Context, records bool) (*floorLoop, error) {
	return w.floorLoopAt(ctx, w.Sim.URL(), w.Sim.CAs(), records)
}

// floorLoopAt is a floor beside a Graph and Entra at this address; roots are as
// in [tls.Config].
func (w *world) floorLoopAt(ctx context.Context, url string, roots *x509.CertPool, records bool) (*floorLoop, error) {
	kv, err := w.JS.KeyValue(ctx, w.Names.Bucket)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	token, err := fetchToken(ctx, url, client)
	if err != nil {
		return nil, err
	}
	return &floorLoop{client: client, url: url, token: token, js: w.JS, alarms: w.Names.FollowSubject + ".0." + w.Names.Tenant, kv: kv, records: records}, nil
}

// fetchToken asks the simulator for a token, as the worker does.
func fetchToken(ctx context.Context, url string, client *http.Client) (string, error) {
	secret, err := confidential.NewCredFromSecret(graphsim.DefaultClientSecret)
	if err != nil {
		return "", err
	}
	app, err := confidential.New(url+"/"+graphsim.DefaultTenantID, graphsim.DefaultClientID, secret,
		confidential.WithInstanceDiscovery(false), confidential.WithHTTPClient(client))
	if err != nil {
		return "", err
	}
	r, err := app.AcquireTokenByCredential(ctx, []string{graph.Clouds()["global"].Scope})
	return r.AccessToken, err
}

// messages begins to pull, as the consumer that the worker uses wants it.
func (w *world) messages(ctx context.Context) (jetstream.MessagesContext, error) {
	consumer, err := w.JS.Consumer(ctx, w.Names.Stream, w.Names.Consumer())
	if err != nil {
		return nil, err
	}
	opts := []jetstream.PullMessagesOpt{jetstream.PullMaxMessages(floorBuffer)}
	for _, group := range consumer.CachedInfo().Config.PriorityGroups {
		opts = append(opts, jetstream.PullPriorityGroup(group))
	}
	return consumer.Messages(opts...)
}

// floor is how fast a bare loop works off a backlog, from its first call on.
func (w *world) floor(ctx context.Context, n int, records bool) (spent, error) {
	if err := w.fill(ctx, n); err != nil {
		return spent{}, err
	}
	f, err := w.floorLoop(ctx, records)
	if err != nil {
		return spent{}, err
	}
	defer f.client.CloseIdleConnections()
	it, err := w.messages(ctx)
	if err != nil {
		return spent{}, err
	}
	defer it.Stop()
	if err := f.run(ctx, it, n); err != nil {
		return spent{}, err
	}
	return f.began.spent(n), nil
}

// run works off n messages.
func (f *floorLoop) run(ctx context.Context, it jetstream.MessagesContext, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	msgs := make(chan jetstream.Msg)
	var group sync.WaitGroup
	for range slots {
		group.Go(func() {
			for msg := range msgs {
				if err := f.step(ctx, msg); err != nil {
					cancel(err)
				}
			}
		})
	}
	for range n {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			cancel(err)
			break
		}
		msgs <- msg
	}
	close(msgs)
	group.Wait()
	return context.Cause(ctx)
}

func (f *floorLoop) step(ctx context.Context, msg jetstream.Msg) error {
	var in struct {
		ID          string `json:"id"`
		Device      string `json:"managedDeviceId"`
		RequestedBy string `json:"requestedBy"`
	}
	if err := json.Unmarshal(msg.Data(), &in); err != nil {
		return err
	}
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	rec := record.Record{
		ID: in.ID, Tenant: "default", ManagedDeviceID: in.Device, State: record.Attempting, Attempts: 1,
		ReceivedAt: meta.Timestamp, AttemptedAt: time.Now().UTC(), Stream: meta.Stream, Sequence: meta.Sequence.Stream,
		Worker: "floor", ClientRequestID: uuid.NewString(), RequestedBy: in.RequestedBy,
	}
	key := record.Key("default", in.ID)
	var revision uint64
	if f.records {
		value, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		if revision, err = f.kv.Create(ctx, key, value); err != nil {
			return err
		}
	}
	if rec.GraphRequestID, err = f.post(ctx, rec); err != nil {
		return err
	}
	if !f.records {
		return msg.Ack()
	}
	rec.State, rec.FinishedAt, rec.Status = record.Accepted, time.Now().UTC(), http.StatusNoContent
	value, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if _, err := f.kv.Update(ctx, key, value, revision); err != nil {
		return err
	}
	alarm := outcome.Of(rec)
	if value, err = outcome.MarshalAlarm(alarm); err != nil {
		return err
	}
	if _, err := f.js.Publish(ctx, f.alarms, value, jetstream.WithMsgID(alarm.MessageID())); err != nil {
		return err
	}
	return msg.DoubleAck(ctx)
}

func (f *floorLoop) post(ctx context.Context, rec record.Record) (requestID string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1.0/deviceManagement/managedDevices/"+rec.ManagedDeviceID+"/resetPasscode", http.NoBody)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "floor")
	req.Header.Set("Client-Request-Id", rec.ClientRequestID)
	f.once.Do(func() { f.began = clock() })
	resp, err := f.client.Do(req)
	if err != nil {
		return "", err
	}
	_, _ = io.Copy(io.Discard, resp.Body) // a 204 has none
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return "", fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	return resp.Header.Get("Request-Id"), nil
}
