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

// maxMonitor bounds what is read of a server's monitoring.
const maxMonitor = 1 << 20

// monitors asks each server whether it writes to disk at once.
func (c *checker) monitors(ctx context.Context) {
	c.of("")
	for _, address := range c.cfg.Monitors {
		what := "sync to disk, " + address
		var answer struct {
			Name      string `json:"server_name"`
			JetStream struct {
				Config *struct {
					Always   bool          `json:"sync_always"`
					Interval time.Duration `json:"sync_interval"`
				} `json:"config"`
			} `json:"jetstream"`
		}
		err := get(ctx, strings.TrimRight(address, "/")+"/varz", &answer)
		switch config := answer.JetStream.Config; {
		case err != nil:
			c.say(Warning, what, fmt.Sprintf("could not be asked: %v", err), "is this the server's monitoring address (http_port)?")
		case config == nil:
			c.say(Warning, what, fmt.Sprintf("server %s has no JetStream", answer.Name), "ask a server that has")
		case !config.Always:
			c.say(Warning, what, fmt.Sprintf("server %s writes to disk every %s", answer.Name, config.Interval), syncHint)
		default:
			c.ok(what, fmt.Sprintf("server %s writes to disk at once", answer.Name))
		}
	}
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
		return fmt.Errorf("the answer is not what a server's monitoring gives")
	}
	return nil
}
