package coalesce

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Writes made while one is being sent are sent together, in their order.
func TestSendsTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, far := pipe()
		var want bytes.Buffer
		for i := range 100 {
			fmt.Fprintf(&want, "%d,", i)
			write(t, conn, fmt.Sprintf("%d,", i))
			if i == 0 {
				synctest.Wait() // it is being sent
			}
		}
		buf := make([]byte, 1000)
		var got []byte
		for sent := range 2 {
			n, err := far.Read(buf) // a pipe gives one write to a read
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
			if sent == 0 && string(got) != "0," {
				t.Errorf("%q was sent first", got)
			}
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%q was sent, want %q", got, want.Bytes())
		}
		closed(t, conn)
	})
}

// Many write at the same time: each message arrives whole, and those of one
// writer in their order. The other end reads slowly, so that writers have to wait.
func TestOverTCP(t *testing.T) {
	t.Parallel()
	const writers, each = 16, 2000
	conn, far := tcp(t)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if _, err := fmt.Fprintf(conn, "%d %d %s\n", w, i, strings.Repeat("x", i%300)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	go func() {
		group.Wait()
		_ = conn.Close()
	}()
	next, lines := [writers]int{}, bufio.NewScanner(far)
	for lines.Scan() {
		var w, i int
		var rest string
		if n, _ := fmt.Sscanf(lines.Text(), "%d %d %s", &w, &i, &rest); n < 2 || w >= writers || i != next[w] || len(rest) != i%300 {
			t.Fatalf("got %q, want message %d of its writer", lines.Text(), next[w])
		}
		next[w]++
	}
	for w, n := range next {
		if n != each {
			t.Errorf("%d messages of writer %d arrived", n, w)
		}
	}
}

// What is written before closing is sent, though the other end reads it later.
func TestCloseSends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, far := pipe()
		write(t, conn, "one,")
		synctest.Wait()
		write(t, conn, "two")
		var got []byte
		read := make(chan struct{})
		go func() {
			time.Sleep(closeWait / 2) // fake time
			got, _ = io.ReadAll(far)
			close(read)
		}()
		closed(t, conn)
		<-read
		if string(got) != "one,two" {
			t.Errorf("%q was sent", got)
		}
		if _, err := conn.Write([]byte("three")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after the closing: %v", err)
		}
		closed(t, conn)
	})
}

// Who closes does not wait for ever, and neither does who writes meanwhile.
func TestCloseWhileStuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		conn, _ := pipe()
		fill(t, conn)
		errs := make(chan error, 1)
		go func() {
			_, err := conn.Write([]byte("more"))
			errs <- err
		}()
		synctest.Wait()
		closed(t, conn)
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the write that waited: %v", err)
		}
		if took := time.Since(began); took != closeWait {
			t.Errorf("closing took %s", took)
		}
	})
}

// Where the other end takes nothing, writers wait, until the connection is given
// up. Its reader is told.
func TestStuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		conn, _ := pipe()
		fill(t, conn)
		read := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		// A deadline that is taken back does not count.
		if err := errors.Join(conn.SetWriteDeadline(time.Now().Add(time.Millisecond)), conn.SetDeadline(time.Time{})); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := conn.Write([]byte("more")); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the write that waited: %v", err)
			}
			if took := time.Since(began); took != writeWait {
				t.Errorf("it was given up after %s", took)
			}
		}
		if err := <-read; err == nil {
			t.Error("the reader is not told")
		}
		closed(t, conn)
	})
}

// A writer that waits goes on when there is room again.
func TestRoomAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, far := pipe()
		size := fill(t, conn)
		done := make(chan struct{})
		go func() {
			write(t, conn, "the end")
			close(done)
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("nothing waited")
		default:
		}
		got := make([]byte, size+len("the end"))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.HasSuffix(got, []byte("xthe end")) {
			t.Errorf("%d bytes were sent, the last %q: %v", size, got[len(got)-10:], err)
		}
		<-done
		closed(t, conn)
	})
}

// The other end is gone: that shows at the next write but one at the latest, and
// to the reader.
func TestOtherEndGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, far := pipe()
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, conn, "one")
		synctest.Wait()
		if _, err := conn.Write([]byte("two")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the second write: %v", err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the reader is not told")
		}
		closed(t, conn)
	})
}

// What the other end says before it goes can be read, though a write has failed.
func TestLastWords(t *testing.T) {
	t.Parallel()
	conn, far := tcp(t)
	words := strings.Repeat("x", 20_000) + "that is why"
	if _, err := far.Write([]byte(words)); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	for err := error(nil); err == nil; runtime.Gosched() {
		_, err = conn.Write([]byte("hello"))
	}
	got := make([]byte, len(words))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != words {
		t.Errorf("read %q: %v", bytes.TrimLeft(got, "x"), err)
	}
}

