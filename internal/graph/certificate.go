package graph

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"passcode-worker/internal/setting"
)

// certificate is a certificate with what is needed to use it.
type certificate struct {
	// chain begins with the certificate of the key; each next one certifies the
	// one before, as far as the file holds it.
	chain []*x509.Certificate
	key   *rsa.PrivateKey
}

// readCertificate reads a PEM or PFX file. Its errors say what is wrong with it
// and what to do; they quote nothing of the file.
func readCertificate(path, password string) (certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return certificate{}, err
	}
	if plain, ok := unwrapped(data); ok {
		data = plain
	}
	var certs []*x509.Certificate
	var key any
	if isDER(data) {
		certs, key, err = fromDER(path, data, password)
	} else {
		certs, key, err = fromPEM(path, data)
	}
	if err != nil {
		return certificate{}, fmt.Errorf("%s: %w", path, err)
	}
	c, err := match(certs, key)
	if err != nil {
		return certificate{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// match puts certificates of any order, and one key, together.
func match(certs []*x509.Certificate, key any) (certificate, error) {
	const both = "give one file with the certificate and its private key"
	switch {
	case len(certs) == 0 && key == nil:
		return certificate{}, errors.New("it holds neither a certificate nor a private key: " + both)
	case len(certs) == 0:
		return certificate{}, errors.New("it holds a private key, but no certificate: " + both)
	case key == nil:
		return certificate{}, errors.New("it holds a certificate, but no private key: " + both)
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return certificate{}, fmt.Errorf("its key is %s key: Entra accepts only RSA keys, so make a new certificate with an RSA key", keyName(key))
	}
	if bits := private.N.BitLen(); fips140.Enforced() && bits < 2048 {
		return certificate{}, fmt.Errorf("its RSA key has %d bits, and FIPS 140 requires 2048: make a new certificate with a longer key", bits)
	}
	var leaf *x509.Certificate
	var rest []*x509.Certificate
	for _, c := range certs {
		switch {
		case !private.PublicKey.Equal(c.PublicKey):
			rest = append(rest, c)
		case leaf == nil || c.NotAfter.After(leaf.NotAfter): // renewed with the same key
			leaf = c
		}
	}
	if leaf == nil {
		return certificate{}, errors.New("its private key does not belong to any of its certificates: check whether only one of the two was replaced")
	}
	chain := []*x509.Certificate{leaf}
	for {
		last := chain[len(chain)-1]
		i := slices.IndexFunc(rest, func(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, last.RawIssuer) })
		if i < 0 {
			break
		}
		chain, rest = append(chain, rest[i]), slices.Delete(rest, i, i+1)
	}
	return certificate{chain: append(chain, rest...), key: private}, nil
}

func keyName(key any) string {
	switch key.(type) {
	case *ecdsa.PrivateKey:
		return "an EC"
	case ed25519.PrivateKey:
		return "an Ed25519"
	}
	return "another sort of"
}

// isDER reports whether a file is binary: a sequence of ASN.1, as PFX files are.
func isDER(data []byte) bool {
	return len(data) > 1 && data[0] == 0x30 && data[1]&0x80 != 0 && !bytes.Contains(data, []byte("-----BEGIN "))
}

// unwrapped returns what a text of base64 and nothing else stands for, where that
// is a certificate's file: Azure Key Vault gives a PFX so, and so do the secret
// stores of build systems.
func unwrapped(data []byte) ([]byte, bool) {
	text, err := setting.Lines(data)
	if err != nil {
		return nil, false
	}
	plain, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
	return plain, err == nil && (isDER(plain) || bytes.Contains(plain, []byte("-----BEGIN ")))
}

func fromDER(path string, data []byte, password string) ([]*x509.Certificate, any, error) {
	if certs, err := x509.ParseCertificates(data); err == nil {
		return certs, nil, nil
	}
	if key, err := parseKey(data); err == nil {
		return nil, key, nil
	}
	asPEM := fmt.Sprintf("openssl pkcs12 -in %s -out app.pem -nodes", path)
	if fips140.Enforced() {
		return nil, nil, fmt.Errorf("it looks like a PFX file that uses algorithms forbidden by FIPS 140: convert it to PEM with %s", asPEM)
	}
	key, leaf, more, err := pkcs12.DecodeChain(data, password)
	switch {
	case err == nil:
		return append([]*x509.Certificate{leaf}, more...), key, nil
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && password == "":
		return nil, nil, fmt.Errorf("it is a PFX file with a password: give the password in AZURE_CLIENT_CERTIFICATE_PASSWORD, or convert the file to PEM with %s", asPEM)
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, nil, fmt.Errorf("AZURE_CLIENT_CERTIFICATE_PASSWORD is not the password of this PFX file: check whether %s accepts it", asPEM)
	}
	return nil, nil, fmt.Errorf("it is binary, but not a readable PFX file with one key: if it is a PFX file, convert it to PEM with %s", asPEM)
}

func fromPEM(path string, data []byte) (certs []*x509.Certificate, key any, err error) {
	rest, err := setting.Lines(data)
	if err != nil {
		return nil, nil, err
	}
	begun := bytes.Count(rest, []byte("-----BEGIN "))
	encrypted := fmt.Errorf("its private key is encrypted: remove the encryption with openssl pkey -in %s -out key.pem, and put the certificate and the key into one file", path)
	for n := 1; ; n++ {
		block, next := pem.Decode(rest)
		if block == nil {
			if n <= begun {
				return nil, nil, fmt.Errorf("%d of its %d PEM blocks are damaged: compare the file with the original", begun-n+1, begun)
			}
			return certs, key, nil
		}
		rest = next
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
			// OpenSSL's third label adds behind the certificate what it is trusted for.
			var first asn1.RawValue
			_, _ = asn1.Unmarshal(block.Bytes, &first) // what is none is empty, which is no certificate either
			c, err := x509.ParseCertificate(first.FullBytes)
			if err != nil {
				return nil, nil, fmt.Errorf("PEM block %d is labelled as a certificate but cannot be read as one", n)
			}
			certs = append(certs, c)
		case "PKCS7":
			return nil, nil, fmt.Errorf("its certificate is in PKCS #7 format: extract it with openssl pkcs7 -in %s -print_certs, and put the certificate and the key into one file", path)
		case "OPENSSH PRIVATE KEY":
			return nil, nil, errors.New("its private key is in OpenSSH format: convert a copy of it to PEM with ssh-keygen -p -m PEM -N '' -f FILE, and put the certificate and the key into one file")
		case "ENCRYPTED PRIVATE KEY":
			return nil, nil, encrypted
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, nil, encrypted
			}
			next, err := parseKey(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("PEM block %d is labelled as a private key but cannot be read as one: Entra accepts unencrypted RSA keys of at least 2048 bits", n)
			}
			if key != nil && !sameKey(key, next) {
				return nil, nil, errors.New("it holds more than one private key: keep only the key of the certificate")
			}
			key = next
		}
	}
}

