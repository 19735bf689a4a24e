package check

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxMonitor bounds the size of a monitoring answer. An account that exports subjects
// for thousands of tenants has a long description.
const maxMonitor = 16 << 20

const strictHint = "remove strict: false from the jetstream block of each server; before version 2.12 set strict: true there, and update servers older than 2.11"

// monitors asks each server whether it syncs each write to disk, and whether it is
// strict. It asks the one that the check is connected to where publishers are.
func (c *checker) monitors(ctx context.Context) {
	c.of("")
	own := ""
	for _, address := range c.cfg.Monitors {
		address = strings.TrimRight(address, "/")
		sync, strict := "sync to disk, "+address, "strict JetStream, "+address
		var answer struct {
			ID        string `json:"server_id"`
			Name      string `json:"server_name"`
			JetStream struct {
				Config *struct {
					Always   bool          `json:"sync_always"`
					Interval time.Duration `json:"sync_interval"`
					// Strict is left out if it is off, and by servers that do not
					// know it and are lenient.
					Strict bool `json:"strict"`
				} `json:"config"`
			} `json:"jetstream"`
		}
		err := get(ctx, address+"/varz", &answer)
		config := answer.JetStream.Config
		if err != nil {
			c.say(Warning, sync, fmt.Sprintf("could not be asked: %v", err), "check that this is the server's monitoring address (http_port)")
			continue
		}
		if c.nc != nil && answer.ID == c.nc.ConnectedServerId() {
			own = address
		}
		if config == nil {
			c.say(Warning, sync, fmt.Sprintf("server %s has no JetStream", answer.Name), "give the address of a server that has JetStream")
			continue
		}
		if config.Always {
			c.ok(sync, fmt.Sprintf("server %s syncs each write to disk at once", answer.Name))
		} else {
			c.say(Warning, sync, fmt.Sprintf("server %s syncs its writes to disk only every %s", answer.Name, config.Interval), syncHint)
		}
		if config.Strict {
			c.ok(strict, fmt.Sprintf("server %s refuses JetStream requests with unknown content", answer.Name))
		} else {
			c.say(Warning, strict, fmt.Sprintf("server %s accepts any JSON as a JetStream request. So a publisher in this account can direct the reply to its message "+
				"so that it removes all records, and requests that are sent again are then reset twice", answer.Name), strictHint)
		}
	}
	c.publishers(ctx, own)
}

func get(ctx context.Context, address string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMonitor))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the answer is not from a NATS server's monitoring")
	}
	return nil
}
