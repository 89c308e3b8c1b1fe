package schema

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Server is a ClickHouse server, or the embedded engine, as all rooms see it: an HTTP interface, a database and who we are.
type Server struct {
	URL      string // http://host:8123 or https://host:8443; a path before the query is kept (a proxy may want one)
	Database string
	User     string // "" means default
	Password string
	TLS      *tls.Config // for https; nil means the system's roots
}

// DefaultDatabase is the database where nothing else is configured.
const DefaultDatabase = "tributary"

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// ParseServer reads http[s]://[user[:password]@]host[:port][/[database]].
func ParseServer(raw string) (Server, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return Server{}, errors.New("a ClickHouse server is written http://[user:password@]host:8123[/database], or https://")
	}
	s := Server{Database: DefaultDatabase, User: u.User.Username()}
	s.Password, _ = u.User.Password()
	if db := strings.Trim(u.Path, "/"); db != "" {
		s.Database = db
	}
	if u.Port() == "" {
		u.Host += map[string]string{"http": ":8123", "https": ":8443"}[u.Scheme]
	}
	s.URL = u.Scheme + "://" + u.Host
	return s, s.Check()
}

// Check reports what cannot be used, without asking the server.
func (s Server) Check() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return errors.New("the URL of the ClickHouse server must be http://host:port or https://host:port")
	}
	if u.User != nil {
		return errors.New("the URL of the ClickHouse server must not contain the password; it has a setting of its own")
	}
	if !identifier.MatchString(s.Database) {
		return fmt.Errorf("%q cannot be the name of a database: letters, digits and _ are allowed", s.Database)
	}
	return nil
}

// Loopback reports whether the server is reached without a network: then bytes are cheap and compression is not.
func (s Server) Loopback() bool {
	u, err := url.Parse(s.URL)
	if err != nil {
		return false
	}
	host := u.Hostname()
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.")
}

// Authorize sets the headers by which ClickHouse knows who asks.
func (s Server) Authorize(r *http.Request) {
	if s.User != "" {
		r.Header.Set("X-ClickHouse-User", s.User)
		r.Header.Set("X-ClickHouse-Key", s.Password)
	}
}

// Transport returns an HTTP transport of its own for the server: at most conns connections, kept open, and never through a proxy that
// the environment names for other things when the server is on this host.
func (s Server) Transport(conns int) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost = conns, conns
	t.TLSClientConfig = s.TLS.Clone()
	t.DisableCompression = true
	t.WriteBufferSize = 256 << 10
	if s.Loopback() {
		t.Proxy = nil
	}
	return t
}
