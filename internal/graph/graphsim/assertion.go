package graphsim

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// skew is how far the two clocks may be apart.
const skew = 5 * time.Minute

// checkAssertion checks a JWT that a client signed with its certificate's key:
// RFC 7523, with the two algorithms that Entra accepts for RSA keys.
func checkAssertion(text string, cert *x509.Certificate, clientID string, audiences []string, now time.Time) *entraError {
	refuse := func(code int, why string) *entraError {
		return &entraError{http.StatusUnauthorized, "invalid_client", code, why}
	}
	if cert == nil {
		return refuse(700027, "The certificate with the identifier used to sign the client assertion is not registered on the application.")
	}
	part := strings.Split(text, ".")
	if len(part) != 3 {
		return refuse(50027, "JWT token is invalid or malformed.")
	}
	var header struct {
		Alg        string `json:"alg"`
		Thumbprint string `json:"x5t#S256"`
	}
	var claims struct {
		Audience  string  `json:"aud"`
		Issuer    string  `json:"iss"`
		Subject   string  `json:"sub"`
		ID        string  `json:"jti"`
		Expires   float64 `json:"exp"`
		NotBefore float64 `json:"nbf"`
	}
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil || decodePart(part[0], &header) != nil || decodePart(part[1], &claims) != nil {
		return refuse(50027, "JWT token is invalid or malformed.")
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	thumbprint := sha256.Sum256(cert.Raw)
	// RFC 7515 says base64url, MSAL for Go writes plain base64; Entra takes both.
	named := strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(header.Thumbprint)
	if !ok || named != "" && named != base64.RawURLEncoding.EncodeToString(thumbprint[:]) {
		return refuse(700027, "The certificate with the identifier used to sign the client assertion is not registered on the application.")
	}
	digest := sha256.Sum256([]byte(part[0] + "." + part[1]))
	switch header.Alg {
	case "PS256":
		err = rsa.VerifyPSS(key, crypto.SHA256, digest[:], signature, nil)
	case "RS256":
		err = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature)
	default:
		return refuse(5002738, "The algorithm of the client assertion is neither PS256 nor RS256.")
	}
	switch {
	case err != nil:
		return refuse(700027, "Client assertion failed signature validation.")
	case !slices.ContainsFunc(audiences, func(a string) bool { return strings.EqualFold(a, claims.Audience) }):
		return refuse(700023, "Client assertion audience claim does not match Realm issuer.")
	case !strings.EqualFold(claims.Issuer, clientID) || claims.Issuer != claims.Subject:
		return refuse(700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
	case claims.ID == "":
		return refuse(50027, "JWT token is invalid or malformed: no jti.")
	case now.Unix() >= int64(claims.Expires), now.Add(skew).Unix() < int64(claims.NotBefore):
		return refuse(700024, "Client assertion is not within its valid time range.")
	}
	return nil
}

func decodePart(part string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
