package bench

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/sandbox"
)

// floorName is the name of a floor's connection to NATS.
const floorName = "floor"

// FloorOptions are what a floor is started with.
type FloorOptions struct {
	NATSURL, Graph string
	// Bare leaves out the record writes, the alarm and the confirmation of the ack.
	Bare bool
	// Profile is as [profileBetweenSignals] takes it.
	Profile string
}

// floorLoop is the least that anything like the worker has to do. It decides
// nothing, and survives nothing.
type floorLoop struct {
	FloorOptions
	client *http.Client
	token  string
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	alarms string // subject of the first step
}

// Floor works as a process of its own until it is told to stop: 32 requests at a time, the
// NATS library with its defaults, one HTTP/2 connection.
func Floor(ctx context.Context, o FloorOptions) error {
	profileBetweenSignals(o.Profile)
	nc, err := nats.Connect(o.NATSURL, nats.Name(floorName))
	if err != nil {
		return err
	}
	defer nc.Close()
	f := &floorLoop{FloorOptions: o}
	if f.js, err = jetstream.New(nc); err != nil {
		return err
	}
	names := sandbox.Names()
	f.alarms = names.FollowSubject + ".0." + names.Tenant
	if f.kv, err = f.js.KeyValue(ctx, names.Bucket); err != nil {
		return err
	}
	f.client = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}}
	defer f.client.CloseIdleConnections()
	if f.token, err = f.fetchToken(ctx); err != nil {
		return err
	}
	consumer, err := f.js.Consumer(ctx, names.Stream, names.Consumer())
	if err != nil {
		return err
	}
	var opts []jetstream.PullMessagesOpt
	for _, group := range consumer.CachedInfo().Config.PriorityGroups {
		opts = append(opts, jetstream.PullPriorityGroup(group))
	}
	it, err := consumer.Messages(opts...)
	if err != nil {
		return err
	}
	defer it.Stop()
	return f.run(ctx, it)
}

// fetchToken asks for a token, as the worker does.
func (f *floorLoop) fetchToken(ctx context.Context) (string, error) {
	secret, err := confidential.NewCredFromSecret(graphsim.DefaultClientSecret)
	if err != nil {
		return "", err
	}
	app, err := confidential.New(f.Graph+"/"+graphsim.DefaultTenantID, graphsim.DefaultClientID, secret,
		confidential.WithInstanceDiscovery(false), confidential.WithHTTPClient(f.client))
	if err != nil {
		return "", err
	}
	r, err := app.AcquireTokenByCredential(ctx, []string{graph.Clouds()["global"].Scope})
	return r.AccessToken, err
}

// run works off messages until the context ends.
func (f *floorLoop) run(ctx context.Context, it jetstream.MessagesContext) error {
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
	for {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			cancel(err)
			break
		}
		msgs <- msg
	}
	close(msgs)
	group.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // it was told to stop
}

func (f *floorLoop) step(ctx context.Context, msg jetstream.Msg) error {
	var in struct {
		Device string `json:"managedDeviceId"`
	}
	if err := json.Unmarshal(msg.Data(), &in); err != nil {
		return err
	}
	if f.Bare {
		if _, err := f.post(ctx, in.Device, uuid.NewString()); err != nil {
			return err
		}
		return msg.Ack()
	}
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	rec := record.Record{
		ID: in.Device, Tenant: "default", ManagedDeviceID: in.Device, State: record.Attempting, Attempts: 1,
		ReceivedAt: meta.Timestamp, AttemptedAt: time.Now().UTC(), Stream: meta.Stream, Sequence: meta.Sequence.Stream,
		Worker: floorName, ClientRequestID: uuid.NewString(),
	}
	value, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	key := record.Key("default", in.Device)
	revision, err := f.kv.Create(ctx, key, value)
	if err != nil {
		return err
	}
	if rec.GraphRequestID, err = f.post(ctx, rec.ManagedDeviceID, rec.ClientRequestID); err != nil {
		return err
	}
	rec.State, rec.FinishedAt, rec.Status = record.Accepted, time.Now().UTC(), http.StatusNoContent
	if value, err = json.Marshal(rec); err != nil {
		return err
	}
	// On three servers an update is refused now and then although nothing has changed.
	for again := 0; ; again++ {
		if _, err = f.kv.Update(ctx, key, value, revision); err == nil {
			break
		}
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) || again > 20 {
			return err
		}
		if err := sandbox.Pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
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

func (f *floorLoop) post(ctx context.Context, device, clientRequestID string) (requestID string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.Graph+"/v1.0/deviceManagement/managedDevices/"+device+"/resetPasscode", http.NoBody)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", floorName)
	req.Header.Set("Client-Request-Id", clientRequestID)
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