// sameKey reports whether two keys are one, written twice.
func sameKey(a, b any) bool {
	k, ok := a.(interface{ Equal(crypto.PrivateKey) bool })
	return ok && k.Equal(b)
}

// parseKey reads a private key by what it is, not by its label: some tools write
// a PKCS #1 key as PRIVATE KEY, others a PKCS #8 key as RSA PRIVATE KEY.
func parseKey(der []byte) (any, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return x509.ParseECPrivateKey(der)
}

// doubt says whether the time for which a certificate is made is over, has not
// begun, or is about to end.
func (c certificate) doubt(now time.Time) (detail, do string) {
	leaf := c.chain[0]
	const renew = "make a new one, add it to the application's registration, then replace the file; no restart is needed"
	soon := min(certificateSoon, leaf.NotAfter.Sub(leaf.NotBefore)/10) // some live for hours only
	switch {
	case now.After(leaf.NotAfter):
		return "the certificate expired at " + leaf.NotAfter.UTC().Format(time.RFC3339), renew
	case now.Before(leaf.NotBefore):
		return "the certificate is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339), "check the clock of this machine"
	case now.Add(soon).After(leaf.NotAfter):
		return "the certificate expires at " + leaf.NotAfter.UTC().Format(time.RFC3339), renew
	}
	return "", ""
}

// certificateSoon is how long before its end a certificate is warned of.
const certificateSoon = 14 * 24 * time.Hour
