package natstest

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// PublishRaw publishes a message whose block of headers is as it stands, such as no
// library would send, and waits until a stream has stored it. The address may hold a
// user and a password.
func PublishRaw(address, subject, header, body string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	const reply = "_INBOX.raw"
	password, _ := u.User.Password()
	if _, err := fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true,\"user\":%q,\"pass\":%q}\r\nSUB %s 1\r\nHPUB %s %s %d %d\r\n%s%s\r\n",
		u.User.Username(), password, reply, subject, reply, len(header), len(header)+len(body), header, body); err != nil {
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