// A reader that does not end by itself is told why the connection was closed.
func TestReaderIsToldWhy(t *testing.T) {
	t.Parallel()
	for why, least := range map[error]time.Duration{os.ErrDeadlineExceeded: 0, errors.New("network is unreachable"): closeWait} {
		conn, _ := tcp(t)
		began := time.Now()
		conn.fail(why)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, why) {
			t.Errorf("reading: %v, want %v", err, why)
		}
		if took := time.Since(began); took < least {
			t.Errorf("%v: the reader was left %s", why, took)
		}
	}
}

// A write that has to wait has the deadline of who asks for one, as TLS does at
// its end.
func TestWriteDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		conn, far := pipe()
		size := fill(t, conn)
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := conn.Write([]byte("more")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 5*time.Second {
				t.Errorf("writing took %s: %v", time.Since(began), err)
			}
		}
		if _, err := io.CopyN(io.Discard, far, int64(size)); err != nil {
			t.Fatal(err)
		}
		write(t, conn, "there is room, so it has nothing to wait for")
		go func() { _, _ = io.Copy(io.Discard, far) }()
		closed(t, conn)
	})
}

// A connection that is forgotten without being closed leaves no goroutine, or the
// bubble would not end.
func TestForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, far := pipe()
		write(t, conn, "hello")
		if _, err := io.ReadFull(far, make([]byte, len("hello"))); err != nil {
			t.Fatal(err)
		}
	})
}

// Reading has its deadline.
func TestReadDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		conn, _ := pipe()
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("reading took %s: %v", time.Since(began), err)
		}
		closed(t, conn)
	})
}

func TestDialer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := Dialer{Timeout: 10 * time.Second}.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := conn.(*Conn); !ok {
		t.Errorf("it made a %T", conn)
	}
	if err := errors.Join(conn.Close(), listener.Close()); err != nil {
		t.Error(err)
	}
	if conn, err := (Dialer{Timeout: 10 * time.Second}).Dial("tcp", listener.Addr().String()); err == nil || conn != nil {
		t.Errorf("to nobody: %v, %v", conn, err)
	}
}

// TLS goes over it as over any connection, with what it says at the end.
func TestTLS(t *testing.T) {
	t.Parallel()
	cert, roots := certificate(t)
	under, far := tcp(t)
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	client := tls.Client(under, &tls.Config{RootCAs: roots, ServerName: "nats", MinVersion: tls.VersionTLS12})
	var group sync.WaitGroup
	group.Go(func() {
		for i := range 1000 {
			if _, err := fmt.Fprintf(client, "%d\n", i); err != nil {
				t.Error(err)
			}
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(server) // fails without the alert that ends it
	group.Wait()
	if err != nil || !bytes.HasSuffix(got, []byte("\n998\n999\n")) {
		t.Errorf("%d bytes arrived: %v", len(got), err)
	}
}

// What 32 writers pay for each message, beside a connection that sends each by
// itself.
func BenchmarkWrite(b *testing.B) {
	for _, together := range []bool{false, true} {
		b.Run(fmt.Sprintf("together=%t", together), func(b *testing.B) {
			conn, far := tcp(b)
			go func() { _, _ = io.Copy(io.Discard, far) }()
			var w io.Writer = conn
			if !together {
				w = conn.Conn
			}
			message := bytes.Repeat([]byte("x"), 500)
			b.SetBytes(int64(len(message)))
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := w.Write(message); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// pipe is a connection and its far end. It has no buffer of its own.
func pipe() (*Conn, net.Conn) {
	near, far := net.Pipe()
	return New(near), far
}

func tcp(t testing.TB) (*Conn, net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // of no use any more
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := New(near)
	t.Cleanup(func() { _, _ = conn.Close(), far.Close() })
	return conn, far
}

func write(t *testing.T, c *Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Errorf("%d bytes of %q written: %v", n, s, err)
	}
}

// fill writes until the next one has to wait, and tells how many bytes it took.
func fill(t *testing.T, c *Conn) (size int) {
	t.Helper()
	write(t, c, "x")
	synctest.Wait() // it is being sent
	for size = 1; size <= most; size += most / 8 {
		write(t, c, strings.Repeat("x", most/8))
	}
	return size
}

func closed(t *testing.T, c *Conn) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"nats"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
