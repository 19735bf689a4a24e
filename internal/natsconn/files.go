package natsconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"passcode-worker/internal/setting"
)

// What the library has for these files takes a byte order mark for a part of the
// key or certificate. Each file is read again for each connection.

// Authorities is the option that trusts the certificates in a PEM file.
func Authorities(path string) nats.Option {
	read := func() (*x509.CertPool, error) {
		data, err := readLines(path)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s holds no certificate", path)
		}
		return pool, nil
	}
	return func(o *nats.Options) error {
		if _, err := read(); err != nil {
			return err
		}
		o.RootCAsCB = read
		return secure(o)
	}
}

// Certificate is the option that presents a client certificate.
func Certificate(certPath, keyPath string) nats.Option {
	read := func() (tls.Certificate, error) {
		cert, err := readLines(certPath)
		if err != nil {
			return tls.Certificate{}, err
		}
		key, err := readLines(keyPath)
		if err != nil {
			return tls.Certificate{}, err
		}
		return tls.X509KeyPair(cert, key)
	}
	return func(o *nats.Options) error {
		if _, err := read(); err != nil {
			return err
		}
		o.TLSCertCB = read
		return secure(o)
	}
}

func secure(o *nats.Options) error {
	if o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	o.Secure = true
	return nil
}

// Key is the option that answers the server's challenge with the seed in a file.
func Key(path string) (nats.Option, error) {
	read := func() (nkeys.KeyPair, error) {
		data, err := readLines(path)
		if err != nil {
			return nil, err
		}
		return nkeys.ParseDecoratedUserNKey(data)
	}
	pair, err := read()
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil {
		return nil, errors.New("the seed has no public key")
	}
	return nats.Nkey(public, func(nonce []byte) ([]byte, error) {
		pair, err := read()
		if err != nil {
			return nil, fmt.Errorf("NATS_NKEY: %w", err)
		}
		defer pair.Wipe()
		return pair.Sign(nonce)
	}), nil
}

func readLines(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	data, err = setting.Lines(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
