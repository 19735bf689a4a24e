package natstest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"time"
)

// PublishRaw publishes a message whose block of headers is as it stands, such as no
// library would send, and waits until a stream has stored it.
func PublishRaw(url, subject, header, body string) error {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	const reply = "_INBOX.raw"
	if _, err := fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB %s 1\r\nHPUB %s %s %d %d\r\n%s%s\r\n",
		reply, subject, reply, len(header), len(header)+len(body), header, body); err != nil {
		return err
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "MSG "+reply+" ") {
			if lines.Scan() && strings.Contains(lines.Text(), `"error"`) {
				return fmt.Errorf("publish raw headers: %s", lines.Text())
			}
			return nil
		}
	}
	return fmt.Errorf("publish raw headers: no PubAck: %w", lines.Err())
}
