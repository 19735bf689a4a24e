package graph

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"software.sslmate.com/src/go-pkcs12"

	"passcode-worker/internal/graph/graphsim"
)

// issued is a certificate for a key, signed by another.
func issued(t testing.TB, name string, from, to time.Time, key any, parent *x509.Certificate, by *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pem1(c *x509.Certificate) string { return block("CERTIFICATE", c.Raw) }

func pfx(t testing.TB, how *pkcs12.Encoder, password string, key any, c *x509.Certificate, more ...*x509.Certificate) string {
	t.Helper()
	data, err := how.Encode(key, c, more, password)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// lines breaks a text as base64 and certutil do.
func lines(s string) string {
	var b strings.Builder
	for part := range slices.Chunk([]byte(s), 64) {
		b.Write(part)
		b.WriteString("\r\n")
	}
	return b.String()
}

// TestCertificateForms gets a token with each form of a file that tools write.
func TestCertificateForms(t *testing.T) {
	t.Parallel()
	k := keys()
	root, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	authority := issued(t, "root", from, to, root.Public(), nil, root)
	leaf := issued(t, "leaf", from, to, k.rsa.Public(), authority, root)
	older := issued(t, "leaf", from, to.Add(-time.Minute), k.rsa.Public(), authority, root)
	s := simulate(t, graphsim.Config{ClientCert: leaf})
	pkcs1 := x509.MarshalPKCS1PrivateKey(k.rsa)
	der8, err := x509.MarshalPKCS8PrivateKey(k.rsa)
	if err != nil {
		t.Fatal(err)
	}
	const bag = "Bag Attributes\n    localKeyID: 54 69 6D 65 20 31\n    friendlyName: \xC3\xBCber\nsubject=CN = leaf\n"
	for name, c := range map[string]struct{ text, password string }{
		"PKCS #1":                           {text: pem1(leaf) + block("RSA PRIVATE KEY", pkcs1)},
		"PKCS #1 labelled as PKCS #8":       {text: pem1(leaf) + block("PRIVATE KEY", pkcs1)},
		"PKCS #8 labelled as PKCS #1":       {text: pem1(leaf) + block("RSA PRIVATE KEY", der8)},
		"mark":                              {text: "\uFEFF" + pem1(leaf) + pkcs8(k.rsa)},
		"mark before each part":             {text: "\uFEFF" + pem1(leaf) + "\uFEFF" + pkcs8(k.rsa)},
		"the key twice":                     {text: pem1(leaf) + pkcs8(k.rsa) + block("RSA PRIVATE KEY", pkcs1)},
		"OpenSSL's trusted certificate":     {text: block("TRUSTED CERTIFICATE", append(slices.Clone(leaf.Raw), 0x30, 0)) + pkcs8(k.rsa)},
		"PFX as Key Vault gives it":         {text: base64.StdEncoding.EncodeToString([]byte(pfx(t, pkcs12.Modern2023, "", k.rsa, leaf)))},
		"PFX in lines of base64":            {text: "\uFEFF" + lines(base64.StdEncoding.EncodeToString([]byte(pfx(t, pkcs12.Modern2023, "hunter2", k.rsa, leaf)))), password: "hunter2"},
		"PEM in base64":                     {text: base64.StdEncoding.EncodeToString([]byte(pem1(leaf) + pkcs8(k.rsa)))},
		"root, leaf, key":                   {text: pem1(authority) + pem1(leaf) + pkcs8(k.rsa)},
		"key, root, leaf":                   {text: pkcs8(k.rsa) + pem1(authority) + pem1(leaf)},
		"bag attributes and line breaks":    {text: strings.ReplaceAll(bag+pkcs8(k.rsa)+bag+pem1(leaf)+bag+pem1(authority), "\n", "\r\n")},
		"renewed with the same key":         {text: pem1(leaf) + pem1(older) + pkcs8(k.rsa)},
		"renewed, the older one first":      {text: pem1(older) + pem1(leaf) + pkcs8(k.rsa)},
		"PFX":                               {text: pfx(t, pkcs12.Modern2023, "pa ss", k.rsa, leaf, authority), password: " pa ss\n"},
		"PFX of old tools":                  {text: pfx(t, pkcs12.LegacyRC2, "hunter2", k.rsa, leaf), password: "hunter2"},
		"PFX without a password":            {text: pfx(t, pkcs12.Modern2023, "", k.rsa, leaf)},
		"PFX without encryption":            {text: pfx(t, pkcs12.Passwordless, "", k.rsa, leaf)},
		"PFX with the root before the leaf": {text: pfx(t, pkcs12.Modern2023, "", k.rsa, authority, leaf)},
		"PEM with a password not needed":    {text: pem1(leaf) + pkcs8(k.rsa), password: "x"},
	} {
		cred := simCredential(s)
		cred.Secret, cred.CertificatePath, cred.CertificatePassword = "", file(t, c.text), c.password
		if err := cred.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := acquire(t, cred, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if detail, do := cred.Doubt(); detail+do != "" {
			t.Errorf("%s: %s", name, detail)
		}
	}
	sorted, err := match([]*x509.Certificate{k.ecc, authority, older, leaf}, k.rsa)
	if err != nil || !slices.Equal(sorted.chain, []*x509.Certificate{leaf, authority, k.ecc}) {
		t.Errorf("the chain is %v, %v", sorted.chain, err)
	}
}

// TestCertificateCauses tells each fault of a file in its own words, and quotes
// nothing of it.
func TestCertificateCauses(t *testing.T) {
	t.Parallel()
	k := keys()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := pem1(k.cert), pkcs8(k.rsa)
	legacy := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("x")})
	wide := "\xFF\xFE"
	for _, u := range utf16.Encode([]rune(cert + key)) {
		wide += string([]byte{byte(u), byte(u >> 8)})
	}
	private := pfx(t, pkcs12.Modern2023, "hunter2", k.rsa, k.cert)
	for name, c := range map[string]struct{ text, password, want string }{
		"legacy encryption":   {cert + string(legacy), "", "its private key is encrypted: remove the encryption with openssl pkey -in "},
		"Ed25519":             {cert + pkcs8(edwards), "", "its key is an Ed25519 key"},
		"two keys":            {cert + key + pkcs8(k.ec), "", "more than one private key"},
		"damaged key":         {cert + strings.Replace(key, "A", "!", 5), "", "1 of its 2 PEM blocks are damaged"},
		"cut off":             {cert + key[:len(key)-40], "", "1 of its 2 PEM blocks are damaged"},
		"no certificate":      {block("CERTIFICATE", k.cert.Raw[:50]) + key, "", "PEM block 1 is labelled as a certificate"},
		"UTF-16":              {wide, "", "UTF-16"},
		"base64 alone":        {base64.StdEncoding.EncodeToString(k.cert.Raw), "", "a certificate, but no private key"},
		"base64 of a text":    {base64.StdEncoding.EncodeToString([]byte("what no program would take for a certificate")), "", "neither a certificate nor a private key"},
		"OpenSSH's key":       {cert + block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1")), "", "OpenSSH format"},
		"PKCS #7":             {block("PKCS7", k.cert.Raw) + key, "", "openssl pkcs7 -in "},
		"a key of no use":     {cert + block("PRIVATE KEY", []byte("0123456789")), "", "Entra accepts unencrypted RSA keys"},
		"PFX, no password":    {private, "", "it is a PFX file with a password: give the password in AZURE_CLIENT_CERTIFICATE_PASSWORD, or convert the file to PEM with openssl pkcs12 -in "},
		"PFX, wrong password": {private, "hunter3", "AZURE_CLIENT_CERTIFICATE_PASSWORD is not the password of this PFX file"},
		"PFX, cut off":        {private[:len(private)/2], "hunter2", "convert it to PEM with openssl pkcs12 -in "},
		"PFX, EC key":         {pfx(t, pkcs12.Modern2023, "", k.ec, k.ecc), "", "its key is an EC key"},
		"PFX, another key":    {pfx(t, pkcs12.Modern2023, "", k.rsa, k.ecc), "", "does not belong to any of its certificates"},
		"PFX of certificates": {string(must(pkcs12.Modern2023.EncodeTrustStore([]*x509.Certificate{k.cert}, ""))), "", "not a readable PFX file with one key"},
		"key in DER":          {string(x509.MarshalPKCS1PrivateKey(k.rsa)), "", "a private key, but no certificate"},
		"password of control": {cert + key, "hunter\x01", "AZURE_CLIENT_CERTIFICATE_PASSWORD: it holds a control character"},
	} {
		cred := Credential{CertificatePath: file(t, c.text), CertificatePassword: c.password}
		err := cred.Check()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
			continue
		}
		if strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), c.text[len(c.text)/3:len(c.text)/3+16]) {
			t.Errorf("%s: quoted: %v", name, err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestCertificateTimes warns of a certificate whose time is over, has not begun
// or is about to end; it can be used all the same, as far as the file goes.
func TestCertificateTimes(t *testing.T) {
	t.Parallel()
	k := keys()
	now := time.Now()
	const year = 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		from, to time.Duration
		want     string
	}{
		"over":            {-year, -time.Hour, "AZURE_CLIENT_CERTIFICATE_PATH: the certificate expired at "},
		"not yet":         {time.Hour, year, "AZURE_CLIENT_CERTIFICATE_PATH: the certificate is not valid before "},
		"about to end":    {-year, 13 * 24 * time.Hour, "AZURE_CLIENT_CERTIFICATE_PATH: the certificate expires at "},
		"long yet":        {-year, 15 * 24 * time.Hour, ""},
		"short, long yet": {-time.Hour, time.Hour, ""},
		"short":           {-time.Hour, time.Minute, "AZURE_CLIENT_CERTIFICATE_PATH: the certificate expires at "},
	} {
		cred := Credential{CertificatePath: file(t, pem1(issued(t, "leaf", now.Add(c.from), now.Add(c.to), k.rsa.Public(), nil, k.rsa))+pkcs8(k.rsa))}
		if err := cred.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		detail, do := cred.Doubt()
		if c.want == "" && detail == "" {
			continue
		}
		if c.want == "" || !strings.HasPrefix(detail, c.want) || do == "" {
			t.Errorf("%s: %q, %q", name, detail, do)
		}
	}
}

// FuzzCertificate reads any PEM file without a panic. (How long a PFX file takes
// to decrypt is said in it, so those are not tried.)
func FuzzCertificate(f *testing.F) {
	k := keys()
	f.Add([]byte(pem1(k.cert) + pkcs8(k.rsa)))
	f.Add([]byte("\uFEFF" + pkcs8(k.ec) + pem1(k.ecc)))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, key, err := fromPEM("file", data)
		if err != nil {
			return
		}
		if c, err := match(certs, key); err == nil && (len(c.chain) == 0 || !c.key.PublicKey.Equal(c.chain[0].PublicKey)) {
			t.Error("taken without a certificate of its key")
		}
	})
}
