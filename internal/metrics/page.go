package metrics

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the parts of the page
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
	"time"
)

// The page is one document that loads nothing from elsewhere.
var (
	//go:embed page/page.html
	pageHTML string
	//go:embed page/page.css
	pageCSS string
	//go:embed page/page.js
	pageJS string
)

// maxFilter bounds the tenant name that is searched for, in bytes.
const maxFilter = 256

// statusPage serves the page for people at /.
type statusPage struct {
	metrics  *Metrics
	state    func() State
	template *template.Template
	policy   string // Content-Security-Policy
}

func newStatusPage(m *Metrics, state func() State) *statusPage {
	return &statusPage{
		metrics:  m,
		state:    state,
		template: template.Must(template.New("page").Parse(pageHTML)),
		// Whatever markup a text from outside may smuggle in, only this style and this
		// script take effect.
		policy: "default-src 'none'; style-src " + hashOf(pageCSS) + "; script-src " + hashOf(pageJS) +
			"; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	}
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (p *statusPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	filter := clip(r.URL.Query().Get("tenant"), maxFilter)
	at := time.Now()
	var body bytes.Buffer
	err := p.template.Execute(&body, struct {
		view
		CSS template.CSS
		JS  template.JS
	}{newView(p.state(), p.metrics, filter, at), template.CSS(pageCSS), template.JS(pageJS)})
	if err != nil { // only a fault of the template does this
		http.Error(w, "status page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	_, _ = w.Write(body.Bytes()) // a client that left is nobody's problem
}
